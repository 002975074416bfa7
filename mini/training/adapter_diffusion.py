"""Second stage of the adapter: the frozen base learns to draw the person in a photo.

Reference and target are different pictures of one person. Half of the pairs are two frames of one
sitting, as real collections are full of: expression, pose and light then leak from the reference,
which is the rigidity that FlexID's gate is there for. Source of the losses: PuLID (arXiv
2404.16022).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...model_patches.training import distributed
from ...model_patches.training.attention_kernel import plain_attention
from ...model_patches.training.flow import add_noise, clean, early_sigmas, region_weights
from ...model_patches.training.frozen_base import Anchors, FrozenBase
from ...model_patches.training.identity_loss import JUDGED, centres
from ...model_patches.training.loop import Recipe, need_averages, train
from .. import world
from .adapter import Adapter
from .adapter_likeness import Likeness
from .adapter_tokens import damage, load_tokens
from .captions import Captions, captions_of
from .data import SHOTS, SIZE, Portraits
from .frozen_faces import read_recogniser
from .identity_inputs import IdentityInputs, tower_input
from .options import Options, curves, models
from .vae_latents import EDGE, latents

RECIPE = Recipe(
    "adapter",
    steps=3600,
    rate=3e-3,
    warmup=100,
    decay=0.02,
    seed=22,
    # They know who somebody is from the first stage, and forget it at the rate of new layers.
    shares={"tower": 0.13, "encoder": 0.13},
)
BATCH = 32
SITTING = 0.5
"""Share of pairs that are two frames of one sitting."""
DROPPED = 0.05
"""Share of rows without caption, without identity, and without both, each."""


@dataclass(frozen=True)
class LikenessPlan:
    """How much the identity loss counts, on how many pictures of a step, from which step on.

    Workers share the pictures.
    """

    weight: float = 0.5
    pictures: int = 16
    start: float = 0.1
    """Share of the run."""


class Examples:
    """Builds the examples of one step of an identity recipe."""

    def __init__(self, work: Path, captions: Captions, device: torch.device) -> None:
        self.data, self.inputs = Portraits(work), IdentityInputs(work)
        self.latents, self.captions, self.device = latents(work, "singles"), captions, device
        self.centres = centres(self.inputs.arrays["embedding"], self.data.person).to(device)

    def targets(self, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(self.latents[rows]).float().to(self.device)

    def people(self, rows: np.ndarray) -> Tensor:
        """(B, 512) mean unit embeddings of the people in these pictures."""
        return self.centres[torch.from_numpy(np.array(self.data.person[rows])).to(self.device)]

    def weights(self, rows: np.ndarray) -> Tensor:
        """What errors count in these pictures: (B, 1, h, w), most in the face."""
        boxes = self.data.box[rows][:, None]
        made = region_weights(boxes, (SIZE, SIZE), (EDGE, EDGE))
        return torch.from_numpy(made).to(self.device)


def pairs(rng: np.random.Generator, people: int, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Picture numbers of references and targets: one person, never the same picture."""
    sitting = rng.random(batch) < SITTING
    reference = np.where(sitting, rng.integers(2, size=batch), rng.integers(SHOTS, size=batch))
    other = (reference + rng.integers(1, SHOTS, size=batch)) % SHOTS
    target = np.where(sitting, 1 - reference, other)
    first = rng.integers(people, size=batch) * SHOTS
    return first + reference, first + target


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


Views = Callable[[np.random.Generator, int, int], tuple[np.ndarray, np.ndarray]]
"""(randomness, people, batch) -> picture numbers of references and targets."""


def drops(rng: np.random.Generator, batch: int) -> tuple[np.ndarray, np.ndarray]:
    """(batch,) bool: without caption, without identity. Both together is CFG's negative."""
    chance = rng.random(batch)
    return chance < 2 * DROPPED, (chance >= DROPPED) & (chance < 3 * DROPPED)


