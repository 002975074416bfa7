"""The small text encoders of the embedded model, as a stock CLIP."""

from __future__ import annotations

import folder_paths
from comfy_api.latest import io

from ..model_patches.encoders.mini_text import load_mini_clip, stated_family
from ..model_patches.files.header import best_first
from ..model_patches.files.tensor_file import digest


class FlexIDLoadMiniTextEncoder(io.ComfyNode):
    """Opens the T5 and CLIP-L of the embedded model."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        t5, clip_l = (_best_first(family) for family in ("t5xxl", "clip_l"))
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
                    options=t5,
                    tooltip="Small T5 file from models/text_encoders, with its size in the "
                    "metadata. No neutral value: it must be a T5.",
                ),
                io.Combo.Input(
                    "clip_l",
                    options=clip_l,
                    tooltip="Small CLIP-L file from models/text_encoders, with its size in the "
                    "metadata. No neutral value: it must be a CLIP-L.",
                ),
            ],
            outputs=[io.Clip.Output(tooltip="Both encoders, for any text encode node of FLUX.")],
        )

    @classmethod
    def fingerprint_inputs(cls, t5: str, clip_l: str) -> list[str]:
        return [digest(_text_encoder_path(name)) for name in (t5, clip_l)]

    @classmethod
    def execute(cls, t5: str, clip_l: str) -> io.NodeOutput:
        return io.NodeOutput(load_mini_clip(_text_encoder_path(t5), _text_encoder_path(clip_l)))


def _best_first(family: str) -> list[str]:
    """All text encoders, a small one of this family in front."""
    return best_first(
        folder_paths.get_filename_list("text_encoders"),
        lambda name: folder_paths.get_full_path("text_encoders", name) or "",
        [lambda header: stated_family(header.metadata) == family],
    )


def _text_encoder_path(name: str) -> str:
    """The file behind a name. Raises FileNotFoundError: linked inputs pass the combo's check."""
    files = folder_paths.get_filename_list("text_encoders")
    if name not in files:
        raise FileNotFoundError(
            f"{name!r} is not among the {len(files)} files in models/text_encoders. Put it there "
            "and press R, or choose another file."
        )
    return folder_paths.get_full_path_or_raise("text_encoders", name)


NODES = [FlexIDLoadMiniTextEncoder]
