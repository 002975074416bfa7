"""106 points on a face, by an insightface pack's 2d106det.onnx."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .pack import POINTS, load_model
from .packages import need


@dataclass(frozen=True)
class Landmarks:
    """insightface's landmark model, opened when it is first used: few graphs need it."""

    path: Path
    pack: str
    providers: tuple[str, ...]

    @property
    def name(self) -> str:
        return f"{POINTS} points ({self.pack}, {self.path.name})"

    @cached_property
    def model(self) -> Any:
        return load_model(self.path, self.providers)[0]

    def find(self, rgb: np.ndarray, box: Sequence[float]) -> Tensor:
        """(H, W, 3) uint8 and a face's box -> (106, 2) float32, x and y in pixels.

        Raises RuntimeError when the file cannot run or returns something else.
        """
        face = need("insightface.app.common").Face(bbox=np.array(box, np.float32))
        found = self.model.get(np.ascontiguousarray(rgb[..., ::-1]), face)
        points = torch.from_numpy(np.asarray(found, np.float32).copy())
        if points.shape != (POINTS, 2) or not points.isfinite().all():
            raise RuntimeError(
                f"{self.path} returned {tuple(points.shape)} values, or not finite ones; expected "
                f"({POINTS}, 2). Use 2d106det.onnx of buffalo_l"
            )
        return points
