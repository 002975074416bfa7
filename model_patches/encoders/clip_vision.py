"""ComfyUI's own vision encoders (CLIP_VISION), as IP-Adapter and FlexIP read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import comfy.clip_model
import comfy.model_management
import numpy as np
import torch
from PIL import Image
from torch import Tensor

CLIP, DINO = "clip_vision_model", "dinov2"
CLIP_SIZE = 224
"""Pixels a side of what the CLIP encoders of IP-Adapter see."""


@dataclass(frozen=True, eq=False)
class Look:
    """What an encoder saw on each picture. CPU float32."""

    pooled: Tensor
    """(B, E): CLIP's projected class token; DINOv2's class token."""
    patches: Tensor
    """(B, 1 + T, W): CLIP's last layer but one, DINOv2's last; the class token comes first."""


def check_vision(vision: Any, kind: str, place: str) -> None:
    """Raise ValueError unless a CLIP_VISION is of that kind. place: the input, for messages."""
    found = getattr(vision, "model_type", type(vision).__name__)
    if found != kind:
        names = {CLIP: "a CLIP encoder", DINO: "a DINOv2 encoder"}
        raise ValueError(
            f"The {place} input got {names.get(found, found)}, expected {names[kind]}. Swap the "
            "two vision inputs, or load the right file with Load CLIP Vision."
        )


def look(vision: Any, pictures: Tensor, size: int) -> Look:
    """pictures (B, H, W, 3) in [0, 1]: the shorter side is scaled to `size`, the middle is cut."""
    pixels = comfy.clip_model.clip_preprocess(
        pictures.to(vision.load_device),
        size=size,
        mean=vision.image_mean,
        std=vision.image_std,
        crop=True,
    )
    return look_at_pixels(vision, pixels)


def look_at_nothing(vision: Any, size: int) -> Look:
    """What the encoder makes of normalised pixels that are all zero."""
    return look_at_pixels(vision, torch.zeros(1, 3, size, size, device=vision.load_device))


def look_at_pixels(vision: Any, pixels: Tensor) -> Look:
    """pixels (B, 3, H, W), scaled and normalised as the encoder expects them."""
    comfy.model_management.load_model_gpu(vision.patcher)
    with torch.no_grad():
        last, before, pooled, _ = vision.model(pixel_values=pixels.float(), intermediate_output=-2)
    patches = last if vision.model_type == DINO else before
    return Look(*(x.to("cpu", torch.float32) for x in (pooled, patches)))


def look_by_pillow(vision: Any, photo: Tensor) -> Look:
    """photo (H, W, 3) uint8, seen as CLIP's own preprocessing shows it.

    Pillow's bicubic differs from torch's by up to 0.015 of a normalised value, which matters where
    the authors' numbers are to be reproduced.
    """
    pixels = pillow_pixels(photo, vision.image_mean, vision.image_std)
    return look_at_pixels(vision, pixels.to(vision.load_device))


def pillow_pixels(photo: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """photo (H, W, 3) uint8 -> (1, 3, 224, 224) normalised: the shorter side is scaled, the middle
    is cut."""
    picture = Image.fromarray(photo.cpu().numpy())
    shorter = min(picture.size)
    width, height = (CLIP_SIZE * side // shorter for side in picture.size)
    picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = (width - CLIP_SIZE) // 2, (height - CLIP_SIZE) // 2
    picture = picture.crop((left, top, left + CLIP_SIZE, top + CLIP_SIZE))
    values = torch.from_numpy(np.array(picture)).float() / 255
    values = (values - torch.tensor(mean)) / torch.tensor(std)
    return values.permute(2, 0, 1).unsqueeze(0).contiguous()
