"""What happens to the independent judges' crops while they learn, in batches of tensors.

Another span of damage than faces_degrade.py's, drawn in another way: points, geometry, colour,
sharpness and noise are changed a little in every picture, and parts are covered.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...model_patches.face.align import similarity
from ..judge_nets import SIDE, TEMPLATE, turned_upright

JITTER = 1.4
"""Greatest standard deviation of the points, in pixels of the picture."""
ZOOM, SHIFT = 0.04, 1.2
"""Of the crop besides: deviation of the logarithm of its size, and of its place in pixels."""
WOBBLE, CELLS = 0.7, 7
"""Greatest deviation of the features' places in pixels, and in how many cells it is drawn."""
SMALLEST = 0.55
"""Of the resolutions, as a share."""
COVERED, LEAST, MOST = 0.3, 0.12, 0.35
"""Share of the crops with a covered part, and its sides as shares of the crop's."""
LEFT_RIGHT = [1, 0, 2, 4, 3]
"""The five points of a mirrored face."""


def cut_crops(
    images: Tensor, points: np.ndarray, rng: np.random.Generator
) -> tuple[Tensor, np.ndarray]:
    """Aligned crops as inexact as a detector's points make them.

    images (B, 3, S, S) in -1..1, points (B, 5, 2) in pixels -> (B, 3, 80, 80), and the degrees (B,)
    by which each head was turned upright.
    """
    spread = rng.uniform(0, JITTER, (len(points), 1, 1))
    moved = points + rng.normal(0, 1, points.shape) * spread
    matrices = np.stack([similarity(five, _move_template(rng)) for five in moved])
    inverse = np.linalg.inv(_square(matrices))[:, :2]
    rolls = np.array([turned_upright(matrix) for matrix in matrices])
    return _sample(images, torch.from_numpy(inverse).float()), rolls


def _move_template(rng: np.random.Generator) -> np.ndarray:
    middle = SIDE / 2
    return (TEMPLATE - middle) * np.exp(rng.normal(0, ZOOM)) + middle + rng.normal(0, SHIFT, 2)


def _square(matrices: np.ndarray) -> np.ndarray:
    last = np.broadcast_to((0.0, 0.0, 1.0), (len(matrices), 1, 3))
    return np.concatenate((matrices, last), 1)


def _sample(images: Tensor, inverse: Tensor) -> Tensor:
    """Bilinear, grey outside, each feature a little beside its place; inverse (B, 2, 3)."""
    count, size = len(images), images.shape[-1]
    steps = torch.arange(SIDE, dtype=torch.float32)
    down, across = torch.meshgrid(steps, steps, indexing="ij")
    places = torch.stack((across, down, torch.ones_like(down)), -1)
    found = torch.einsum("hwk,bjk->bhwj", places, inverse)
    strength = WOBBLE * torch.rand(count, 1, 1, 1)
    coarse = strength * torch.randn(count, 2, CELLS, CELLS)
    wobble = F.interpolate(coarse, (SIDE, SIDE), mode="bicubic", align_corners=False)
    found = found + wobble.permute(0, 2, 3, 1)
    # OpenCV's pixels lie at whole numbers.
    grid = (found + 0.5) / size * 2 - 1
    return F.grid_sample(images, grid, padding_mode="zeros", align_corners=False)


def damage(pictures: Tensor) -> Tensor:
    """(B, 3, S, S) in -1..1 -> the same shape, still in that range."""
    pictures = _soften(_change_colours(pictures))
    return _cover(_add_noise(_lower_resolution(pictures))).clamp(-1, 1)


def mirror(images: Tensor, points: np.ndarray, which: np.ndarray) -> tuple[Tensor, np.ndarray]:
    """The pictures `which` (B,) bool and their points, mirrored."""
    turned = torch.where(torch.from_numpy(which)[:, None, None, None], images.flip(-1), images)
    other = points[:, LEFT_RIGHT] * (-1, 1) + (images.shape[-1] - 1, 0)
    return turned, np.where(which[:, None, None], other, points)


def _uniform(count: int, low: float, high: float) -> Tensor:
    return torch.empty(count, 1, 1, 1).uniform_(low, high)


def _change_colours(x: Tensor) -> Tensor:
    """Channels run into each other a little; brightness, contrast and the middle tones change."""
    mixing = torch.eye(3) + 0.05 * torch.randn(len(x), 3, 3)
    x = torch.einsum("bchw,bdc->bdhw", x, mixing)
    x = x * (0.12 * torch.randn(len(x), 1, 1, 1)).exp() + 0.05 * torch.randn(len(x), 3, 1, 1)
    x = x.clamp(-1, 1)
    return x + 0.12 * torch.randn(len(x), 1, 1, 1).clamp(-2, 2) * (1 - x * x)


def _soften(x: Tensor) -> Tensor:
    """Anything from sharpened to blurred."""
    smooth = F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return torch.lerp(x, smooth, _uniform(len(x), -0.8, 1.0))


def _lower_resolution(x: Tensor) -> Tensor:
    """Of half of the pictures, to one size for all of them."""
    half, side = len(x) // 2, x.shape[-1]
    smaller = int(side * float(torch.empty(1).uniform_(SMALLEST, 0.95)))
    low = F.interpolate(x[:half], (smaller, smaller), mode="bilinear", antialias=True)
    low = F.interpolate(low, (side, side), mode="bicubic", align_corners=False)
    return torch.cat((low, x[half:]))


def _add_noise(x: Tensor) -> Tensor:
    """Fine, and in blotches."""
    side = x.shape[-1]
    blotches = F.interpolate(torch.randn(len(x), 3, 12, 12), (side, side), mode="bicubic")
    fine = torch.randn_like(x) * _uniform(len(x), 0, 0.07)
    return x + fine + blotches * _uniform(len(x), 0, 0.06)


def _cover(x: Tensor) -> Tensor:
    """A grey rectangle over a part of some."""
    count, side = len(x), x.shape[-1]
    sides = torch.empty(2, count, 1).uniform_(LEAST, MOST) * side
    starts = torch.rand(2, count, 1) * (side - sides)
    steps = torch.arange(side)
    down, across = (steps >= starts) & (steps < starts + sides)
    some = torch.rand(count, 1, 1, 1) < COVERED
    hidden = some & (down[:, None, :, None] & across[:, None, None, :])
    return x.masked_fill(hidden, 0.0)
