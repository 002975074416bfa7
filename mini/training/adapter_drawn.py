"""Third stage of the adapter: it draws whole pictures, and the recogniser judges their likeness.

The second stage's loss, on one step's prediction, comes to a stand where that is a blur; the early
steps, which decide who somebody is, hardly learn from it. But what is drawn for the recogniser
alone gets rigid: one turn of the head, one mouth. Weights between those of both stages keep most of
the likeness and most of the obedience (as Wortsman et al. found for fine-tuning, arXiv 2109.01903).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...model_patches.training import distributed
from ...model_patches.training.attention_kernel import plain_attention
from ...model_patches.training.frozen_base import Anchors, FrozenBase
from ...model_patches.training.loop import Recipe, load_averages, train
from .. import world
from .adapter import Adapter, write_files
from .adapter_diffusion import RECIPE as BEFORE
from .adapter_diffusion import AdapterLoss, Examples, load_diffusion, strangers
from .captions import captions_of
from .data import SHOTS
from .drawing import Drawing, open_drawing
from .options import Options, curves, models

RECIPE = Recipe(
    "adapter_drawn",
    steps=776,
    rate=2e-3,
    warmup=20,
    decay=0.02,
    average=0.99,
    seed=24,
    shares=BEFORE.shares,
)
BATCH = 128
"""Drawn pictures per step, and as many examples of the second stage."""
WEIGHT = 1.0
"""Of the identity loss; the second stage's loss keeps the pictures what they are, and has 1."""
FUSED = 0.72
"""What the files hold: this share of the third stage's weights, the rest of the second's."""


class DrawnLoss:
    """What the loop minimises."""

    def __init__(self, kept: AdapterLoss, drawing: Drawing) -> None:
        self.kept, self.drawing = kept, drawing

    def __call__(self, step: int, rng: np.random.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        velocity, shown = self.kept(step, rng)
        alike = self.measure_likeness(rng)
        return velocity + WEIGHT * (1 - alike), {**shown, "alike": alike.detach()}

    def measure_likeness(self, rng: np.random.Generator) -> Tensor:
        """Mean cosine of new pictures by captions of pictures of the referenced people."""
        kept, count = self.kept, self.kept.batch
        reference, target = kept.views(rng, len(kept.examples.data) // SHOTS, count)
        present = np.ones(count, bool)
        somebody, nobody = (
            kept.adapter.injections(kept.tokens(reference, one)) for one in (present, ~present)
        )
        captions = self.drawing.captions(target, somebody, nobody)
        drawn = self.drawing(self.drawing.noise(target), *captions)
        return self.drawing.measure_likeness(drawn, target).mean()


def train_drawn(work: Path, device: torch.device, options: Options) -> None:
    """Train from the second stage on and write both files below `models`.

    Raises FileNotFoundError, naming the stage, for whatever is not there yet.
    """
    recipe = replace(RECIPE, steps=options.steps or RECIPE.steps)
    base = FrozenBase(models(work) / world.FLUX, device, fast=options.compile)
    examples = Examples(work, captions_of(work, device), device)
    adapter = load_diffusion(work, base.anchors).to(device)
    drawing = open_drawing(work, base, examples)
    batch = distributed.share(options.batch or BATCH)
    kept = AdapterLoss(adapter, base, examples, batch, views=strangers)
    with plain_attention(device):
        train(recipe, adapter, DrawnLoss(kept, drawing), curves(work), device)
    if not distributed.rank():
        write_files(
            fuse_adapters(load_diffusion(work, base.anchors), adapter.cpu(), FUSED), models(work)
        )


@torch.no_grad()
def fuse_adapters(second: Adapter, third: Adapter, share: float) -> Adapter:
    """`second`, moved by `share` of the way to `third`."""
    for mine, other in zip(second.parameters(), third.parameters(), strict=True):
        mine.lerp_(other, share)
    return second


def load_trained(work: Path, anchors: Anchors) -> tuple[Adapter, str]:
    """The adapter as its files would be by now, and how far it is.

    FileNotFoundError before the second stage began.
    """
    third = Adapter(anchors)
    second = load_diffusion(work, anchors)
    step = load_averages(RECIPE, third, curves(work))
    if not step:
        return second, BEFORE.name
    return fuse_adapters(second, third, FUSED), f"{RECIPE.name}, step {step}"
