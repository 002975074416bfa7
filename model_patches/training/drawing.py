"""Sampling whole pictures with gradients, as ComfyUI's Euler sampler with CFG does.

PuLID's second branch does this (arXiv 2404.16022): what one step predicts at high noise is a blur
of all that may still become of it, a sampled picture is not.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import comfy.samplers
import torch
from torch import Tensor

from .flux_blocks import Injections
from .frozen_base import FrozenBase

STEPS = 6
SCHEDULER = "sgm_uniform"
CFG = 3.0


@dataclass(frozen=True)
class Conditioning:
    """What the base reads of B rows: text (B, T, D), pooled (B, V), and what is injected."""

    text: Tensor
    pooled: Tensor
    injections: Injections = field(default_factory=dict)


def draw(
    base: FrozenBase,
    noise: Tensor,
    positive: Conditioning,
    negative: Conditioning,
    steps: int = STEPS,
    chained: bool = True,
) -> Tensor:
    """noise (B, 16, h, w) -> latents of as many pictures.

    Not `chained`, gradients reach `positive` through every step's own velocity alone, not through
    what it changes for later steps, as in DRTune (arXiv 2405.00760): a third less work.
    """
    sigmas = comfy.samplers.calculate_sigmas(base.sampling, SCHEDULER, steps).tolist()
    latents = noise
    for now, after in zip(sigmas[:-1], sigmas[1:], strict=True):
        seen = latents if chained else latents.detach()
        with torch.set_grad_enabled(chained and torch.is_grad_enabled()):
            away = _velocity(base, seen, now, negative)
        towards = _velocity(base, seen, now, positive)
        latents = latents + (after - now) * (away + CFG * (towards - away))
    return latents


def _velocity(base: FrozenBase, seen: Tensor, now: float, by: Conditioning) -> Tensor:
    sigma = torch.full((len(seen),), now, device=seen.device)
    return base.velocity(seen, sigma, by.text, by.pooled, by.injections)
