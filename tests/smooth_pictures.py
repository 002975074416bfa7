"""Pictures without edges, and faces as five points in them."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

FIVE = np.array([[38.3, 51.7], [73.5, 51.5], [56.0, 71.7], [41.5, 92.4], [70.7, 92.2]])
"""About where the eyes, nose and mouth lie in an ArcFace crop."""


def pictures(height: int, width: int, count: int = 1) -> Tensor:
    """(count, 3, height, width), smooth, so that different ways of interpolating agree."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, height // 16, width // 16, generator=generator)
    return F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)


def points(*corners: tuple[float, float], scale: float = 0.5) -> np.ndarray:
    """Faces (N, 5, 2) of `scale` times the crop's size, at these corners (x, y)."""
    return np.stack([FIVE * scale + corner for corner in corners])
