"""Rectified flow as ComfyUI samples it: a picture at sigma is (1 - sigma) * latent + sigma * noise,
and the model gives noise - latent. Errors in faces count for more than errors elsewhere.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor

EMPHASIS = 4.0
"""Weight of an error inside a face; errors elsewhere have weight 1."""
SIGMAS = {
    "paper": "EditID's list: 1000 levels, shifted as for 4096 tokens whatever the size",
    "resolution": "shifted as Flux samples a picture of that size",
    "logit_normal": "mostly in the middle",
    "uniform": "all alike",
}
"""How noise levels are drawn."""
PAPER_STEPS, PAPER_TOKENS = 999, 4096
_TOKENS, _SHIFTS = (256, 4096), (0.5, 1.15)
"""Flux's shift grows with the number of image tokens, along this line."""
_PATCH = 4
"""Latent cells of an image token."""


def add_noise(latents: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Latents (B, C, h, w) at sigma, and the velocity that leads away from them."""
    return blend(latents, torch.randn_like(latents), sigma)


def blend(latents: Tensor, noise: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """As `add_noise`, with this noise."""
    share = sigma[:, None, None, None]
    return latents + share * (noise - latents), noise - latents


def clean(noisy: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
    """The latents that a prediction stands for."""
    return noisy - sigma[:, None, None, None] * velocity


def sample_sigmas(steps: int, tokens: int) -> Tensor:
    """(steps + 1,) float64, from 1 to 0: the sigmas at which Flux samples so many image tokens."""
    return shift_level(torch.linspace(1, 0, steps + 1), tokens).double()


def shift_level(level: Tensor, tokens: int) -> Tensor:
    """Levels in 0..1 -> sigmas, moved towards noise: e^m / (e^m + 1/level - 1), m by the tokens."""
    slope = (_SHIFTS[1] - _SHIFTS[0]) / (_TOKENS[1] - _TOKENS[0])
    shift = math.exp(_SHIFTS[0] + slope * (tokens - _TOKENS[0]))
    return shift / (shift + (1 / level - 1))


def count_tokens(latents: Tensor) -> int:
    """Image tokens that a Flux makes of latents (..., h, w)."""
    return latents.shape[-2] * latents.shape[-1] // _PATCH


def draw_sigma(kind: str, chance: float, tokens: int) -> float:
    """The sigma that a chance in (0, 1) stands for. kind: a key of SIGMAS; tokens: of the image."""
    if kind == "paper":
        levels = _paper_sigmas()
        return float(levels[int(chance * len(levels))])
    level = torch.tensor(chance, dtype=torch.float64)
    if kind == "resolution":
        return float(shift_level(level, tokens))
    if kind == "logit_normal":
        return float(torch.sigmoid(torch.special.ndtri(level)))
    return chance


@cache
def _paper_sigmas() -> Tensor:
    return sample_sigmas(PAPER_STEPS, PAPER_TOKENS)


def early_sigmas(rng: np.random.Generator, count: int, power: float = 0.5) -> Tensor:
    """(count,) between 0 and 1, twice as many at full noise as in the middle, none at 0: one in
    each of `count` equal parts of that distribution. Who somebody is, is decided early in a run.

    power: to which evenly spread chances are raised; a smaller one draws more noise still."""
    parts = (rng.permutation(count) + rng.random(count)) / count
    return torch.from_numpy(parts**power).float()


def region_weights(
    boxes: np.ndarray, size: tuple[int, int], grid: tuple[int, int], emphasis: float = EMPHASIS
) -> np.ndarray:
    """What the errors of each latent cell count: float32 (N, 1, rows, columns), of mean 1.

    boxes (N, F, 4): left, top, right, bottom in pixels of pictures of `size` (height, width); an
    empty box is nobody. grid: (rows, columns) of the latents. A cell that a box covers counts
    `emphasis` times as much as one that no box touches; a partly covered one in between.
    """
    covered = cover_cells(boxes, size, grid)
    weights = 1 + (emphasis - 1) * covered
    return (weights / weights.mean((1, 2), keepdims=True))[:, None].astype(np.float32)


def cover_cells(boxes: np.ndarray, size: tuple[int, int], grid: tuple[int, int]) -> np.ndarray:
    """How much of each latent cell the boxes cover: (N, rows, columns) in 0..1, arguments as in
    `region_weights`."""
    (height, width), (rows, columns) = size, grid
    scaled = boxes * np.array([columns / width, rows / height] * 2)
    across = _overlap(scaled[..., 0], scaled[..., 2], columns)
    down = _overlap(scaled[..., 1], scaled[..., 3], rows)
    return np.einsum("nfy,nfx->nyx", down, across).clip(0, 1)


def _overlap(start: np.ndarray, end: np.ndarray, cells: int) -> np.ndarray:
    """Spans (N, F) -> how much of each cell they cover, (N, F, cells) in 0..1."""
    cell = np.arange(cells)
    return (np.minimum(end[..., None], cell + 1) - np.maximum(start[..., None], cell)).clip(0)
