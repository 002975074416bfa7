"""Degrades pictures before a face network sees them: blur, noise, JPEG, colour, wobble.

The networks will judge pictures painted by a small diffusion model through a VAE. Nothing here
imitates one exactly; the span of damage is wide enough that theirs lies inside.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import cv2
import numpy as np

from ...model_patches.face.align import ARCFACE_112, similarity

UNTOUCHED = 0.2
"""Share of pictures that stay as they were drawn."""

Change = Callable[[np.random.Generator, np.ndarray], np.ndarray]


def degrade(rng: np.random.Generator, rgb: np.ndarray, wobble: bool = True) -> np.ndarray:
    """(H, W, 3) uint8 -> the same shape. `wobble` may move features by up to about a pixel."""
    if rng.random() < UNTOUCHED:
        return rgb
    chances = rng.random(len(CHANGES))
    for chance, (share, change) in zip(chances, CHANGES, strict=True):
        if chance < share and (wobble or change is not _wobble):
            rgb = change(rng, rgb)
    return rgb


def move_points(
    rng: np.random.Generator, points: np.ndarray, spread: tuple[float, float]
) -> np.ndarray:
    """(5, 2) points as a detector finds them: moved by `spread` (least and greatest standard
    deviation, in pixels of the aligned 112 px crop)."""
    scale = np.linalg.det(similarity(points, ARCFACE_112)[:, :2]) ** 0.5
    return points + rng.normal(0, rng.uniform(*spread) / scale, points.shape)


def _wobble(rng: np.random.Generator, rgb: np.ndarray) -> np.ndarray:
    """Shift small regions, as a generator does that is not sure where a line runs."""
    height, width = rgb.shape[:2]
    coarse = rng.normal(0, rng.uniform(0.3, 1.0), (8, 8, 2)).astype(np.float32)
    shift = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    rows, columns = np.mgrid[:height, :width].astype(np.float32)
    across, down = columns + shift[..., 0], rows + shift[..., 1]
    return cv2.remap(rgb, across, down, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)


def _blur(rng: np.random.Generator, rgb: np.ndarray) -> np.ndarray:
    return cv2.GaussianBlur(rgb, (0, 0), rng.uniform(0.4, 1.6))


def _rescale(rng: np.random.Generator, rgb: np.ndarray) -> np.ndarray:
    """Down to between 45 and 90 per cent, and up again."""
    height, width = rgb.shape[:2]
    share = rng.uniform(0.45, 0.9)
    small = round(width * share), round(height * share)
    down, up = rng.choice([cv2.INTER_AREA, cv2.INTER_LINEAR, cv2.INTER_CUBIC], 2)
    less = cv2.resize(rgb, small, interpolation=int(down))
    return cv2.resize(less, (width, height), interpolation=int(up))


def _smooth(rng: np.random.Generator, rgb: np.ndarray) -> np.ndarray:
    """Flat areas without texture, edges kept: what a VAE with few channels leaves."""
    if rng.random() < 0.5:
        return cv2.medianBlur(rgb, 3)
    return cv2.bilateralFilter(rgb, 5, rng.uniform(20, 60), rng.uniform(1, 3))


def _sharpen(rng: np.random.Generator, rgb: np.ndarray) -> np.ndarray:
    """Larger renderings are sharper than the training pictures."""
    amount = rng.uniform(0.3, 1.2)
    return cv2.addWeighted(rgb, 1 + amount, cv2.GaussianBlur(rgb, (0, 0), 1.0), -amount, 0)


def _colour(rng: np.random.Generator, rgb: np.ndarray) -> np.ndarray:
    """Brightness, contrast, gamma and a tint, then more or less saturation."""
    ramp = np.arange(256, dtype=np.float32)[:, None] / 255
    curve = np.power(ramp, np.exp(rng.normal(0, 0.15)) * np.exp(rng.normal(0, 0.06, 3)))
    curve = (curve - 0.5) * rng.uniform(0.75, 1.2) + 0.5 + rng.normal(0, 0.06)
    table = (np.clip(curve, 0, 1) * 255).round().astype(np.uint8)
    changed = cv2.LUT(rgb, table[:, None, :])
    grey = cv2.cvtColor(cv2.cvtColor(changed, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    saturation = rng.uniform(0.6, 1.25)
    return cv2.addWeighted(changed, saturation, grey, 1 - saturation, 0)


def _noise(rng: np.random.Generator, rgb: np.ndarray) -> np.ndarray:
    return _add(rgb, _normal(rng, rgb.shape) * rng.uniform(2, 12))


def _blotches(rng: np.random.Generator, rgb: np.ndarray) -> np.ndarray:
    """Coloured spots of the size of a latent's pixels."""
    height, width = rgb.shape[:2]
    cell = int(rng.choice([4, 8, 16]))
    coarse = rng.standard_normal((height // cell + 2, width // cell + 2, 3), np.float32)
    spots = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return _add(rgb, spots * rng.uniform(3, 12))


def _jpeg(rng: np.random.Generator, rgb: np.ndarray) -> np.ndarray:
    quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(25, 92))]
    return cv2.imdecode(cv2.imencode(".jpg", rgb, quality)[1], cv2.IMREAD_COLOR)


def _add(rgb: np.ndarray, change: np.ndarray) -> np.ndarray:
    return np.clip(rgb + change, 0, 255).astype(np.uint8)


@cache
def _bank() -> np.ndarray:
    return np.random.default_rng(0).standard_normal(1 << 21, np.float32)


def _normal(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """A random stretch of the bank: drawing afresh would cost more than all else here."""
    size = int(np.prod(shape))
    start = int(rng.integers(0, _bank().size - size))
    return _bank()[start : start + size].reshape(shape)


CHANGES: tuple[tuple[float, Change], ...] = (
    (0.25, _wobble),
    (0.7, _colour),
    (0.3, _blur),
    (0.3, _rescale),
    (0.15, _sharpen),
    (0.2, _smooth),
    (0.2, _blotches),
    (0.3, _noise),
    (0.2, _jpeg),
)
"""Share of the touched pictures, and the change, in this order."""
