"""Figures on generated pictures: identity kept, edit obeyed, the rest left alone.

Everything here takes what some recogniser, classifier or detector found and knows none of them.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
import torch
from torch import Tensor


def cosine(one: Tensor, other: Tensor) -> float:
    """Of two embeddings (D,). Raises ValueError for other shapes or an embedding of length 0."""
    if one.shape != other.shape or one.ndim != 1:
        raise ValueError(
            f"expected two embeddings of one shape (D,), got {tuple(one.shape)} and "
            f"{tuple(other.shape)}; compare embeddings of the same recogniser"
        )
    one, other = one.double(), other.double()
    lengths = one.norm() * other.norm()
    if not lengths > 0:
        raise ValueError("an embedding of length 0 is like nothing; embed the face again")
    return float(one @ other / lengths)


def hits(asked: Sequence[Hashable], found: Sequence[Hashable | None]) -> list[bool]:
    """Whether each picture shows what was asked for; nothing found is a miss."""
    return [one == other for one, other in zip(asked, found, strict=True)]


def pose_error(asked: Sequence[float], found: Sequence[float]) -> float:
    """Mean absolute difference of two sets of angles in degrees, the short way round."""
    one, other = np.asarray(asked, np.float64), np.asarray(found, np.float64)
    if one.shape != other.shape or one.ndim != 1:
        raise ValueError(f"expected as many angles asked as found, got {one.shape}, {other.shape}")
    return float(shortest_turns(one, other).mean())


def shortest_turns(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Absolute differences of angles in degrees, the short way round: 0 to 180."""
    return np.abs((one - other + 180) % 360 - 180)


def disruption(
    picture: Tensor, untouched: Tensor, boxes: Sequence[Sequence[float]], margin: float = 0.25
) -> float:
    """Mean absolute difference outside the faces, 0 (the same) to 1.

    picture, untouched: (H, W, C) in 0..1, painted from the same seed with and without identity.
    boxes: x0, y0, x1, y1 in pixels, of the faces in both; each is grown by `margin` of its sides,
    since hair and ears belong to the person. Raises ValueError when the shapes differ, or the
    faces leave nothing outside.
    """
    if picture.shape != untouched.shape or picture.ndim != 3:
        raise ValueError(
            f"expected two pictures (H, W, C) of one size, got {tuple(picture.shape)} and "
            f"{tuple(untouched.shape)}; paint both at the same size"
        )
    outside = torch.ones(picture.shape[:2], dtype=torch.bool)
    for x0, y0, x1, y1 in boxes:
        across, down = margin * (x1 - x0), margin * (y1 - y0)
        left, top = max(0, round(x0 - across)), max(0, round(y0 - down))
        outside[top : max(0, round(y1 + down)), left : max(0, round(x1 + across))] = False
    if not outside.any():
        raise ValueError(f"the face boxes {list(boxes)} cover the whole picture")
    return float((picture.float() - untouched.float()).abs()[outside].mean())
