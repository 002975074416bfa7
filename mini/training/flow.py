"""Rectified flow as ComfyUI samples it: a picture at sigma is (1 - sigma) * latent + sigma * noise,
and the model gives noise - latent. Errors in faces count for more than errors elsewhere.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .data import SIZE
from .vae_latents import EDGE

FACE = 4.0
"""What an error in a face counts, where one elsewhere counts 1."""


def noised(latents: Tensor, sigma: Tensor) -> tuple[Tensor, Tensor]:
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


def face_weights(boxes: np.ndarray) -> np.ndarray:
    """Boxes (N, F, 4) in pixels -> what the errors of each latent cell count, float32.

    (N, 1, EDGE, EDGE), of mean 1; boxes of nobody are empty.
    """
    cells = np.arange(EDGE)
    scaled = boxes[..., None] * (EDGE / SIZE)
    across = (np.minimum(scaled[:, :, 2], cells + 1) - np.maximum(scaled[:, :, 0], cells)).clip(0)
    down = (np.minimum(scaled[:, :, 3], cells + 1) - np.maximum(scaled[:, :, 1], cells)).clip(0)
    covered = np.einsum("nfy,nfx->nyx", down, across).clip(0, 1)
    weights = 1 + (FACE - 1) * covered
    return (weights / weights.mean((1, 2), keepdims=True))[:, None].astype(np.float32)