class AdapterLoss:
    """What the loop minimises."""

    def __init__(
        self,
        adapter: Adapter,
        base: FrozenBase,
        examples: Examples,
        batch: int,
        likeness: Likeness | None = None,
        plan: LikenessPlan | None = None,
        steps: int = 0,
        views: Views = pairs,
    ) -> None:
        """Without `likeness` the plan and the number of steps play no part."""
        self.adapter, self.base, self.examples, self.batch = adapter, base, examples, batch
        self.likeness, self.plan, self.steps = likeness, plan or LikenessPlan(), steps
        self.views = views

    def __call__(self, step: int, rng: np.random.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        people = len(self.examples.data) // SHOTS
        reference, target = self.views(rng, people, self.batch)
        wordless, nobody = drops(rng, self.batch)
        sigma = early_sigmas(rng, self.batch).to(self.base.device)
        noisy, wanted = add_noise(self.examples.targets(target), sigma)
        injections = self.adapter.injections(self.tokens(reference, ~nobody))
        text = self.examples.captions(target, wordless)
        found = self.base.velocity(noisy, sigma, *text, injections)
        loss = ((found - wanted).square() * self.examples.weights(target)).mean()
        shown = {"velocity": loss.detach()}
        if self.likeness is not None:
            level = sigma.cpu().numpy()
            fit = np.flatnonzero(~nobody & (level > JUDGED[0]) & (level < JUDGED[1]))
            alike = self.measure_likeness(
                step, fit[: self.plan.pictures], noisy, found, sigma, target
            )
            loss = loss + self.plan.weight * (1 - alike)
            shown["alike"] = alike.detach()
        return loss, shown

    def measure_likeness(
        self,
        step: int,
        judged: np.ndarray,
        noisy: Tensor,
        velocity: Tensor,
        sigma: Tensor,
        target: np.ndarray,
    ) -> Tensor:
        """Mean cosine of the judged rows' predictions; 0 before the plan's start."""
        if step < self.plan.start * self.steps or not len(judged):
            return torch.zeros((), device=self.base.device)
        predicted = clean(noisy[judged], velocity[judged], sigma[judged])
        return self.likeness(predicted, target[judged]).mean()

    def tokens(self, rows: np.ndarray, present: np.ndarray) -> Tensor:
        inputs, device = self.examples.inputs, self.base.device
        pixels = tower_input(damage(inputs.grey(rows).to(device)))
        embedding = inputs.embedding(rows).to(device)
        return self.adapter.tokens(pixels, embedding, torch.from_numpy(present).to(device))


def plan_of(options: Options) -> LikenessPlan:
    asked = {
        "weight": options.likeness,
        "pictures": options.likeness_pictures,
        "start": options.likeness_start,
    }
    plan = replace(LikenessPlan(), **{k: v for k, v in asked.items() if v is not None})
    return replace(plan, pictures=distributed.share(plan.pictures))


def open_likeness(work: Path, examples: Examples) -> Likeness:
    judge = read_recogniser(models(work) / world.RECOGNISER)
    vae = models(work) / world.VAE
    return Likeness(vae, judge, examples.data, examples.people, examples.device)


def train_adapter(work: Path, device: torch.device, options: Options) -> None:
    """Train from the tokens' stage on; what it learns is in its checkpoint.

    Raises FileNotFoundError, naming the stage, for whatever is not there yet.
    """
    plan = plan_of(options)
    recipe = replace(RECIPE, steps=options.steps or RECIPE.steps)
    base = FrozenBase(models(work) / world.FLUX, device, fast=options.compile)
    examples = Examples(work, captions_of(work, device), device)
    torch.manual_seed(recipe.seed)
    adapter = Adapter(base.anchors).to(device)
    load_tokens(work, adapter)
    likeness = open_likeness(work, examples) if plan.weight else None
    batch = distributed.share(options.batch or BATCH)
    loss = AdapterLoss(adapter, base, examples, batch, likeness, plan, recipe.steps)
    with plain_attention(device):
        train(recipe, adapter, loss, curves(work), device)


def load_diffusion(work: Path, anchors: Anchors) -> Adapter:
    """With this stage's averaged weights, finished or not. FileNotFoundError before it began."""
    adapter = Adapter(anchors)
    need_averages(RECIPE, adapter, curves(work))
    return adapter
