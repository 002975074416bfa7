"""Trains the networks that read expression, head pose and style, see mini/estimators.py."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, smooth_l1_loss

from ...model_patches.training.loop import Recipe, train
from ..conv_layers import recalibrate
from ..estimators import DEGREES, Estimators, face_crop, network_input, save_estimators
from ..portraits import EXPRESSIONS, STYLES
from ..world import ESTIMATORS
from .data import Groups, Portraits
from .faces_degrade import degrade
from .faces_pictures import Ahead
from .options import Options, curves, models

RECIPE = Recipe("estimators", steps=1800, rate=2e-3, warmup=100, decay=0.02, seed=13)
CRITIC = replace(RECIPE, name="critic", steps=1000, seed=14)
"""Of the projector's recipe, see critic.py."""
BATCH = 96
GROUP_SHARE = 0.15
SHIFT, ZOOM = 0.05, 0.1
"""Jitter of the crop: deviation in sides of the box, and of the logarithm of its size."""
POSE = 4.0
CALIBRATION = 30

Examples = tuple[np.ndarray, ...]


class Sample:
    """One picture and one of its faces at random."""

    def __init__(self, work: Path) -> None:
        self.singles, self.groups = Portraits(work), Groups(work)

    def __call__(self, rng: np.random.Generator) -> Examples:
        """Crop (80, 80, 3), expression, angles (3,), picture (128, 128, 3), style."""
        source: Portraits | Groups = self.singles
        if len(self.groups) and rng.random() < GROUP_SHARE:
            source = self.groups
        number = int(rng.integers(len(source)))
        face: tuple[int, ...] = (number,)
        if source is self.groups:
            face = (number, int(rng.integers(self.groups.count[number])))
        rgb = degrade(rng, np.asarray(source.images[number]))
        shift = tuple(rng.normal(0, SHIFT, 2))
        crop = face_crop(rgb, source.box[face], shift, float(np.exp(rng.normal(0, ZOOM))))
        return crop, source.expression[face], source.angles[face], rgb, source.style[number]

    def batch(self, rng: np.random.Generator, count: int) -> Examples:
        return tuple(
            np.stack(part) for part in zip(*(self(rng) for _ in range(count)), strict=True)
        )


def train_estimators(work: Path, device: torch.device, options: Options) -> None:
    """Train and write one safetensors file under work/models.

    Raises FileNotFoundError before the data is drawn.
    """
    _train(RECIPE, models(work) / ESTIMATORS, work, device, options)


def train_critic(work: Path, device: torch.device, options: Options) -> None:
    """The same beside the checkpoints: it is no file of the pack."""
    _train(CRITIC, critic_file(curves(work)), work, device, options)


def critic_file(folder: Path) -> Path:
    return folder / f"{CRITIC.name}.safetensors"


def _train(recipe: Recipe, path: Path, work: Path, device: torch.device, options: Options) -> None:
    recipe = replace(recipe, steps=options.steps or recipe.steps)
    sample, batch = Sample(work), options.batch or BATCH
    torch.manual_seed(recipe.seed)
    model = Estimators(len(EXPRESSIONS), len(STYLES))
    model.to(device, memory_format=torch.channels_last)

    def make(rng: np.random.Generator) -> Examples:
        return sample.batch(rng, batch)

    with Ahead(make, recipe.seed, recipe.steps) as batches:

        def loss(step: int, _: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
            crops, expression, angles, pictures, style = batches(step)
            face = model.face(network_input(crops).to(device)).float()
            styles = model.style(network_input(pictures).to(device)).float()
            labels = torch.from_numpy(expression).to(device)
            named, turned = face[:, : len(EXPRESSIONS)], face[:, len(EXPRESSIONS) :]
            truth = torch.from_numpy(angles).float().to(device) / DEGREES
            parts = {
                "expression": cross_entropy(named, labels),
                "pose": smooth_l1_loss(turned, truth, beta=0.2),
                "style": cross_entropy(styles, torch.from_numpy(style).to(device)),
            }
            right = (named.argmax(1) == labels).float().mean()
            degrees = (turned - truth).abs().mean() * DEGREES
            whole = parts["expression"] + POSE * parts["pose"] + parts["style"]
            shown = {**parts, "right": right, "degrees": degrees}
            return whole, {name: part.detach() for name, part in shown.items()}

        train(recipe, model, loss, curves(work), device)

    def forward(number: int) -> None:
        crops, _, _, pictures, _ = make(np.random.default_rng((recipe.seed, 1, number)))
        model.face(network_input(crops).to(device))
        model.style(network_input(pictures).to(device))

    recalibrate(model, forward, CALIBRATION)
    save_estimators(model, path, list(EXPRESSIONS), list(STYLES))
