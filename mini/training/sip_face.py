"""First stage of the semantic projector: its face encoder learns to tell people apart.

It must tell the renderer's identity parameters, which costs little beside a step through the base.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...model_patches.encoders.faceclip_vit import FaceVit
from ...model_patches.training import distributed
from ...model_patches.training.attention_kernel import plain_attention
from ...model_patches.training.loop import Recipe, need_averages, train
from .data import Portraits
from .identity_inputs import IdentityInputs
from .options import Options, curves
from .sip import FACE, face_encoder

RECIPE = Recipe("sip_face", steps=3000, rate=2e-3, warmup=100, decay=0.02, average=0.99, seed=25)
BATCH = 32


class Teller(nn.Module):
    """Face tokens (B, 144, C) -> identity parameters (B, P); thrown away after training."""

    def __init__(self, parameters: int) -> None:
        super().__init__()
        self.narrow = nn.Linear(FACE.width, 8)
        self.layers = nn.Sequential(
            nn.Linear(FACE.tokens * 8, 256), nn.GELU(), nn.Linear(256, parameters)
        )

    def forward(self, patches: Tensor) -> Tensor:
        return self.layers(self.narrow(patches).flatten(1)).float()


class FaceReader(nn.Module):
    """The face encoder and its reader."""

    def __init__(self, face: FaceVit, teller: Teller) -> None:
        super().__init__()
        self.face, self.teller = face, teller


def soften(pixels: Tensor) -> Tensor:
    """(B, 3, S, S) in 0..1: brighter or darker, tinted, noisier, by chance."""
    count, device = len(pixels), pixels.device
    tint = 1 + 0.16 * (torch.rand(count, 3, 1, 1, device=device) - 0.5)
    level = 0.05 * torch.rand(count, 1, 1, 1, device=device).square()
    return (pixels * tint + level * torch.randn_like(pixels)).clamp(0, 1)


class Described:
    """Error of the identity parameters that are read from face tokens."""

    def __init__(self, data: Portraits, device: torch.device) -> None:
        self.data, self.device = data, device
        self.vectors = torch.from_numpy(data.describe_people()).to(device)

    def __call__(self, told: Tensor, rows: np.ndarray) -> Tensor:
        """told (B, P) of the pictures `rows`; 1 is what a guess of the mean has."""
        people = torch.from_numpy(np.array(self.data.person[rows])).to(self.device)
        return F.mse_loss(told, self.vectors[people])


class FaceLoss:
    """What the loop minimises."""

    def __init__(
        self, reader: FaceReader, inputs: IdentityInputs, described: Described, batch: int
    ) -> None:
        self.reader, self.inputs, self.described, self.batch = reader, inputs, described, batch

    def __call__(self, step: int, rng: np.random.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        rows = rng.integers(len(self.described.data), size=self.batch)
        pixels = soften(self.inputs.face(rows).to(self.described.device))
        patches = self.reader.face(pixels)[0]
        loss = self.described(self.reader.teller(patches), rows)
        return loss, {"described": loss.detach()}


def train_face(work: Path, device: torch.device, options: Options) -> None:
    """Train; FileNotFoundError before data and identity inputs are there."""
    recipe = replace(RECIPE, steps=options.steps or RECIPE.steps)
    data, batch = Portraits(work), distributed.share(options.batch or BATCH)
    torch.manual_seed(recipe.seed)
    reader = new_reader(data.vectors.shape[1]).to(device)
    loss = FaceLoss(reader, IdentityInputs(work), Described(data, device), batch)
    with plain_attention(device):
        train(recipe, reader, loss, curves(work), device)


def new_reader(parameters: int) -> FaceReader:
    return FaceReader(face_encoder(), Teller(parameters))


def load_face(work: Path, reader: FaceReader) -> None:
    """Give `reader` what is trained so far. FileNotFoundError before the first step."""
    need_averages(RECIPE, reader, curves(work))
