"""Third stage of the adapter: it draws whole pictures, and the recogniser says who they show.

The second stage's loss, on one step's prediction, comes to a stand where that is a blur; the early
steps, which decide who somebody is, hardly learn from it. But what is drawn for the recogniser
alone gets rigid: one turn of the head, one mouth. Weights between those of both stages keep most of
the likeness and most of the obedience (as Wortsman et al. found for fine-tuning, arXiv 2109.01903).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...model_patches.cag import Knobs
from .. import world
from . import workers
from .adapter import Adapter, Anchors, plain_attention, write_files
from .adapter_base import FrozenBase
from .adapter_blocks import Injections
from .adapter_diffusion import RECIPE as BEFORE
from .adapter_diffusion import AdapterLoss, Examples, load_diffusion, strangers
from .captions import captions_of
from .critic import Critic, open_critic
from .data import SHOTS
from .drawing import Drawing, open_drawing
from .loop import Recipe, load_averages, train
from .options import Options, curves, models

RECIPE = Recipe(
    "adapter_drawn",
    steps=1200,
    rate=2e-3,
    warmup=20,
    decay=0.02,
    average=0.99,
    seed=24,
    shares=BEFORE.shares,
)
BATCH = 16
"""Drawn pictures per step, and as many examples of the second stage."""
WEIGHTS = (0.5, 1.0)
"""Of the injection, drawn freely for each picture: users and gates take less than the whole."""
GATED = 0.5
"""Share of the pictures on a course over time."""
GATE = Knobs()
STRAYED = 0.5
"""Weight of the critic's loss."""
WEIGHT = 1.0
"""Of the identity loss; the second stage's loss keeps the pictures what they are, and has 1."""
FUSED = 0.77
"""What the files hold: this share of the third stage's weights, the rest of the second's."""


class DrawnLoss:
    """What the loop minimises."""

    def __init__(self, kept: AdapterLoss, drawing: Drawing, critic: Critic) -> None:
        self.kept, self.drawing, self.critic = kept, drawing, critic

    def __call__(self, step: int, rng: np.random.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        velocity, shown = self.kept(step, rng)
        alike, strayed = self.drawn(rng)
        loss = velocity + WEIGHT * (1 - alike) + STRAYED * strayed
        return loss, {**shown, "alike": alike.detach(), "strayed": strayed.detach()}

    def drawn(self, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
        """Of new pictures by captions of pictures of the referenced people: their mean cosine, and
        how far they are from the same pictures without anybody."""
        kept, drawing, count = self.kept, self.drawing, self.kept.batch
        reference, target = kept.views(rng, len(kept.examples.data) // SHOTS, count)
        noise, (positive, negative) = drawing.noise(target), drawing.captions(target)
        with torch.no_grad():
            plain = drawing(noise, positive, negative)
            nobody = kept.tokens(reference, np.zeros(count, bool))
        somebody = kept.tokens(reference, np.ones(count, bool))
        course = weights(rng, count)

        def injected(sigma: float) -> Injections:
            return kept.adapter.injections(somebody, course(sigma).to(noise))

        positive = replace(positive, injections=injected)
        negative = replace(negative, injections=lambda _: kept.adapter.injections(nobody))
        drawn = drawing(noise, positive, negative)
        return drawing.alike(drawn, target).mean(), self.critic(plain, drawn)


def weights(rng: np.random.Generator, count: int) -> Callable[[float], Tensor]:
    """Sigma -> weights (count,) of the injection: half of them constant, half on a course over
    time as the context-aware gate's, T = 1 - kappa (2 sigma - 1)."""
    weight = torch.from_numpy(rng.uniform(*WEIGHTS, count))
    kappa = torch.from_numpy(rng.random(count) * (rng.random(count) < GATED))
    return lambda sigma: (weight * (1 - kappa * (2 * sigma - 1))).clamp(max=GATE.w_max)


def train_drawn(work: Path, device: torch.device, options: Options) -> None:
    """Train from the second stage on and write both files below `models`.

    Raises FileNotFoundError, naming the stage, for whatever is not there yet.
    """
    recipe = replace(RECIPE, steps=options.steps or RECIPE.steps)
    base = FrozenBase(models(work) / world.FLUX, device, fast=options.compile)
    examples = Examples(work, captions_of(work, device), device)
    adapter = load_diffusion(work, base.anchors).to(device)
    drawing = open_drawing(work, base, examples)
    batch = workers.share(options.batch or BATCH)
    kept = AdapterLoss(adapter, base, examples, batch, views=strangers)
    loss = DrawnLoss(kept, drawing, open_critic(work, device))
    with plain_attention(device):
        train(recipe, adapter, loss, curves(work), device)
    write_files(fused(load_diffusion(work, base.anchors), adapter.cpu(), FUSED), models(work))


@torch.no_grad()
def fused(second: Adapter, third: Adapter, share: float) -> Adapter:
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
    return fused(second, third, FUSED), f"{RECIPE.name}, step {step}"
