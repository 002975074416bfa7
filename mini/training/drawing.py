"""Pictures drawn from noise to the end, as ComfyUI's Euler sampler with CFG does, with gradients;
and whose faces they show. As PuLID's second branch does (arXiv 2404.16022): what one step predicts
at high noise is a blur of all that may still become of it, a drawn picture is not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import comfy.samplers
import numpy as np
import torch
from torch import Tensor

from ...model_patches.training.flux_blocks import Injections
from ...model_patches.training.frozen_base import FrozenBase
from .. import world
from .adapter_diffusion import Examples, open_likeness
from .adapter_likeness import Likeness, crop_grid
from .judges import Finder, Found, read_detector
from .options import models

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


@dataclass(frozen=True)
class Drawn:
    """New pictures (B, 3, H, W) in -1..1, or a little beyond, and the faces in them."""

    pictures: Tensor
    faces: Found


@dataclass(frozen=True)
class Drawing:
    """Draws pictures by the captions of known ones, from new noise."""

    base: FrozenBase
    examples: Examples
    likeness: Likeness
    find: Callable[[Tensor], Found]
    chained: bool = True
    """Whether gradients pass through the latents, see `draw`."""

    def captions(
        self, rows: np.ndarray, somebody: Injections, nobody: Injections
    ) -> tuple[Conditioning, Conditioning]:
        """What the pictures' captions say with `somebody`, and CFG's negatives with `nobody`."""
        unsaid = np.ones(len(rows), bool)
        captions = self.examples.captions
        return (
            Conditioning(*captions(rows, ~unsaid), somebody),
            Conditioning(*captions(rows, unsaid), nobody),
        )

    def noise(self, rows: np.ndarray) -> Tensor:
        """(B, 16, h, w)"""
        return torch.randn_like(self.examples.targets(rows))

    def __call__(self, noise: Tensor, positive: Conditioning, negative: Conditioning) -> Drawn:
        pictures = self.likeness.decoded(
            draw(self.base, noise, positive, negative, chained=self.chained)
        )
        return Drawn(pictures, self.find(pictures.detach()))

    def alike(self, drawn: Drawn, rows: np.ndarray) -> Tensor:
        """Cosines (B,) with the people of the pictures `rows`, 0 where no face is found."""
        found = np.flatnonzero(drawn.faces.there.cpu().numpy())
        cosines = torch.zeros(len(rows), device=drawn.pictures.device)
        if not len(found):
            return cosines
        grid = crop_grid(drawn.faces.points.cpu().numpy()[found])
        where = torch.from_numpy(found).to(cosines.device)
        judged = self.likeness.cosines(drawn.pictures[where], grid, rows[found])
        return cosines.index_add(0, where, judged)


def open_drawing(work: Path, base: FrozenBase, examples: Examples, chained: bool = True) -> Drawing:
    """With the small world's networks. Raises FileNotFoundError before they are trained."""
    path = models(work) / world.DETECTOR
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. Train it first: --only detector.")
    find = Finder(read_detector(path), examples.device)
    return Drawing(base, examples, open_likeness(work, examples), find, chained)
