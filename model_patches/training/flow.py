"""Rectified flow as ComfyUI samples it: a picture at sigma is (1 - sigma) * latent + sigma * noise,
and the model gives noise - latent. Errors in faces count for more than errors elsewhere.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

EMPHASIS = 4.0
"""Weight of an error inside a face; errors elsewhere have weight 1."""


def add_noise(latents: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """Latents (B, C, h, w) at sigma, and the velocity that leads away from them."""
    noise = torch.randn_like(latents)
    share = sigma[:, None, None, None]
    return latents + share * (noise - latents), noise - latents


def clean(noisy: Tensor, velocity: Tensor, sigma: Tensor) -> Tensor:
    """The latents that a prediction stands for."""
    return noisy - sigma[:, None, None, None] * velocity


def early_sigmas(rng: np.random.Generator, count: int) -> Tensor:
    """(count,) between 0 and 1, twice as many at full noise as in the middle, none at 0: one in
    each of `count` equal parts of that distribution. Who somebody is, is decided early in a run."""
    parts = (rng.permutation(count) + rng.random(count)) / count
    return torch.from_numpy(np.sqrt(parts)).float()


def region_weights(
    boxes: np.ndarray, size: tuple[int, int], grid: tuple[int, int], emphasis: float = EMPHASIS
) -> np.ndarray:
    """What the errors of each latent cell count: float32 (N, 1, rows, columns), of mean 1.

    boxes (N, F, 4): left, top, right, bottom in pixels of pictures of `size` (height, width); an
    empty box is nobody. grid: (rows, columns) of the latents. A cell that a box covers counts
    `emphasis` times as much as one that no box touches; a partly covered one in between.
    """
    (height, width), (rows, columns) = size, grid
    scaled = boxes * np.array([columns / width, rows / height] * 2)
    across = _overlap(scaled[..., 0], scaled[..., 2], columns)
    down = _overlap(scaled[..., 1], scaled[..., 3], rows)
    covered = np.einsum("nfy,nfx->nyx", down, across).clip(0, 1)
    weights = 1 + (emphasis - 1) * covered
    return (weights / weights.mean((1, 2), keepdims=True))[:, None].astype(np.float32)


def _overlap(start: np.ndarray, end: np.ndarray, cells: int) -> np.ndarray:
    """Spans (N, F) -> how much of each cell they cover, (N, F, cells) in 0..1."""
    cell = np.arange(cells)
    return (np.minimum(end[..., None], cell + 1) - np.maximum(start[..., None], cell)).clip(0)
