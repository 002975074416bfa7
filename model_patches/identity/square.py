"""The middle square of a photo, which is what vision encoders see of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .encode import THUMBNAIL


def cut_middle(photo: Tensor) -> Tensor:
    """photo (H, W, 3 or more) -> (1, S, S, 3), S the shorter side."""
    height, width = photo.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    return photo[None, top : top + side, left : left + side, :3]


def describe_loss(height: int, width: int) -> tuple[float, str]:
    """The share of a photo that lies outside its middle square, and at which sides."""
    share = 1 - min(height, width) / max(height, width)
    return share, "left and right" if width > height else "top and bottom"


def make_thumbnail(square: Tensor) -> Tensor:
    """square (1, S, S, 3) in [0, 1] -> (256, 256, 3) uint8 on the CPU."""
    small = F.interpolate(
        square.permute(0, 3, 1, 2).float().cpu(), (THUMBNAIL, THUMBNAIL), mode="area"
    )
    return (small[0].permute(1, 2, 0) * 255).round().clamp(0, 255).to(torch.uint8)
