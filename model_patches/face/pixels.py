"""ComfyUI IMAGE tensors -> 8-bit RGB arrays, and their content hash."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor

ROWS = 512
"""Rows converted at a time: an 8k photo then needs no second float copy of itself."""


def check_images(images: Tensor) -> None:
    """Raise ValueError unless `images` is a float IMAGE batch (B, H, W, C), C in 1..4, not empty.

    The pixels themselves are checked by `to_uint8`.
    """
    if not isinstance(images, Tensor):
        raise ValueError(
            f"expected an IMAGE tensor (B, H, W, C), got {type(images).__name__}; connect the "
            "IMAGE output of Load Image"
        )
    shape = tuple(images.shape)
    if images.ndim != 4 or not 1 <= shape[3] <= 4:
        raise ValueError(
            f"expected an IMAGE of shape (batch, height, width, 1 to 4 channels), got {shape}; "
            "connect the IMAGE output of Load Image"
        )
    if 0 in shape:
        raise ValueError(f"the image batch is empty: shape {shape}; connect at least one photo")
    if not images.is_floating_point():
        raise ValueError(
            f"expected a float IMAGE with values 0 to 1, got {images.dtype}; divide by 255 first"
        )


def to_uint8(image: Tensor, photo: int = 0) -> np.ndarray:
    """One IMAGE (H, W, C) of floats in 0..1 -> (H, W, 3) uint8 RGB.

    Rounds to nearest: a picture that was 8 bits comes back exactly, and a resampled one keeps
    its mean. (Existing packs truncate, which darkens by half a level on average.) Values outside
    0..1, the overshoot of resamplers, are clamped. Grey is copied to three channels; a photo with
    alpha (2 or 4 channels, 1 = opaque) is laid over white, the colour PuLID gives to background.

    Raises ValueError for NaN or infinity, naming the photo; `photo` is its index in the batch.
    """
    height, width, _ = image.shape
    result = np.empty((height, width, 3), np.uint8)
    for top in range(0, height, ROWS):
        block = image[top : top + ROWS].detach().to("cpu", torch.float32)
        if not torch.isfinite(block).all():
            raise ValueError(
                f"photo {photo + 1} ({width}x{height}) contains NaN or infinite pixels; the step "
                "before failed (often a VAE in fp16): repair it, or connect another photo"
            )
        result[top : top + ROWS] = _block_to_uint8(block)
    return result


def _block_to_uint8(block: Tensor) -> np.ndarray:
    colour = block.clamp(0, 1)
    if block.shape[2] in (2, 4):
        alpha = colour[..., -1:]
        colour = colour[..., :-1] * alpha + (1 - alpha)
    return colour.mul(255).round().to(torch.uint8).expand(-1, -1, 3).numpy()


def photo_hash(rgb: np.ndarray) -> str:
    """SHA-256 hex digest of the 8-bit pixels (H, W, 3) and their shape."""
    digest = hashlib.sha256(repr(rgb.shape).encode())
    digest.update(np.ascontiguousarray(rgb).data)
    return digest.hexdigest()
