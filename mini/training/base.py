"""Trains FLUX, from nothing, on encoded pictures and their captions; the text encoders are frozen.

Rectified flow as ComfyUI samples it: a picture at sigma is (1 - sigma) * latent + sigma * noise,
and the model gives noise - latent.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .. import world
from ..seeded import Seeded
from . import workers
from .base_model import build_flux, trainable, write_flux
from .base_speed import compiled_blocks
from .captions import captions_of
from .loop import Recipe, train
from .options import Options, curves, models
from .vae_latents import latents

RECIPE = Recipe("base", steps=2500, rate=5e-3, warmup=150, decay=0.01, average=0.999)
BATCH = 64
GROUP_SHARE = 0.12
EMPTY_SHARE = 0.12
"""Captions left out, for classifier-free guidance."""
UNIFORM_SHARE = 0.2
"""Of the noise levels; the others are logit-normal (Esser et al. 2024, arXiv:2403.03206)."""
SETS = ("singles", "groups")


def train_base(work: Path, device: torch.device, options: Options) -> None:
    """Train from the checkpoint in `runs`, then write the file below `models`.

    Raises FileNotFoundError, naming the stage, for whatever is not there yet.
    """
    recipe = replace(RECIPE, steps=options.steps or RECIPE.steps)
    examples = Examples(work, device)
    flux = build_flux(Seeded(recipe.seed)).to(device)
    blocks = compiled_blocks(flux) if options.compile else {}
    loss = Loss(flux, blocks, examples, workers.share(options.batch or BATCH))
    with trainable(flux):
        train(recipe, flux, loss, curves(work), device)
    write_flux(flux, models(work) / world.FLUX)


class Examples:
    """Latents and encoded captions of everything that was drawn."""

    def __init__(self, work: Path, device: torch.device) -> None:
        self.device = device
        self.latents = [latents(work, name) for name in SETS]
        self.captions = [captions_of(work, device, name) for name in SETS]

    def draw(self, rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """`count` examples, float32: latents (N, 16, 16, 16), text (N, T, D), pooled (N, V)."""
        in_groups = int(rng.binomial(count, GROUP_SHARE))
        parts = []
        for stored, captions, number in zip(
            self.latents, self.captions, (count - in_groups, in_groups), strict=True
        ):
            if not number:  # ComfyUI's encoders refuse empty batches
                continue
            rows = np.sort(rng.integers(len(stored), size=number))
            latent = torch.from_numpy(stored[rows]).float().to(self.device)
            parts.append((latent, *captions(rows, rng.random(number) < EMPTY_SHARE)))
        latent, text, pooled = (torch.cat(values) for values in zip(*parts, strict=True))
        return latent, text, pooled


class Loss:
    """What the loop minimises: the mean squared error of the velocity."""

    def __init__(self, flux: nn.Module, blocks: dict, examples: Examples, batch: int) -> None:
        self.flux, self.blocks, self.examples, self.batch = flux, blocks, examples, batch

    def __call__(self, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        latent, text, pooled = self.examples.draw(rng, self.batch)
        sigma = noise_levels(rng, self.batch).to(latent.device)
        noise = torch.randn_like(latent)
        level = sigma[:, None, None, None]
        noisy = (1 - level) * latent + level * noise
        velocity = self.flux(noisy, sigma, text, pooled, transformer_options=self.blocks)
        errors = (velocity.float() - (noise - latent)).square().mean((1, 2, 3))
        late = sigma < 0.5
        shown = {name: errors[mask] for name, mask in (("fine", late), ("coarse", ~late))}
        return errors.mean(), {
            name: part.detach().mean() if len(part) else errors.detach().mean()
            for name, part in shown.items()
        }


def noise_levels(rng: np.random.Generator, count: int) -> Tensor:
    """(count,) between 0 and 1: mostly in the middle, where it matters, some everywhere."""
    middle = 1 / (1 + np.exp(-rng.normal(size=count)))
    level = np.where(rng.random(count) < UNIFORM_SHARE, rng.random(count), middle)
    return torch.from_numpy(level).float()
