"""SCRFD from an insightface pack."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np

from .boxes import Detection, inside, shrink
from .packages import need

SIZES = (640, 576, 512, 448, 384, 320)
"""Smaller ones find faces that fill the frame: SCRFD knows none wider than about 600 pixels."""
THINNEST = 16
"""Longest aspect ratio handed to insightface, which would round a thinner side to nothing."""


class ScrfdModel(Protocol):
    """What is used of insightface's own class for an SCRFD file."""

    def detect(
        self, img: np.ndarray, input_size: tuple[int, int] | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(H, W, 3) uint8 BGR -> boxes with scores (N, 5) and points (N, 5, 2)."""
        ...


@dataclass(frozen=True)
class ScrfdDetector:
    """insightface's SCRFD: boxes and five measured points. Score at least 0.5, overlap 0.4."""

    model: ScrfdModel = field(repr=False)
    name: str
    sizes: tuple[int, ...] = SIZES

    @property
    def tried(self) -> str:
        return (
            f"sizes {', '.join(map(str, self.sizes))}, then {self.sizes[0]} with a border of half "
            "the photo"
        )

    def find(self, rgb: np.ndarray) -> list[Detection]:
        """See `Detector.find`. Stops at the first size that finds any face."""
        small, scale = shrink(rgb)
        bgr = _not_too_thin(np.ascontiguousarray(small[..., ::-1]))
        pad = 0
        boxes, points = self._first_hit(bgr)
        if not len(boxes):
            cv2 = need("cv2")
            pad = max(bgr.shape[:2]) // 2
            padded = cv2.copyMakeBorder(bgr, pad, pad, pad, pad, cv2.BORDER_CONSTANT)
            boxes, points = self._detect(padded, self.sizes[0])
        made = [
            self._detection(row, five, pad, scale, rgb.shape)
            for row, five in zip(boxes, points, strict=True)
        ]
        return sorted((one for one in made if one), key=lambda one: -one.score)

    def _first_hit(self, bgr: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        boxes, points = np.zeros((0, 5)), np.zeros((0, 5, 2))
        for size in self.sizes:
            boxes, points = self._detect(bgr, size)
            if len(boxes):
                break
        return boxes, points

    def _detect(self, bgr: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
        # Per call: since insightface 1.0 the attribute input_size is only a default.
        return self.model.detect(bgr, input_size=(size, size))

    def _detection(
        self, row: np.ndarray, five: np.ndarray, pad: int, scale: float, shape: tuple[int, ...]
    ) -> Detection | None:
        visible = inside((row[:4] - pad) / scale, shape[1], shape[0])
        if visible is None:
            return None
        points = ((five - pad) / scale).astype(np.float32)
        return Detection(visible, points, float(np.clip(row[4], 0, 1)), self.name)


def make_scrfd(model: ScrfdModel, path: Path, pack: str) -> ScrfdDetector:
    """Wrap a loaded SCRFD. Raises ValueError for one without the five points."""
    if not getattr(model, "use_kps", False):
        raise ValueError(
            f"the detector {path} gives boxes but no face points, and the crops need them; use one "
            "whose name ends in kps, such as scrfd_10g_bnkps.onnx or det_10g.onnx"
        )
    fixed = getattr(model, "static_input_size", None)
    sizes = (int(fixed[0]),) if fixed else SIZES
    return ScrfdDetector(model, f"scrfd ({pack}, {path.name})", sizes)


def _not_too_thin(image: np.ndarray) -> np.ndarray:
    """Black below or to the right, as SCRFD's own letterbox would put it."""
    height, width = image.shape[:2]
    floor = -(-max(height, width) // THINNEST)
    below, right = max(0, floor - height), max(0, floor - width)
    return np.pad(image, ((0, below), (0, right), (0, 0))) if below or right else image
