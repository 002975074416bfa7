"""Sample, and see where each person of Apply SAA draws attention."""

from comfy_api.latest import io
from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced

from ..model_patches.inject.saa_sheet import draw_sheet
from ..model_patches.inject.saa_watch import ActivationWatch, watch_guider
from .dynamicid import ALIASES
from .identity import preview_both

MOST_COLUMNS = 50


class FlexIDSampleWithActivationMaps(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDSampleWithActivationMaps",
            display_name="Sample with Activation Maps",
            category="FlexID/inject",
            description="Samples exactly as core's SamplerCustomAdvanced does, and also shows "
            "where each person of Apply SAA drew attention, and when.",
            search_aliases=[*ALIASES, "attention map", "heatmap", "saa", "debug", "sampler"],
            inputs=[
                io.Noise.Input("noise", tooltip="From Random Noise."),
                io.Guider.Input(
                    "guider",
                    tooltip="From CFG Guider or another guider, with Apply SAA's model.",
                ),
                io.Sampler.Input("sampler", tooltip="From Sampler Select."),
                io.Sigmas.Input("sigmas", tooltip="From Basic Scheduler."),
                io.Latent.Input("latent_image", tooltip="From Empty Latent Image."),
                io.Int.Input(
                    "columns",
                    default=6,
                    min=1,
                    max=MOST_COLUMNS,
                    tooltip="Moments of the run to look at, evenly spaced; as many as there are "
                    "steps shows every step. It cannot be 0.",
                ),
            ],
            outputs=[
                io.Latent.Output("latent", tooltip="As SamplerCustomAdvanced makes it."),
                io.Latent.Output("denoised"),
                io.Image.Output(
                    "maps",
                    tooltip="A sheet for each picture: a row for each person, a column for each "
                    "moment. All share one scale.",
                ),
                io.String.Output("report"),
            ],
        )

    @classmethod
    def execute(cls, noise, guider, sampler, sigmas, latent_image, columns: int) -> io.NodeOutput:
        watch = ActivationWatch(columns)
        watched = watch_guider(guider, watch)
        sampled = SamplerCustomAdvanced.execute(noise, watched, sampler, sigmas, latent_image)
        sheet, report = draw_sheet(watch)
        shown = preview_both(cls, sheet, report)
        return io.NodeOutput(sampled[0], sampled[1], sheet, report, ui=shown)


NODES = [FlexIDSampleWithActivationMaps]
