"""The subject of a picture on black, cut out by ComfyUI's own BiRefNet: what FlexIP compares."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from .pixels import keep_masked

SUBJECT_FILE = "birefnet.safetensors"
SUBJECT_ADVICE = f"{SUBJECT_FILE} of huggingface.co/Comfy-Org/BiRefNet"
SUBJECT_KEY = "bb.layers.1.blocks.0.attn.relative_position_index"
"""By this key ComfyUI tells the file."""
INSIDE = 0.5
"""From this share on, a pixel belongs to the subject."""


def can_cut() -> bool:
    """Whether this ComfyUI has Remove Background."""
    try:
        import comfy.bg_removal_model  # noqa: F401
    except ImportError:
        return False
    return True


def open_remover(path: Path) -> Any:
    """comfy.bg_removal_model.BackgroundRemovalModel. Raises ValueError for another file."""
    import comfy.bg_removal_model

    remover = comfy.bg_removal_model.load(str(path))
    if remover is None:
        raise ValueError(f"{path.name} does not hold {SUBJECT_KEY}; get {SUBJECT_ADVICE}")
    return remover


def cut_subject(remover: Any, picture: np.ndarray) -> np.ndarray | None:
    """(H, W, 3) uint8 RGB -> the same with all but the subject black; None without a subject."""
    pixels = torch.from_numpy(picture)
    with torch.no_grad():
        mask = remover.encode_image(pixels[None].float() / 255)[0].float().cpu() >= INSIDE
    return keep_masked(pixels, mask).numpy() if mask.any() else None
