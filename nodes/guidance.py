"""Apply Reference Guidance: how much a model follows its reference pictures."""

from comfy_api.latest import io, ui

from ..model_patches.gates.gate import OPEN
from ..model_patches.inject.drawn_boxes import region_from
from ..model_patches.inject.guidance.apply import ALL, LABEL, METHODS, apply_reference_guidance
from . import types
from .types import Number

REFERENCES = ("all", "1", "2", "3", "4")


class FlexIDApplyReferenceGuidance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDApplyReferenceGuidance",
            display_name="Apply Reference Guidance",
            category="FlexID/inject",
            description="For models that take reference pictures (Flux Kontext, FLUX.2, "
            "Qwen-Image-Edit, Krea 2, OmniGen2): how much the picture follows them, where, and "
            "when. Needs no extra weights. Use it once for each reference that gets a weight of "
            "its own.",
            search_aliases=["kontext", "reference", "qwen edit", "flux2", "identity", "strength"],
            inputs=[
                io.Model.Input("model", tooltip="Only the returned model is patched."),
                io.Conditioning.Input(
                    "conditioning",
                    tooltip="The positive prompt, behind Reference Latent or the model's own edit "
                    "node.",
                ),
                Number(
                    "weight",
                    default=1.0,
                    min=0.0,
                    max=3.0,
                    step=0.05,
                    tooltip="0: as if there were no reference; 1: the model as it is, at no cost; "
                    "above 1: follows it more closely. Any weight but 0 and 1 takes a second "
                    "prediction for each step.",
                ),
                io.Combo.Input(
                    "reference",
                    options=list(REFERENCES),
                    default="all",
                    tooltip="Which reference this is for, in the order of the Reference Latent "
                    "nodes. all: every one without a setting of its own.",
                ),
                io.Combo.Input(
                    "method",
                    options=list(METHODS),
                    default=METHODS[0],
                    tooltip="two predictions: linear in the weight. attention: weighs the "
                    "reference's keys in one prediction; the ends are the same, between them the "
                    "effect is not linear; no mask.",
                ),
                io.Int.Input(
                    "every",
                    default=1,
                    min=1,
                    max=8,
                    tooltip="The effect of the references is predicted in every n-th step and "
                    "reused in between, where one prediction is enough. 2 costs 1.5 predictions "
                    "for each step on average. It has no effect at weight 0 and 1.",
                ),
                types.Gate.Input(
                    "gate",
                    optional=True,
                    tooltip="A weight over time that multiplies weight. Not connected: constant.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where in the picture the reference counts: 1 here, 0 not here. Not "
                    "connected: everywhere.",
                ),
                io.Conditioning.Input(
                    "without",
                    optional=True,
                    tooltip="The same prompt encoded without pictures, for models whose text "
                    "encoder sees the pictures, too (Qwen-Image-Edit). Not connected: the text "
                    "keeps what it saw.",
                ),
                types.Elements.Input(
                    "elements",
                    optional=True,
                    tooltip="In place of a mask: the output elements of core's Create Bounding "
                    "Boxes, with one box.",
                ),
            ],
            outputs=[
                io.Model.Output("model_out", display_name="model"),
                io.Conditioning.Output("conditioning_out", display_name="conditioning"),
                io.String.Output("report"),
            ],
        )

    @classmethod
    def execute(
        cls,
        model,
        conditioning,
        weight,
        reference,
        method,
        every,
        gate=OPEN,
        mask=None,
        without=None,
        elements=None,
    ) -> io.NodeOutput:
        guided = apply_reference_guidance(
            model,
            conditioning,
            weight=weight,
            gate=gate,
            region=region_from(mask, elements, LABEL),
            reference=ALL if reference == "all" else int(reference),
            without=without,
            method=method,
            every=every,
        )
        return io.NodeOutput(
            guided.model,
            guided.conditioning,
            guided.report,
            ui=ui.PreviewText(guided.report),
        )


NODES = [FlexIDApplyReferenceGuidance]
