"""The independent recogniser: two pictures of one person shall be nearer than any two people's.

Contrastive (van den Oord et al. 2018, the loss of SimCLR): of each person of a batch there are two
pictures, and each has to find the other one among all. Beside it the identity parameters are read
from the embedding; that head only speeds learning up and is thrown away.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss, normalize

from ...model_patches.training.loop import Recipe, train
from ..judge_nets import EMBEDDING, FaceMixer, network_input, save_judge
from ..world import JUDGE_RECOGNISER
from .data import Portraits
from .judge_damage import cut_crops, damage
from .judge_data import FIRST, SHOTS, open_pictures
from .options import Options, curves, models

RECIPE = Recipe("judge_recogniser", steps=550, rate=5e-3, warmup=100, decay=0.05, seed=111)
PEOPLE = 48
"""Of a batch."""
TEMPERATURE = 0.1
ATTRIBUTES = 0.5
"""Weight of the identity parameters' mean squared error."""


class Pairs(nn.Module):
    """The recogniser with the head that reads `parameters` identity parameters."""

    def __init__(self, parameters: int) -> None:
        super().__init__()
        self.net = FaceMixer(EMBEDDING)
        self.attributes = nn.Linear(EMBEDDING, parameters)

    def forward(self, crops: Tensor) -> tuple[Tensor, Tensor]:
        """(N, 3, 80, 80) -> unit embeddings (N, 128) and identity parameters (N, parameters)."""
        unit = normalize(self.net(crops).float())
        return unit, self.attributes(unit * EMBEDDING**0.5).float()


def pair_logits(unit: Tensor) -> Tensor:
    """(2 P, D), the halves showing the same people -> (2 P, 2 P): who is whose other picture."""
    itself = torch.eye(len(unit), dtype=torch.bool, device=unit.device)
    return (unit @ unit.T / TEMPERATURE).masked_fill(itself, float("-inf"))


def choose_pairs(people: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """Picture numbers (2 count,): first one picture of each chosen person, then another one."""
    chosen = rng.choice(people, min(count, people), replace=False)
    first = rng.integers(SHOTS, size=len(chosen))
    second = (first + rng.integers(1, SHOTS, len(chosen))) % SHOTS
    return np.concatenate((chosen * SHOTS + first, chosen * SHOTS + second))


def crops_of(data: Portraits, rows: np.ndarray, rng: np.random.Generator) -> Tensor:
    """Damaged crops (N, 3, 80, 80) of these pictures."""
    crops, _ = cut_crops(network_input(data.images[rows]), data.points[rows], rng)
    return damage(crops)


def train_recogniser(work: Path, device: torch.device, options: Options) -> None:
    """Train and write one safetensors file under work/models.

    Raises FileNotFoundError before the data is drawn.
    """
    recipe = replace(RECIPE, steps=options.steps or RECIPE.steps)
    count = (options.batch or 2 * PEOPLE) // 2
    data = open_pictures(work)
    people = torch.from_numpy(data.describe_people()).to(device)
    torch.manual_seed(recipe.seed)
    model = Pairs(people.shape[1]).to(device)

    def loss(_: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        rows = choose_pairs(len(people), count, rng)
        unit, guessed = model(crops_of(data, rows, rng).to(device))
        half = len(rows) // 2
        others = torch.arange(len(rows), device=device).roll(half)
        logits = pair_logits(unit)
        found = cross_entropy(logits, others)
        described = mse_loss(guessed, people[data.person[rows] - FIRST])
        right = (logits.argmax(1) == others).float().mean()
        shown = {"identity": found, "attributes": described, "right": right}
        whole = found + ATTRIBUTES * described
        return whole, {name: part.detach() for name, part in shown.items()}

    train(recipe, model, loss, curves(work), device)
    save_judge(model.net, models(work) / JUDGE_RECOGNISER)
