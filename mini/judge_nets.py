"""The networks that judge the evaluation and that nothing is trained against.

Mixers of patches (Tolstikhin et al. 2021), in which no convolution is: the face networks that
adapter and projector are trained with are convolutional, read other crops, and were taught by
other losses on other people. What pleases the one kind need not please the other.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from ..model_patches.face.align import ARCFACE_112, similarity, warp
from ..model_patches.training.export import write_safetensors
from .estimators import ANGLES, DEGREES, Estimate, network_input, picture_input

SIDE = 80
"""Of the aligned crop, in pixels."""
TEMPLATE = (ARCFACE_112 - 56) * 0.6 + (SIDE / 2, 0.55 * SIDE)
"""Where the five points lie in it: a wider cut than ArcFace's, with the hair."""
GREY = (128, 128, 128)
"""Outside of the picture."""
PATCH, OVERLAP = 10, 2
WIDTH, BLOCKS = 96, 3
NARROW = 16
EMBEDDING = 128
STROKE, STROKES = 8, 64
"""Side of the patches that tell the style, and how many features each has."""


class Mlp(nn.Sequential):
    def __init__(self, outer: int, inner: int) -> None:
        super().__init__(nn.Linear(outer, inner), nn.GELU(), nn.Linear(inner, outer))


class MixerBlock(nn.Module):
    """(N, tokens, width) -> the same: first across the tokens, then within each."""

    def __init__(self, tokens: int, width: int) -> None:
        super().__init__()
        self.across_norm, self.across = nn.LayerNorm(width), Mlp(tokens, 2 * tokens)
        self.within_norm, self.within = nn.LayerNorm(width), Mlp(width, 2 * width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.across(self.across_norm(x).transpose(1, 2)).transpose(1, 2)
        return x + self.within(self.within_norm(x))


class FaceMixer(nn.Sequential):
    """(N, 3, 80, 80) aligned crops, RGB in -1..1 -> (N, outputs)."""

    def __init__(self, outputs: int) -> None:
        kernel, tokens = PATCH + 2 * OVERLAP, (SIDE // PATCH) ** 2
        super().__init__(
            nn.Unfold(kernel, padding=OVERLAP, stride=PATCH),
            Turned(),
            nn.Linear(3 * kernel**2, WIDTH),
            *(MixerBlock(tokens, WIDTH) for _ in range(BLOCKS)),
            nn.LayerNorm(WIDTH),
            nn.Linear(WIDTH, NARROW),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(tokens * NARROW, outputs),
        )


class Turned(nn.Module):
    """(N, features, tokens) -> (N, tokens, features)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


class StyleBag(nn.Module):
    """(N, 3, 128, 128) pictures, RGB in -1..1 -> (N, styles).

    Patches that do not know of each other: the texture tells, not what is shown.
    """

    def __init__(self, styles: int) -> None:
        super().__init__()
        self.patches = nn.Sequential(
            nn.Unfold(STROKE, stride=STROKE),
            Turned(),
            nn.Linear(3 * STROKE**2, STROKES),
            nn.GELU(),
            nn.Linear(STROKES, STROKES),
            nn.GELU(),
        )
        self.style = nn.Linear(2 * STROKES, styles)

    def forward(self, x: Tensor) -> Tensor:
        found = self.patches(x)
        return self.style(torch.cat((found.mean(1), found.std(1)), dim=-1))


class JudgeEstimators(nn.Module):
    """`face` answers (N, expressions + 3), `style` (N, styles).

    The roll is the one that is left in the aligned crop.
    """

    def __init__(self, expressions: int, styles: int) -> None:
        super().__init__()
        self.face = FaceMixer(expressions + len(ANGLES))
        self.style = StyleBag(styles)


def aligned_crop(rgb: np.ndarray, points: np.ndarray) -> tuple[np.ndarray, float]:
    """(H, W, 3) uint8 and five points (5, 2) -> (80, 80, 3), and by how many degrees the head was
    turned upright for it; as portraits.Shot counts a roll."""
    matrix = similarity(points, TEMPLATE)
    return warp(rgb, matrix, SIDE, GREY), turned_upright(matrix)


def turned_upright(matrix: np.ndarray) -> float:
    """Degrees by which a (2, 3) similarity turns what leans clockwise back."""
    return float(-np.degrees(np.arctan2(matrix[1, 0], matrix[0, 0])))


class JudgeRecogniser:
    """Says how alike two faces are, by the cosine of what `embed` gives."""

    def __init__(self, net: FaceMixer) -> None:
        self.net = net.eval().requires_grad_(False)

    @torch.inference_mode()
    def embed(self, rgb: np.ndarray, points: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 and five points (5, 2) -> (128,)."""
        crop, _ = aligned_crop(rgb, points)
        return self.net(network_input(crop[None]))[0]


class JudgeEstimator:
    """Reads expression, pose and style."""

    def __init__(
        self, net: JudgeEstimators, expressions: Sequence[str], styles: Sequence[str]
    ) -> None:
        self.net = net.eval().requires_grad_(False)
        self.expressions, self.styles = list(expressions), list(styles)

    @torch.inference_mode()
    def face(self, rgb: np.ndarray, points: np.ndarray) -> Estimate:
        """(H, W, 3) uint8 and five points (5, 2)."""
        crop, roll = aligned_crop(rgb, points)
        answer = self.net.face(network_input(crop[None]))[0]
        count = len(self.expressions)
        chances = answer[:count].softmax(0)
        best = int(chances.argmax())
        yaw, pitch, left = (answer[count:] * DEGREES).tolist()
        return Estimate(self.expressions[best], chances[best].item(), yaw, pitch, left + roll)

    @torch.inference_mode()
    def style(self, rgb: np.ndarray) -> str:
        """(H, W, 3) uint8 -> one of the styles."""
        answer = self.net.style(network_input(picture_input(rgb)[None]))
        return self.styles[int(answer.argmax())]


def save_judge(net: nn.Module, path: Path, names: dict[str, Sequence[str]] | None = None) -> None:
    """Write a network in half precision, with the names of what it tells apart."""
    metadata = {name: json.dumps(list(values)) for name, values in (names or {}).items()}
    write_safetensors(path, net.state_dict(), torch.float16, metadata)


def load_judge_recogniser(path: Path) -> JudgeRecogniser:
    """Raises FileNotFoundError, or ValueError when the file holds another network."""
    _read_names(path)
    net = FaceMixer(EMBEDDING)
    _fill(net, path)
    return JudgeRecogniser(net)


def load_judge_estimator(path: Path) -> JudgeEstimator:
    """Raises FileNotFoundError, or ValueError when the file holds another network."""
    names = _read_names(path)
    missing = {"expressions", "styles"} - set(names)
    if missing:
        raise ValueError(f"{path} does not name its {', '.join(sorted(missing))}; {EXPECTED}")
    net = JudgeEstimators(len(names["expressions"]), len(names["styles"]))
    _fill(net, path)
    return JudgeEstimator(net, names["expressions"], names["styles"])


EXPECTED = "expected the file that `start.py train mini` writes"


def _read_names(path: Path) -> dict[str, list[str]]:
    if not path.is_file():
        raise FileNotFoundError(f"the judge's file {path} does not exist")
    with safe_open(str(path), "pt") as file:
        metadata = file.metadata() or {}
    return {name: json.loads(text) for name, text in metadata.items() if name != "format"}


def _fill(net: nn.Module, path: Path) -> None:
    values = {name: value.float() for name, value in load_file(path).items()}
    try:
        net.load_state_dict(values)
    except RuntimeError as error:
        raise ValueError(f"{path} holds another network; {EXPECTED}: {error}") from error
