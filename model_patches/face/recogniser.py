"""ArcFace from an insightface pack: aligned crop -> embedding."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from .pack import EMBEDDING


class ArcFaceModel(Protocol):
    """What is used of insightface's own class for an ArcFace file."""

    input_size: tuple[int, int]
    output_shape: tuple[int | str, ...]

    def get_feat(self, imgs: np.ndarray) -> np.ndarray:
        """(112, 112, 3) uint8 BGR -> (1, 512)."""
        ...


@dataclass(frozen=True)
class Recogniser:
    """insightface's ArcFace; it subtracts 127.5, divides by 127.5 and orders RGB by itself."""

    model: ArcFaceModel = field(repr=False)
    name: str

    def embed(self, crop: np.ndarray) -> Tensor:
        """(112, 112, 3) uint8 RGB -> (512,) float32, raw: PuLID was trained on unscaled ones."""
        features = self.model.get_feat(np.ascontiguousarray(crop[..., ::-1]))
        embedding = torch.from_numpy(np.asarray(features, np.float32).reshape(-1).copy())
        if embedding.shape != (EMBEDDING,) or not torch.isfinite(embedding).all():
            raise RuntimeError(
                f"{self.name} returned {tuple(embedding.shape)} values, or not finite ones; "
                f"expected {EMBEDDING}. Use antelopev2's glintr100.onnx or buffalo_l's "
                "w600k_r50.onnx"
            )
        return embedding


def make_recogniser(model: ArcFaceModel, path: Path, pack: str) -> Recogniser:
    """Wrap a loaded ArcFace. Raises ValueError for another input or embedding size."""
    side, width = model.input_size[0], model.output_shape[-1]
    if side != 112 or (isinstance(width, int) and width != EMBEDDING):
        raise ValueError(
            f"the recogniser {path} takes {side} pixels and gives {width} values, expected 112 and "
            f"{EMBEDDING}; use antelopev2's glintr100.onnx or buffalo_l's w600k_r50.onnx"
        )
    return Recogniser(model, f"arcface ({pack}, {path.name})")
