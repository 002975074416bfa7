"""Landmarks of a face as the picture that DynamicID's keypoint encoder reads."""

from __future__ import annotations

import torch
from torch import Tensor

FRAME = 512
"""Pixels a side of the square, stretched photo in which landmarks are stated."""
SIDE = 96


def landmark_image(points: Tensor) -> Tensor:
    """points (N, 2), x and y in the frame of 512 -> (96, 96) uint8: 255 at each, 0 elsewhere.

    Points outside are left out, and so are those on the first line or column, as in the published
    code.
    """
    scaled = points.double() / (FRAME / SIDE)
    inside = ((scaled > 0) & (scaled < SIDE)).all(dim=1)
    columns, rows = scaled[inside].long().unbind(dim=1)
    picture = torch.zeros(SIDE, SIDE, dtype=torch.uint8)
    picture[rows, columns] = 255
    return picture


def in_frame(points: Tensor, width: int, height: int) -> Tensor:
    """Pixels of a photo -> the frame of 512 that the photo is stretched to."""
    return points.float() * torch.tensor([FRAME / width, FRAME / height])
