"""Sizes of the small world's motion editor, whose tokens it is for, and its words."""

from __future__ import annotations

from pathlib import Path

from ..model_patches.adapters.imr_nets import ImrDims
from ..model_patches.adapters.imr_settings import ImrSettings
from ..model_patches.adapters.pulid_flux import FAMILY, open_adapter_file
from ..model_patches.face.landmark_pose import FIVE
from .random_text import CLIP_CONFIG

DIMS = ImrDims(
    width=256,
    dim=192,
    inner=192,
    hidden=576,
    depth=2,
    landmarks=64,
    text=CLIP_CONFIG["hidden_size"],
    motion=4,
    fused=192,
)
WIDTHS = (4, 8, 16, 24, 32, 48, 64)
"""Channels of the keypoint encoder's blocks."""
_NAMES = {"fearful": "afraid"}


def expression_in_pack(name: str) -> str:
    """What the pack calls an expression of the renderer."""
    return _NAMES.get(name, name)


def settings_for(adapter: Path, text_encoder: str) -> ImrSettings:
    """For the tokens of this adapter's file. text_encoder: the CLIP-L file's name.

    Raises FileNotFoundError or ValueError as `open_adapter_file` does.
    """
    return ImrSettings(
        family=FAMILY,
        encoder=open_adapter_file(adapter).encoder_digest,
        adapter=adapter.name,
        text_encoder=text_encoder,
        text=DIMS.text,
        points=FIVE,
    )
