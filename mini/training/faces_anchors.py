"""SCRFD's anchors: which cell answers for which face, and what it must answer.

Cells and boxes as insightface decodes them: a cell's centre is (column, row) * stride, a box is
its distances to the left, top, right and bottom, a point its offset, all in strides; every cell
has two anchors, a small and a large one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

STRIDES = (8, 16, 32)
ANCHORS = 2
SIDES = ((16, 32), (64, 128), (256, 512))
"""Side of the face that an anchor is for, per stride, in pixels."""
OCTAVES = 0.75
"""An anchor takes faces up to this far from its side, so that neighbours share those between."""
NOT_ASKED = 1.25
"""Further off, an anchor must answer no: a nose is not a small face."""
NEAR, AROUND = 0.18, 0.35
"""Distance from the face's centre in sides: answering cells, and cells that are not asked."""
POSITIVE, NEGATIVE, IGNORED = 1.0, 0.0, -1.0


@dataclass(frozen=True)
class Faces:
    """The faces of one canvas. `hidden`: too little of it is seen; not asked for."""

    boxes: np.ndarray
    """(F, 4) float32 pixels."""
    points: np.ndarray
    """(F, 5, 2) float32 pixels."""
    hidden: np.ndarray
    """(F,) bool."""

    def centres(self) -> np.ndarray:
        return (self.boxes[:, :2] + self.boxes[:, 2:]) / 2

    def sides(self) -> np.ndarray:
        return np.sqrt(np.prod(self.boxes[:, 2:] - self.boxes[:, :2], axis=1))


def anchor_centres(size: int) -> np.ndarray:
    """(A, 2) float32 pixels of all anchors of a square canvas, stride by stride."""
    return np.concatenate([_grid(size, stride) for stride in STRIDES])


def anchor_strides(size: int) -> np.ndarray:
    """(A,) float32."""
    return np.concatenate([np.full(len(_grid(size, s)), s, np.float32) for s in STRIDES])


def _grid(size: int, stride: int) -> np.ndarray:
    cells = np.arange(size // stride, dtype=np.float32) * stride
    across, down = np.meshgrid(cells, cells)
    return np.repeat(np.stack([across, down], -1).reshape(-1, 2), ANCHORS, axis=0)


def targets(faces: Faces, size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Per anchor: score (A,), POSITIVE, NEGATIVE or IGNORED; box (A, 4) and points (A, 10).

    Box and points are in strides and only mean something where the score is POSITIVE.
    """
    centres, strides = anchor_centres(size), anchor_strides(size)
    score = np.full(len(centres), NEGATIVE, np.float32)
    box, points = np.zeros((len(centres), 4), np.float32), np.zeros((len(centres), 10), np.float32)
    if not len(faces.boxes):
        return score, box, points
    distance = np.linalg.norm(centres[:, None] - faces.centres(), axis=2)
    nearest = (distance / faces.sides()).argmin(1)
    every = np.arange(len(centres))
    distance, side = distance[every, nearest], faces.sides()[nearest]
    octaves = np.abs(np.log2(side / _anchor_sides(size)))
    score[(distance < AROUND * side) & (octaves < NOT_ASKED)] = IGNORED
    near = distance < np.maximum(NEAR * side, 0.75 * strides)
    answers = near & (octaves <= OCTAVES)
    score[answers] = np.where(faces.hidden[nearest[answers]], IGNORED, POSITIVE)
    corners = faces.boxes[nearest].reshape(-1, 2, 2)
    low, high = centres - corners[:, 0], corners[:, 1] - centres
    box[:] = np.concatenate([low, high], 1) / strides[:, None]
    points[:] = (faces.points[nearest] - centres[:, None]).reshape(-1, 10) / strides[:, None]
    return score, box, points


def _anchor_sides(size: int) -> np.ndarray:
    cells = [(size // stride) ** 2 for stride in STRIDES]
    return np.concatenate([np.tile(s, n) for s, n in zip(SIDES, cells, strict=True)])


def box_overlap(one: Tensor, other: Tensor) -> Tensor:
    """Generalised intersection over union (Rezatofighi et al. 2019) of distances (N, 4), -1..1."""
    common = torch.minimum(one, other)
    shared = _area(common.clamp(min=0))
    whole = _area(torch.maximum(one, other))
    union = _area(one) + _area(other) - shared
    return shared / union.clamp(min=1e-6) - (whole - union) / whole.clamp(min=1e-6)


def _area(distances: Tensor) -> Tensor:
    left, top, right, bottom = distances.unbind(-1)
    return (left + right).clamp(min=0) * (top + bottom).clamp(min=0)
