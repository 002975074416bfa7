"""ArcFace from an insightface pack: aligned crop -> embedding."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from .crops import SIDE
from .onnx_network import OnnxNetwork, check_same_answer, read_network
from .pack import EMBEDDING

if TYPE_CHECKING:  # faces are found without ComfyUI as well
    from comfy.model_patcher import ModelPatcher


class ArcFaceModel(Protocol):
    """What is used of insightface's own class for an ArcFace file."""

    input_size: tuple[int, int]
    output_shape: tuple[int | str, ...]
    input_mean: float
    input_std: float

    def get_feat(self, imgs: np.ndarray) -> np.ndarray:
        """(112, 112, 3) uint8 BGR -> (1, 512)."""
        ...


@dataclass(frozen=True)
class Recogniser:
    """insightface's ArcFace; it subtracts 127.5, divides by 127.5 and orders RGB by itself."""

    model: ArcFaceModel = field(repr=False)
    name: str
    path: Path

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

    @cached_property
    def network(self) -> ModelPatcher:
        """The same file as a FaceNetwork, opened when it is first asked for.

        Raises ValueError for operations that are not known, and RuntimeError where it answers
        differently than `embed`.
        """
        from ..files.modules import wrap

        # Built as ordinary tensors: nodes run in inference mode, whose tensors have no gradients.
        with torch.inference_mode(False), torch.no_grad():
            net = FaceNetwork(read_network(self.path), self.model.input_mean, self.model.input_std)
            seen = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), np.uint8)
            crop = torch.from_numpy(seen).permute(2, 0, 1)[None].float() / 127.5 - 1
            check_same_answer(net(crop)[0], self.embed(seen), self.path)
        return wrap(net, disable_dynamic=True)


class FaceNetwork(nn.Module):
    """Crops (B, 3, 112, 112), RGB in -1..1 -> raw embeddings (B, 512), with gradients."""

    def __init__(self, network: OnnxNetwork, mean: float, deviation: float) -> None:
        """mean and deviation: of pixels from 0 to 255, as insightface takes them out."""
        super().__init__()
        self.network, self.mean, self.deviation = network, mean, deviation

    def forward(self, crops: Tensor) -> Tensor:
        return self.network(((crops + 1) * 127.5 - self.mean) / self.deviation)


def make_recogniser(model: ArcFaceModel, path: Path, pack: str) -> Recogniser:
    """Wrap a loaded ArcFace. Raises ValueError for another input or embedding size."""
    side, width = model.input_size[0], model.output_shape[-1]
    if side != 112 or (isinstance(width, int) and width != EMBEDDING):
        raise ValueError(
            f"the recogniser {path} takes {side} pixels and gives {width} values, expected 112 and "
            f"{EMBEDDING}; use antelopev2's glintr100.onnx or buffalo_l's w600k_r50.onnx"
        )
    return Recogniser(model, f"arcface ({pack}, {path.name})", path)
