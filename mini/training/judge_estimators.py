"""The independent estimators of expression, head pose and style, see mini/judge_nets.py."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, l1_loss

from ...model_patches.training.loop import Recipe, train
from ..judge_nets import DEGREES, JudgeEstimators, network_input, save_judge
from ..portraits import EXPRESSIONS, STYLES
from ..world import JUDGE_ESTIMATORS
from .data import Portraits
from .judge_damage import cut_crops, damage, mirror
from .judge_data import open_pictures
from .options import Options, curves, models

RECIPE = Recipe("judge_estimators", steps=550, rate=5e-3, warmup=100, decay=0.05, seed=113)
STYLE = Recipe("judge_style", steps=250, rate=1e-2, warmup=20, seed=114)
"""Afterwards, for the styles alone: they take many pictures and a small network."""
BATCH, PICTURES = 96, 16
"""Faces of a step, and of how many the whole picture is looked at for its style."""
STYLE_BATCH = 48
SMOOTHED = 0.05
"""Share of a label that is spread over the others."""
POSE = 3.0
MIRRORED = (-1.0, 1.0, -1.0)
"""What becomes of yaw, pitch and roll in a mirrored picture."""


@dataclass(frozen=True)
class Examples:
    """One batch on the training device; `angles` (B, 3) as the crops show them, in DEGREES."""

    crops: Tensor
    expression: Tensor
    angles: Tensor
    pictures: Tensor
    style: Tensor


def examples(
    data: Portraits, batch: int, rng: np.random.Generator, device: torch.device
) -> Examples:
    """Random pictures, half of them mirrored."""
    rows = rng.integers(len(data), size=batch)
    which = rng.random(batch) < 0.5
    images, points = mirror(network_input(data.images[rows]), data.points[rows], which)
    crops, rolls = cut_crops(images, points, rng)
    angles = data.angles[rows] * np.where(which[:, None], MIRRORED, 1.0)
    angles[:, 2] -= rolls
    few = min(batch, PICTURES)
    return Examples(
        damage(crops).to(device),
        torch.from_numpy(data.expression[rows]).to(device),
        torch.from_numpy(angles / DEGREES).float().to(device),
        damage(images[:few]).to(device),
        torch.from_numpy(data.style[rows[:few]]).to(device),
    )


def train_estimators(work: Path, device: torch.device, options: Options) -> None:
    """Train and write one safetensors file under work/models.

    Raises FileNotFoundError before the data is drawn.
    """
    recipe = replace(RECIPE, steps=options.steps or RECIPE.steps)
    data, batch = open_pictures(work), options.batch or BATCH
    torch.manual_seed(recipe.seed)
    model = JudgeEstimators(len(EXPRESSIONS), len(STYLES)).to(device)

    def loss(_: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        made = examples(data, batch, rng, device)
        face = model.face(made.crops).float()
        named, turned = face[:, : len(EXPRESSIONS)], face[:, len(EXPRESSIONS) :]
        styles = model.style(made.pictures).float()
        parts = {
            "expression": cross_entropy(named, made.expression, label_smoothing=SMOOTHED),
            "pose": l1_loss(turned, made.angles),
            "style": cross_entropy(styles, made.style, label_smoothing=SMOOTHED),
        }
        right = (named.argmax(1) == made.expression).float().mean()
        whole = parts["expression"] + POSE * parts["pose"] + parts["style"]
        shown = {**parts, "right": right, "degrees": parts["pose"] * DEGREES}
        return whole, {name: part.detach() for name, part in shown.items()}

    train(recipe, model, loss, curves(work), device)
    _train_style(model.style, data, work, device, options)
    names = {"expressions": EXPRESSIONS, "styles": STYLES}
    save_judge(model, models(work) / JUDGE_ESTIMATORS, names)


def _train_style(
    net: nn.Module, data: Portraits, work: Path, device: torch.device, options: Options
) -> None:
    recipe = replace(STYLE, steps=options.steps or STYLE.steps)
    batch = options.batch or STYLE_BATCH

    def loss(_: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        rows = rng.integers(len(data), size=batch)
        pictures = damage(network_input(data.images[rows])).to(device)
        styles = torch.from_numpy(data.style[rows]).to(device)
        found = net(pictures).float()
        wrong = cross_entropy(found, styles, label_smoothing=SMOOTHED)
        right = (found.argmax(1) == styles).float().mean()
        return wrong, {"style": wrong.detach(), "right": right}

    train(recipe, net, loss, curves(work), device)
