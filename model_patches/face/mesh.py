"""478 points, expression and pose of every face, by the MediaPipe landmarker that ComfyUI loads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .boxes import Box

SolvePose = Callable[[dict, int, int, dict], np.ndarray]
"""ComfyUI's `transformation_matrix_from_detection`."""
SAME_FACE = 0.2
"""Least overlap (intersection over union) of a mesh's box with a detector's box."""
MOST, SURE = 16, 0.5
"""Faces a picture, and the least score of one: ComfyUI's own limits."""


@dataclass(frozen=True, eq=False)
class Mesh:
    """One face."""

    box: Box
    """x0, y0, x1, y1 in pixels."""
    points: np.ndarray
    """(478, 2) pixels."""
    solid: np.ndarray
    """(478, 3) in the landmarker's own units."""
    blendshapes: Mapping[str, float]
    """52 of them, 0 to 1."""
    pose: np.ndarray
    """(4, 4): from the mean face to this one."""


@dataclass(frozen=True, eq=False)
class MeshFinder:
    """What ComfyUI's Load Face Detection Model (MediaPipe) gives, as a function of a picture."""

    model: Any
    solve: SolvePose

    def find(self, rgb: np.ndarray) -> list[Mesh]:
        """(H, W, 3) uint8 RGB -> its faces.

        Both detectors look, and the one that finds more counts: "short" knows faces up close,
        "full" small ones.
        """
        height, width = rgb.shape[:2]
        short, full = (
            self.model.detect_batch([rgb], num_faces=MOST, score_thresh=SURE, variant=variant)[0]
            for variant in ("short", "full")
        )
        found = (self._read(one, width, height) for one in _more(short, full))
        return [one for one in found if one is not None]

    def _read(self, one: Mapping[str, Any], width: int, height: int) -> Mesh | None:
        """None for points that no head has: all in one place, or not finite."""
        try:
            pose = self.solve(dict(one), width, height, self.model.canonical_data)
        except (ValueError, np.linalg.LinAlgError):
            return None
        x0, y0, x1, y1 = (float(value) for value in one["bbox_xyxy"])
        return Mesh(
            (x0, y0, x1, y1),
            np.asarray(one["landmarks_xy"], np.float64),
            np.asarray(one["landmarks_3d"], np.float64),
            {name: float(value) for name, value in one["blendshapes"].items()},
            np.asarray(pose, np.float64),
        )


def _more(one: Sequence[Any], other: Sequence[Any]) -> Sequence[Any]:
    return one if len(one) >= len(other) else other


def mesh_in(box: Box, meshes: Sequence[Mesh]) -> Mesh | None:
    """The mesh of the face in this box; None where no mesh covers it by 0.2 or more."""
    best = max(meshes, key=lambda one: _overlap(box, one.box), default=None)
    return best if best is not None and _overlap(box, best.box) >= SAME_FACE else None


def _overlap(one: Box, other: Box) -> float:
    """Intersection over union."""
    across = min(one[2], other[2]) - max(one[0], other[0])
    down = min(one[3], other[3]) - max(one[1], other[1])
    if across <= 0 or down <= 0:
        return 0.0
    shared = across * down
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (one, other))
    return shared / (areas - shared)
