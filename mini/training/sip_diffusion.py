"""Teaches the semantic projector: the frozen base, reading the changed text, draws the person.

First the face encoder alone learns to tell the renderer's identity parameters, which costs little;
then all of it learns through the base, as the adapter does: on one step's error, and on whole
drawn pictures, of which the recogniser says who they show. References and targets are drawn freely,
never from one sitting: what both have in common is the person. α spans what the pack uses (0.1, and
0.05 to 0.15 under the context-aware gate), and a little more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .. import world
from . import workers
from .adapter import plain_attention
from .adapter_base import FrozenBase
from .adapter_diffusion import Examples, open_likeness
from .adapter_drawn import WEIGHT
from .captions import captions_of
from .data import SHOTS
from .drawing import Resemblance, Wishes, draw, open_resemblance
from .flow import early_sigmas, noised
from .loop import Recipe, load_averages, train
from .options import Options, curves, models
from .sip import FACE, Projector, write_face_t5

RECIPE = Recipe("sip", steps=600, rate=2e-3, warmup=100, decay=0.02, average=0.99, seed=23)
BATCH = 32
DRAWN = 16
"""Examples of a step once the base takes part, and as many drawn pictures."""
ALPHAS = (0.05, 0.2)
CONTENT = 0.5
"""Share of rows where only the written tokens move, as with scope "content"."""
ALONE = 0.65
"""Share of the run in which the face encoder learns without the base."""
DESCRIBED = 0.1
"""Weight of the identity parameters' error, once the base takes part."""


class Described(nn.Module):
    """The projector with a reader of its face tokens, which is thrown away."""

    def __init__(self, width: int, parameters: int) -> None:
        super().__init__()
        self.projector = Projector(width)
        self.head = nn.Sequential(
            nn.Linear(FACE.tokens * 8, 256), nn.GELU(), nn.Linear(256, parameters)
        )
        self.narrow = nn.Linear(FACE.width, 8)

    def describe(self, patches: Tensor) -> Tensor:
        return self.head(self.narrow(patches).flatten(1)).float()


def strangers(rng: np.random.Generator, people: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Picture numbers of references and targets: one person in two free views."""
    first = rng.integers(people, size=batch) * SHOTS
    reference = rng.integers(SHOTS, size=batch)
    # The two frames of a sitting count as one view: never one for the other.
    step = rng.integers(1, SHOTS, size=batch)
    target = (reference + step) % SHOTS
    sitting = (reference < 2) & (target < 2)
    target = np.where(sitting, rng.integers(2, SHOTS, size=batch), target)
    return first + reference, first + target


def softened(pixels: Tensor) -> Tensor:
    """(B, 3, S, S) in 0..1: brighter or darker, tinted, noisier, by chance."""
    count, device = len(pixels), pixels.device
    tint = 1 + 0.16 * (torch.rand(count, 3, 1, 1, device=device) - 0.5)
    level = 0.05 * torch.rand(count, 1, 1, 1, device=device).square()
    return (pixels * tint + level * torch.randn_like(pixels)).clamp(0, 1)


class SipLoss:
    """What the loop minimises. `batch` examples at first, `drawn` once the base takes part."""

    def __init__(
        self,
        module: Described,
        base: FrozenBase,
        examples: Examples,
        resemblance: Resemblance,
        batch: int,
        drawn: int,
        steps: int,
    ) -> None:
        self.module, self.base, self.examples = module, base, examples
        self.resemblance, self.batch, self.drawn, self.steps = resemblance, batch, drawn, steps
        self.vectors = torch.from_numpy(examples.data.described()).to(base.device)

    def __call__(self, step: int, rng: np.random.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        device, examples = self.base.device, self.examples
        alone = step < ALONE * self.steps
        count = self.batch if alone else self.drawn
        reference, target = strangers(rng, len(examples.data) // SHOTS, count)
        pixels = softened(examples.inputs.face(reference).to(device))
        patches = self.module.projector.patches(pixels)
        people = torch.from_numpy(np.array(examples.data.person[reference])).to(device)
        described = F.mse_loss(self.module.describe(patches), self.vectors[people])
        velocity = alike = torch.zeros((), device=device)
        loss = described
        if not alone:
            velocity = self.velocity(patches, target, rng)
            alike = self.alike(patches, target, rng)
            loss = velocity + WEIGHT * (1 - alike) + DESCRIBED * described
        shown = {"described": described, "velocity": velocity, "alike": alike}
        return loss, {name: value.detach() for name, value in shown.items()}

    def velocity(self, patches: Tensor, target: np.ndarray, rng: np.random.Generator) -> Tensor:
        """The second stage's loss of the adapter, with the prompt leaning instead."""
        text, pooled = self.examples.captions(target, np.zeros(len(target), bool))
        leaned = self.leaned(patches, text, target, rng)
        sigma = early_sigmas(rng, len(target)).to(self.base.device)
        noisy, wanted = noised(self.examples.targets(target), sigma)
        errors = (self.base.velocity(noisy, sigma, leaned, pooled, {}) - wanted).square()
        return (errors * self.examples.weights(target)).mean()

    def alike(self, patches: Tensor, target: np.ndarray, rng: np.random.Generator) -> Tensor:
        """Mean cosine of new pictures by the targets' captions."""
        count = len(target)
        text, pooled = self.examples.captions(np.tile(target, 2), np.arange(2 * count) < count)
        leaned = self.leaned(patches, text[count:], target, rng)
        wishes = Wishes(torch.cat((text[:count], leaned)), pooled, {})
        noise = torch.randn_like(self.examples.targets(target))
        return self.resemblance(draw(self.base, noise, wishes), target).mean()

    def leaned(
        self, patches: Tensor, text: Tensor, target: np.ndarray, rng: np.random.Generator
    ) -> Tensor:
        """The targets' captions, by an α and in a scope of chance."""
        device = self.base.device
        everywhere = torch.from_numpy(rng.random((len(target), 1)) >= CONTENT).to(device)
        scope = self.examples.captions.written(target) | everywhere
        alpha = torch.from_numpy(rng.uniform(*ALPHAS, len(target))).float().to(device)
        return self.module.projector.lean(patches, text.float(), scope, alpha)


def train_sip(work: Path, device: torch.device, options: Options) -> None:
    """Train and write the file below `models`. FileNotFoundError, naming the stage, before."""
    recipe = replace(RECIPE, steps=options.steps or RECIPE.steps)
    base = FrozenBase(models(work) / world.FLUX, device, fast=options.compile)
    examples = Examples(work, captions_of(work, device), device)
    torch.manual_seed(recipe.seed)
    module = Described(base.text_width, examples.data.vectors.shape[1]).to(device)
    resemblance = open_resemblance(models(work), open_likeness(work, examples, device))
    batch, drawn = (workers.share(options.batch or count) for count in (BATCH, DRAWN))
    loss = SipLoss(module, base, examples, resemblance, batch, drawn, recipe.steps)
    with plain_attention(device):
        train(recipe, module, loss, curves(work), device)
    write_face_t5(module.projector, models(work) / world.FACE_T5)


def load_trained(work: Path, module: Described) -> int:
    """The projector as trained so far (averaged weights); the step, 0 before the first."""
    return load_averages(RECIPE, module, curves(work))
