"""Between the two trainings of SAA's adapter: IDFormer learns to tell what a face does.

The small world's adapter learnt from other pictures of a person, so its tokens drop expression and
pose; what is not in the tokens, no base can draw from them. And what little differs between tokens
of two faces is small beside what all tokens share, so layers learn slowly to read it. So each
expression and each angle gets a direction of its own, in which tokens did not differ before, and is
told there at a size that layers cannot miss. A reader sees to it that who it is stays told, too.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...model_patches.face.pack import EMBEDDING
from ...model_patches.training import distributed
from ...model_patches.training.attention_kernel import plain_attention
from ...model_patches.training.frozen_base import Anchors
from ...model_patches.training.identity_loss import centres
from ...model_patches.training.loop import Recipe, need_averages, train
from ..portraits.shots import EXPRESSIONS
from .adapter import ENCODER, TOKEN_DIM, as_read
from .adapter_tokens import ANCHORS, damage
from .data import Portraits
from .identity_inputs import IdentityInputs, tower_input
from .options import Options, curves
from .saa import SaaAdapter, load_first

RECIPE = Recipe(
    "saa_motion",
    steps=650,
    rate=2e-3,
    warmup=30,
    decay=0.02,
    average=0.98,
    seed=61,
    shares={"adapter": 0.5, "reader": 0.1},
)
BATCH = 64
TURNS = (30.0, 15.0)
"""Degrees of yaw and pitch that count as 1. The encoder sees every face upright."""
SIZE = 4.0
"""What 1 is in a token's direction; tokens are seen after a LayerNorm, with variance 1."""
NAMED, TURNED = 5.0, 10.0
"""Weights of the errors in expression and angles."""
SEEN = 384
"""Pictures from which the directions are chosen."""


class Reader(nn.Module):
    """What tokens tell: motion in fixed directions, the person by a layer."""

    directions: Tensor

    def __init__(self, parameters: int) -> None:
        super().__init__()
        motions = len(EXPRESSIONS) + len(TURNS)
        self.register_buffer("directions", torch.zeros(TOKEN_DIM, motions))
        self.parts = (parameters, EMBEDDING)
        size = ENCODER.queries * TOKEN_DIM
        self.head = nn.Sequential(nn.LayerNorm(size), nn.Linear(size, sum(self.parts)))

    @torch.no_grad()
    def choose_directions(self, tokens: Tensor) -> None:
        """Those in which these tokens (B, N, C) differ least."""
        seen = as_read(tokens.float()).flatten(0, 1)
        _, directions = torch.linalg.eigh(torch.cov(seen.T))
        self.directions.copy_(directions[:, : self.directions.shape[1]])

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """tokens (B, N, C) -> motion (B, expressions + angles), identity parameters, embedding."""
        motion = as_read(tokens.float()).mean(1) @ self.directions
        told, guessed = self.head(tokens.float().flatten(1)).float().split(self.parts, dim=-1)
        return motion, told, guessed


class Truth:
    """What a set's pictures show."""

    def __init__(self, data: Portraits, inputs: IdentityInputs, device: torch.device) -> None:
        self.data, self.device = data, device
        self.centres = centres(inputs.arrays["embedding"], data.person).to(device)
        self.vectors = torch.from_numpy(data.describe_people()).to(device)
        self.turns = torch.tensor(TURNS, device=device)

    def errors(
        self, read: tuple[Tensor, Tensor, Tensor], rows: np.ndarray
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The mean error of what a Reader says of these pictures, and named parts of it."""
        motion, told, guessed = read
        people, expression = self._of(self.data.person, rows), self._of(self.data.expression, rows)
        angles = self._of(self.data.angles, rows)[:, : len(TURNS)] / self.turns
        count = len(EXPRESSIONS)
        named = F.one_hot(expression, count).float() - 1 / count
        missed = (motion / SIZE - torch.cat((named, angles), dim=1)).square()
        in_name, in_turn = missed[:, :count].sum(1).mean(), missed[:, count:].mean()
        described = (told - self.vectors[people]).square().mean()
        alike = F.cosine_similarity(guessed, self.centres[people], dim=-1).mean()
        right = (motion[:, :count].argmax(-1) == expression).float().mean()
        shown = {"expression": right, "angles": in_turn, "described": described, "alike": alike}
        error = NAMED * in_name + TURNED * in_turn + described + 1 - alike
        return error, {name: value.detach() for name, value in shown.items()}

    def _of(self, values: np.ndarray, rows: np.ndarray) -> Tensor:
        return torch.from_numpy(np.array(values[rows])).to(self.device)


class Taught(nn.Module):
    """The adapter with the reader of its tokens. Only IDFormer and the reader are trained."""

    def __init__(self, adapter: SaaAdapter, parameters: int) -> None:
        super().__init__()
        self.adapter, self.reader = adapter, Reader(parameters)
        adapter.layers.requires_grad_(False)


class MotionLoss:
    """What the loop minimises."""

    def __init__(self, work: Path, batch: int, device: torch.device) -> None:
        self.inputs = IdentityInputs(work)
        self.truth = Truth(Portraits(work), self.inputs, device)
        self.batch, self.device = batch, device
        self.module: Taught | None = None

    def __call__(self, step: int, rng: np.random.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        rows = rng.integers(len(self.inputs), size=self.batch)
        return self.truth.errors(self.module.reader(self.tokens(rows)), rows)

    def tokens(self, rows: np.ndarray) -> Tensor:
        """(B, N, C) of these pictures, damaged."""
        pixels = tower_input(damage(self.inputs.grey(rows).to(self.device)))
        embedding = self.inputs.embedding(rows).to(self.device)
        present = torch.ones(len(rows), dtype=torch.bool, device=self.device)
        return self.module.adapter.tokens(pixels, embedding, present)


def train_motion(work: Path, device: torch.device, options: Options) -> None:
    """Train from the first stage on; what it learns is in its checkpoint.

    Raises FileNotFoundError, naming the stage, for whatever is not there yet.
    """
    recipe = replace(RECIPE, steps=options.steps or RECIPE.steps)
    loss = MotionLoss(work, distributed.share(options.batch or BATCH), device)
    adapter = load_first(work, ANCHORS)
    torch.manual_seed(recipe.seed)
    loss.module = Taught(adapter, loss.truth.vectors.shape[1]).to(device)
    with torch.no_grad():
        loss.module.reader.choose_directions(loss.tokens(np.arange(min(SEEN, len(loss.inputs)))))
    with plain_attention(device):
        train(recipe, loss.module, loss, curves(work), device)


def load_taught(work: Path, anchors: Anchors) -> Taught:
    """With this stage's averaged weights. FileNotFoundError before it began."""
    data = Portraits(work)
    taught = Taught(SaaAdapter(anchors), data.describe_people().shape[1])
    need_averages(RECIPE, taught, curves(work))
    return taught
