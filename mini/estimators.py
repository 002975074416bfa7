"""Expression, head pose and style of a picture of the small world, for its evaluation.

One network reads a face crop, another the whole picture. They know the renderer's drawings and
what a small generator makes of them; of real photographs they know nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from ..model_patches.training.export import write_safetensors
from .conv_layers import ConvNorm, Residual, fold_norms

FACE_SIDE, PICTURE_SIDE = 80, 128
MARGIN = 1.5
"""Side of the crop over the longer side of the face's box."""
DEGREES = 30.0
"""What one unit of the network's angles is."""
ANGLES = ("yaw", "pitch", "roll")


class Estimators(nn.Module):
    """`face` answers (N, expressions + 3), `style` (N, styles); RGB in -1..1.

    face: (N, 3, 80, 80) crops; style: (N, 3, 128, 128) pictures. `normed=False` is the form that
    files hold, without batch norms.
    """

    def __init__(self, expressions: int, styles: int, normed: bool = True) -> None:
        super().__init__()
        self.face = nn.Sequential(
            ConvNorm(3, 32, kernel=7, stride=4, normed=normed),
            Residual(32, normed=normed),
            ConvNorm(32, 64, stride=2, normed=normed),
            Residual(64, normed=normed),
            ConvNorm(64, 96, stride=2, normed=normed),
            Residual(96, normed=normed),
            ConvNorm(96, 32, kernel=1, normed=normed),
            nn.Flatten(),
            nn.Linear(32 * 5 * 5, expressions + len(ANGLES)),
        )
        self.style = nn.Sequential(
            ConvNorm(3, 16, kernel=5, stride=2, normed=normed),
            ConvNorm(16, 32, stride=2, normed=normed),
            ConvNorm(32, 48, stride=2, normed=normed),
            ConvNorm(48, 64, stride=2, normed=normed),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(64, styles),
        )


@dataclass(frozen=True)
class Estimate:
    """What is seen in one face. Angles in degrees, signs as in portraits.Shot."""

    expression: str
    probability: float
    yaw: float
    pitch: float
    roll: float


class Estimator:
    """The networks of one file, with the names of what they tell apart."""

    def __init__(self, net: Estimators, expressions: list[str], styles: list[str]) -> None:
        self.net = net.eval().requires_grad_(False)
        self.expressions, self.styles = expressions, styles

    @torch.inference_mode()
    def faces(self, rgb: np.ndarray, boxes: np.ndarray) -> list[Estimate]:
        """(H, W, 3) uint8 and boxes (F, 4) in its pixels -> one estimate per box."""
        if not len(boxes):
            return []
        crops = np.stack([face_crop(rgb, box) for box in boxes])
        answers = self.net.face(network_input(crops))
        count = len(self.expressions)
        chances = answers[:, :count].softmax(1)
        angles = answers[:, count:] * DEGREES
        best = chances.argmax(1)
        return [
            Estimate(self.expressions[index], chance[index].item(), *three)
            for index, chance, three in zip(best.tolist(), chances, angles.tolist(), strict=True)
        ]

    @torch.inference_mode()
    def style(self, rgb: np.ndarray) -> str:
        """(H, W, 3) uint8 -> one of the styles."""
        answer = self.net.style(network_input(picture_input(rgb)[None]))
        return self.styles[int(answer.argmax())]


def load_estimator(path: Path) -> Estimator:
    """Raises FileNotFoundError, or ValueError when the file holds something else."""
    if not path.is_file():
        raise FileNotFoundError(f"the estimators' file {path} does not exist")
    with safe_open(str(path), "pt") as file:
        metadata = file.metadata() or {}
    if "expressions" not in metadata or "styles" not in metadata:
        raise ValueError(
            f"{path} names neither expressions nor styles (metadata: {sorted(metadata)}); expected "
            "the file that `start.py mini-train` writes"
        )
    expressions, styles = (json.loads(metadata[name]) for name in ("expressions", "styles"))
    net = Estimators(len(expressions), len(styles), normed=False)
    net.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return Estimator(net, expressions, styles)


def save_estimators(net: Estimators, path: Path, expressions: list[str], styles: list[str]) -> None:
    """Write the networks without their batch norms, in half precision."""
    names = {"expressions": json.dumps(expressions), "styles": json.dumps(styles)}
    write_safetensors(path, fold_norms(net).state_dict(), torch.float16, names)


def face_crop(
    rgb: np.ndarray, box: np.ndarray, shift: tuple[float, float] = (0.0, 0.0), zoom: float = 1.0
) -> np.ndarray:
    """(H, W, 3) uint8 and a box x0, y0, x1, y1 -> (80, 80, 3), the face with some surroundings.

    `shift`, in box sides, and `zoom` move the crop; training uses them.
    """
    import cv2

    x0, y0, x1, y1 = (float(value) for value in box)
    longer = max(x1 - x0, y1 - y0, 1.0)
    side = MARGIN * longer / zoom
    scale = FACE_SIDE / side
    if scale < 0.5:  # warpAffine does not average: halve large pictures first
        half = rgb.shape[1] // 2, rgb.shape[0] // 2
        smaller = cv2.resize(rgb, half, interpolation=cv2.INTER_AREA)
        return face_crop(smaller, np.asarray(box, np.float64) / 2, shift, zoom)
    left = (x0 + x1 - side) / 2 + shift[0] * longer
    top = (y0 + y1 - side) / 2 + shift[1] * longer
    matrix = np.array(((scale, 0, -left * scale), (0, scale, -top * scale)))
    size = (FACE_SIDE, FACE_SIDE)
    return cv2.warpAffine(rgb, matrix, size, flags=1, borderMode=cv2.BORDER_REPLICATE)


def picture_input(rgb: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (128, 128, 3), the size at which styles were learnt."""
    import cv2

    if rgb.shape[:2] == (PICTURE_SIDE, PICTURE_SIDE):
        return rgb
    return cv2.resize(rgb, (PICTURE_SIDE, PICTURE_SIDE), interpolation=cv2.INTER_AREA)


def network_input(pictures: np.ndarray) -> Tensor:
    """(N, H, W, 3) uint8 -> (N, 3, H, W) in -1..1."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1
