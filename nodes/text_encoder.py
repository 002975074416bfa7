"""The small text encoders of the embedded model, as a stock CLIP."""

from __future__ import annotations

import folder_paths
from comfy_api.latest import io

from ..model_patches.encoders.mini_text import load_mini_clip


class FlexIDLoadMiniTextEncoder(io.ComfyNode):
    """Opens the T5 and CLIP-L of the embedded model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        files = folder_paths.get_filename_list("text_encoders")
        return io.Schema(
            node_id="FlexIDLoadMiniTextEncoder",
            display_name="Load Mini Text Encoder",
            category="FlexID/loaders",
            description="Loads the small T5 and CLIP-L of the embedded demo model as a FLUX CLIP. "
            "For real files use DualCLIPLoader.",
            search_aliases=["mini clip", "demo text encoder", "small t5"],
            is_experimental=True,
            inputs=[
                io.Combo.Input(
                    "t5",
                    options=files,
                    tooltip="Small T5 file from models/text_encoders, with its size in the "
                    "metadata. No neutral value: it must be a T5.",
                ),
                io.Combo.Input(
                    "clip_l",
                    options=files,
                    tooltip="Small CLIP-L file from models/text_encoders, with its size in the "
                    "metadata. No neutral value: it must be a CLIP-L.",
                ),
            ],
            outputs=[io.Clip.Output(tooltip="Both encoders, for any text encode node of FLUX.")],
        )

    @classmethod
    def execute(cls, t5: str, clip_l: str) -> io.NodeOutput:
        paths = [folder_paths.get_full_path_or_raise("text_encoders", n) for n in (t5, clip_l)]
        return io.NodeOutput(load_mini_clip(*paths))


NODES = [FlexIDLoadMiniTextEncoder]
