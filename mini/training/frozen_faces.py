"""The face networks' files as torch modules again: gradients pass through them, in batches, on any
device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from ..conv_layers import fold_norms
from .detector import DIVISOR as DETECTOR_DIVISOR
from .detector import SIDE, Detector, graph_of
from .faces_anchors import anchor_centres, anchor_strides
from .recogniser import Recogniser


def read_recogniser(path: Path) -> nn.Module:
    """The network of recogniser.onnx. Raises ValueError for another one."""
    module = fold_norms(Recogniser())
    return _fill_module(module, list(module.parameters()), path, "recogniser")


def read_detector(path: Path) -> nn.Module:
    """The network of det_mini.onnx. Raises ValueError for another one."""
    module = fold_norms(Detector())
    return _fill_module(module, list(graph_of(module).stored), path, "detector")


def _fill_module(
    module: nn.Module, wanted: Sequence[nn.Parameter], path: Path, stage: str
) -> nn.Module:
    """`wanted` is filled in the file's order; the module comes back frozen."""
    import onnx
    from onnx import numpy_helper

    stored = [numpy_helper.to_array(part) for part in onnx.load(str(path)).graph.initializer]
    found = [value for value in stored if value.dtype == np.float16]
    if [value.shape for value in found] != [tuple(part.shape) for part in wanted]:
        raise ValueError(
            f"{path} has {len(found)} weights, not the {len(wanted)} of the network in "
            f"{stage}.py. Train it again: --only {stage}."
        )
    with torch.no_grad():
        for parameter, value in zip(wanted, found, strict=True):
            parameter.copy_(torch.from_numpy(value.astype(np.float32)))
    return module.eval().requires_grad_(False)


@dataclass(frozen=True)
class Found:
    """The surest face of each picture, in its pixels."""

    boxes: Tensor
    """(B, 4) left, top, right, bottom."""
    points: Tensor
    """(B, 5, 2)"""
    there: Tensor
    """(B,) bool: whether there is one, by the pack's own threshold of 0.5."""


class Finder:
    """Where the face of each picture is."""

    def __init__(self, detector: nn.Module, device: torch.device) -> None:
        self.detector = detector.to(device, memory_format=torch.channels_last)
        self.centres = torch.from_numpy(anchor_centres(SIDE)).to(device)
        self.strides = torch.from_numpy(anchor_strides(SIDE)).to(device)

    @torch.no_grad()
    def __call__(self, pictures: Tensor) -> Found:
        """Of square pictures (B, 3, S, S) in -1..1."""
        scale = pictures.shape[-1] / SIDE
        with torch.autocast(pictures.device.type, enabled=False):
            shown = pictures.float().clamp(-1, 1) * (127.5 / DETECTOR_DIVISOR)
            enlarged = interpolate(shown, (SIDE, SIDE), mode="bilinear", align_corners=False)
            logits, boxes, points = self.detector(enlarged)
        best = logits.squeeze(-1).argmax(1)
        every = torch.arange(len(pictures), device=pictures.device)
        centre, stride = self.centres[best], self.strides[best, None] * scale
        low, high = (boxes[every, best] * stride).chunk(2, dim=-1)
        centre = centre * scale
        places = centre[:, None] + points[every, best].unflatten(-1, (5, 2)) * stride[:, None]
        corners = torch.cat((centre - low, centre + high), dim=-1)
        return Found(corners, places, logits[every, best, 0] > 0)
