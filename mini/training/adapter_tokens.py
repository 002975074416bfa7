"""First stage of the adapter: vision tower and IDFormer learn to tell people apart.

The tokens of one picture, damaged and often without its embedding, must tell the renderer's
identity parameters and the recogniser's mean embedding of that person. The reader on top is
thrown away.
"""

from __future__ import annotations

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
from .adapter import ENCODER, TOKEN_DIM, Adapter
from .data import Portraits
from .identity_inputs import IdentityInputs, tower_input
from .options import Options, curves

RECIPE = Recipe("adapter_tokens", steps=1500, rate=1e-3, warmup=200, decay=0.05, seed=21)
BATCH = 64
ANCHORS = Anchors(hidden=256, doubles=2, singles=4)
"""Of the base model; the layers for it stay as they are here."""
BLIND = 0.4
"""Share of the pictures without embedding: the tower must learn to see faces by itself."""
BLUR = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16


class Reader(nn.Module):
    """The adapter with a reader of its tokens: identity parameters, embedding."""

    def __init__(self, adapter: Adapter, parameters: int, embedding: int) -> None:
        super().__init__()
        self.adapter = adapter
        self.parameters_out, self.embedding_out = parameters, embedding
        size = ENCODER.queries * TOKEN_DIM
        self.head = nn.Sequential(nn.LayerNorm(size), nn.Linear(size, parameters + embedding))
        adapter.layers.requires_grad_(False)  # their turn comes with the base model

    def forward(self, pixels: Tensor, embedding: Tensor) -> tuple[Tensor, Tensor]:
        present = torch.ones(len(pixels), dtype=torch.bool, device=pixels.device)
        tokens = self.adapter.tokens(pixels, embedding, present)
        out = self.head(tokens.float().flatten(1)).float()
        return out.split((self.parameters_out, self.embedding_out), dim=-1)


def damage(grey: Tensor) -> Tensor:
    """(B, 1, S, S) in 0..1: softer, noisier, brighter or darker, by chance; white stays white."""
    count = (len(grey), 1, 1, 1)
    padded = F.pad(grey, (2, 2, 2, 2), mode="replicate")
    soft = F.conv2d(padded, (BLUR[:, None] * BLUR).to(grey)[None, None]).to(grey)
    changed = torch.lerp(grey, soft, torch.rand(count, device=grey.device))
    level = 0.06 * torch.rand(count, device=grey.device).square()
    strength = 1 + 0.3 * (torch.rand(count, device=grey.device) - 0.5)
    changed = 1 - strength * (1 - changed) + level * torch.randn_like(grey)
    return torch.where(grey > 0.995, grey, changed)


class TokensLoss:
    """What the loop minimises."""

    def __init__(self, work: Path, batch: int, device: torch.device) -> None:
        self.data, self.inputs = Portraits(work), IdentityInputs(work)
        self.batch, self.device = batch, device
        self.wanted = centres(self.inputs.arrays["embedding"], self.data.person).to(device)
        self.vectors = torch.from_numpy(self.data.describe_people()).to(device)
        self.module: Reader | None = None

    def __call__(self, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        rows = rng.integers(len(self.data), size=self.batch)
        people = torch.from_numpy(np.array(self.data.person[rows])).to(self.device)
        pixels = tower_input(damage(self.inputs.grey(rows).to(self.device)))
        seen = torch.from_numpy(rng.random((self.batch, 1)) >= BLIND).to(self.device)
        embedding = torch.where(seen, self.inputs.embedding(rows).to(self.device), 0.0)
        told, guessed = self.module(pixels, embedding)
        described = (told - self.vectors[people]).square().mean(-1)
        alike = F.cosine_similarity(guessed, self.wanted[people], dim=-1)
        blind = described[~seen[:, 0]].mean() if (~seen).any() else described.mean()
        shown = {"described": described.mean(), "blind": blind, "alike": alike.mean()}
        loss = described.mean() + (1 - alike).mean()
        return loss, {key: value.detach() for key, value in shown.items()}


def train_tokens(work: Path, device: torch.device, options: Options) -> None:
    """Train; FileNotFoundError before data and identity inputs are there."""
    recipe = replace(RECIPE, steps=options.steps or RECIPE.steps)
    loss = TokensLoss(work, distributed.share(options.batch or BATCH), device)
    torch.manual_seed(recipe.seed)
    loss.module = _reader(loss.data, Adapter(ANCHORS)).to(device)
    with plain_attention(device):
        train(recipe, loss.module, loss, curves(work), device)


def _reader(data: Portraits, adapter: Adapter) -> Reader:
    return Reader(adapter, data.vectors.shape[1], EMBEDDING)


def load_tokens(work: Path, adapter: Adapter) -> None:
    """Give `adapter` the tower and IDFormer trained so far. FileNotFoundError before."""
    need_averages(RECIPE, _reader(Portraits(work), adapter), curves(work))
    adapter.requires_grad_(True)
