"""How a training picture is scaled and cut: its shorter side fits, the middle is kept.

Pictures keep about their own shape (a bucket), so that little of them is cut away.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

CELL = 16
"""Pixels a side of a Flux token: sides are multiples of it."""
BUCKETS = 8
"""Sides of buckets are multiples of the size over this, where that is a whole number of tokens."""
LONGEST = 2.0
"""Most elongated bucket; what is longer is cut."""


@dataclass(frozen=True)
class Fit:
    """Where the pixels of a picture go."""

    size: tuple[int, int]
    """(width, height) that is trained on."""
    scaled: tuple[int, int]
    """(width, height) of the whole picture before it is cut."""
    scale: tuple[float, float]
    corner: tuple[int, int]
    """(x, y) of the cut."""

    def points(self, points: np.ndarray) -> np.ndarray:
        """(..., 2) in pixels of the picture -> in pixels of what is trained on."""
        return points * self.scale - self.corner


def bucket_of(width: int, height: int, side: int) -> tuple[int, int]:
    """(width, height) of about side x side pixels, in about the picture's shape."""
    ratio = min(max(width / height, 1 / LONGEST), LONGEST) ** 0.5
    step = max(CELL, side // BUCKETS // CELL * CELL)
    wide, high = (max(step, round(edge / step) * step) for edge in (side * ratio, side / ratio))
    return wide, high


def square_of(width: int, height: int, side: int) -> tuple[int, int]:
    """A square, whatever the picture's shape: as most trainings of SD 1.5 cut their pictures."""
    return side, side


def fit(width: int, height: int, size: tuple[int, int]) -> Fit:
    """How a picture of width x height pixels covers `size`."""
    factor = max(size[0] / width, size[1] / height)
    # The side that fits exactly, and the other one as the published training rounds it.
    scaled = (
        max(size[0], int(width * factor + 1e-6)),
        max(size[1], int(height * factor + 1e-6)),
    )
    corner = (round((scaled[0] - size[0]) / 2), round((scaled[1] - size[1]) / 2))
    return Fit(size, scaled, (scaled[0] / width, scaled[1] / height), corner)


def read_picture(path: Path) -> Image.Image:
    """Upright, RGB. Raises OSError."""
    with Image.open(path) as opened:
        return ImageOps.exif_transpose(opened).convert("RGB")


def picture_size(path: Path) -> tuple[int, int]:
    """(width, height) of the upright picture."""
    with Image.open(path) as opened:
        turned = ImageOps.exif_transpose(opened) if "exif" in opened.info else opened
        return turned.size


def cut(picture: Image.Image, where: Fit) -> Tensor:
    """(1, h, w, channels) in 0..1 of what is trained on."""
    scaled = picture.resize(where.scaled, Image.Resampling.BILINEAR)
    x, y = where.corner
    part = np.array(scaled.crop((x, y, x + where.size[0], y + where.size[1])))
    return torch.from_numpy(part).float().reshape(1, *part.shape[:2], -1) / 255


def as_image(picture: Image.Image) -> Tensor:
    """(1, H, W, 3) in 0..1: a whole picture as ComfyUI has it."""
    return pixels_of(picture).float()[None] / 255


def pixels_of(picture: Image.Image) -> Tensor:
    """(H, W, 3) uint8."""
    return torch.from_numpy(np.array(picture))
