"""Detections, and the geometry of their boxes that all detectors share."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from .packages import need

LONG_SIDE = 1280
"""Detectors see at most this: twice their usual working size."""
Box = tuple[float, float, float, float]


@dataclass(frozen=True, eq=False)
class Detection:
    """One face, in pixels of the photo."""

    box: Box
    """x0, y0, x1, y1, inside of the photo."""
    points: np.ndarray
    """(5, 2) float32: left eye, right eye, nose, left and right mouth corner, as seen."""
    score: float
    """0 to 1; at least 0.5."""
    detector: str
    angles: tuple[float, float, float] | None = None
    """Yaw, pitch, roll in degrees when the detector knows better than its points tell."""

    @property
    def area(self) -> float:
        return (self.box[2] - self.box[0]) * (self.box[3] - self.box[1])

    @property
    def centre(self) -> tuple[float, float]:
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


class Detector(Protocol):
    """Finds faces in one photo."""

    @property
    def name(self) -> str: ...

    @property
    def tried(self) -> str:
        """The sizes and retries that `find` goes through, for messages."""
        ...

    def find(self, rgb: np.ndarray) -> list[Detection]:
        """(H, W, 3) uint8 RGB -> faces, best score first; empty when there is none."""
        ...


def overlap(box: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """Intersection over union of `box` (4,) with each of `boxes` (N, 4)."""
    low = np.maximum(box[:2], boxes[:, :2])
    high = np.minimum(box[2:], boxes[:, 2:])
    common = np.prod(np.clip(high - low, 0, None), axis=1)
    union = np.prod(box[2:] - box[:2]) + np.prod(boxes[:, 2:] - boxes[:, :2], axis=1) - common
    return common / np.maximum(union, 1e-9)


def keep_best(boxes: np.ndarray, scores: Sequence[float], limit: float) -> list[int]:
    """Non-maximum suppression: indices to keep, best first, none overlapping more than `limit`."""
    left = list(np.argsort(-np.asarray(scores), kind="stable"))
    kept: list[int] = []
    while left:
        best = left.pop(0)
        kept.append(int(best))
        if left:
            shared = overlap(boxes[best], boxes[left])
            left = [index for index, part in zip(left, shared, strict=True) if part <= limit]
    return kept


def shrink(rgb: np.ndarray, long_side: int = LONG_SIDE) -> tuple[np.ndarray, float]:
    """Area-average so that the long side is at most `long_side`; the photo and its scale."""
    height, width = rgb.shape[:2]
    scale = long_side / max(height, width)
    if scale >= 1:
        return rgb, 1.0
    size = max(1, round(width * scale)), max(1, round(height * scale))
    cv2 = need("cv2")
    return cv2.resize(rgb, size, interpolation=cv2.INTER_AREA), scale


def inside(box: Sequence[float] | np.ndarray, width: int, height: int) -> Box | None:
    """`box` cut to the photo; None when less than a pixel of it remains."""
    x0, y0, x1, y1 = (float(value) for value in box)
    x0, x1 = max(x0, 0.0), min(x1, float(width))
    y0, y1 = max(y0, 0.0), min(y1, float(height))
    return (x0, y0, x1, y1) if x1 - x0 >= 1 and y1 - y0 >= 1 else None
