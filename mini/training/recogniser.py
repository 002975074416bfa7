"""The recogniser: who is it, in ArcFace's ONNX contract.

A small convolutional network is taught to tell the training people apart on aligned crops with
CosFace's margin (Wang et al. 2018). A person's centre is not learnt by itself, from six pictures,
but read from the renderer's identity parameters by a small network that all people share; another
head reads those parameters from the embedding. Both only speed learning up and are thrown away.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear, mse_loss, normalize

from ...model_patches.face.align import ARCFACE_112, similarity, warp
from ...model_patches.training.loop import Recipe, train
from ..conv_layers import ConvNorm, LinearNorm, Residual, fold_norms, recalibrate
from ..onnx_graph import Graph
from ..world import RECOGNISER
from .data import Portraits
from .faces_degrade import degrade, move_points
from .faces_pictures import Ahead, to_input
from .options import Options, curves, models

SIDE, EMBEDDING, DIVISOR = 112, 512, 127.5
RECIPE = Recipe("recogniser", steps=2200, rate=2e-3, warmup=200, decay=0.05, seed=11)
BATCH = 128
SCALE, MARGIN = 30.0, 0.3
MARGIN_FROM, MARGIN_FULL = 0.05, 0.4
"""Shares of the run between which the margin grows: an untrained net cannot meet it."""
HIDDEN = 256
"""Width of the network that gives people their centres."""
ATTRIBUTES = 1.0
"""Weight of the identity parameters' mean squared error."""
JITTERS = (0.4, 2.6)
"""Least and greatest standard deviation of the points, in pixels of the crop."""
CALIBRATION = 30


class Recogniser(nn.Sequential):
    """(N, 3, 112, 112) RGB in -1..1 -> (N, 512); its length is about that of ArcFace's, 20."""

    def __init__(self) -> None:
        super().__init__(
            ConvNorm(3, 32, kernel=7, stride=4),
            Residual(32),
            ConvNorm(32, 64, stride=2),
            Residual(64),
            Residual(64),
            ConvNorm(64, 128, stride=2),
            Residual(128),
            ConvNorm(128, 12, kernel=1),
            nn.Flatten(),
            LinearNorm(12 * 7 * 7, EMBEDDING),
        )


class Classes(nn.Module):
    """The recogniser with its two heads for people of `parameters` identity parameters."""

    def __init__(self, parameters: int) -> None:
        super().__init__()
        self.net = Recogniser()
        self.centres = nn.Sequential(
            nn.Linear(parameters, HIDDEN), nn.GELU(), nn.Linear(HIDDEN, EMBEDDING)
        )
        self.attributes = nn.Linear(EMBEDDING, parameters)

    def forward(
        self, crops: Tensor, labels: Tensor, people: Tensor, margin: float
    ) -> tuple[Tensor, Tensor]:
        """Scaled logits with the margin, and the identity parameters.

        crops (N, 3, 112, 112), labels (N,) rows of people (P, parameters).
        """
        unit = normalize(self.net(crops).float())
        cosine = linear(unit, normalize(self.centres(people).float())).float()
        wanted = nn.functional.one_hot(labels, len(people))
        attributes = self.attributes(unit * EMBEDDING**0.5).float()
        return SCALE * (cosine - margin * wanted), attributes


def margin_at(step: int, steps: int) -> float:
    progress = (step / steps - MARGIN_FROM) / (MARGIN_FULL - MARGIN_FROM)
    return MARGIN * min(1.0, max(0.0, progress))


def jitter_crop(rng: np.random.Generator, rgb: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The aligned crop (112, 112, 3), from points as inexact as a detector's."""
    moved = move_points(rng, points, JITTERS)
    return warp(rgb, similarity(moved, ARCFACE_112), SIDE, (0, 0, 0))


def crops_of(data: Portraits, batch: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Crops (batch, 112, 112, 3) uint8 and the numbers of their people."""
    chosen = rng.integers(len(data), size=batch)
    crops = [jitter_crop(rng, degrade(rng, data.images[i]), data.points[i]) for i in chosen]
    return np.stack(crops), data.person[chosen]


def train_recogniser(work: Path, device: torch.device, options: Options) -> None:
    """Train, write the ONNX file under work/models, and its figures on held-out people beside it.

    Raises FileNotFoundError before the data is drawn.
    """
    recipe = replace(RECIPE, steps=options.steps or RECIPE.steps)
    batch = options.batch or BATCH
    data = Portraits(work)
    people = torch.from_numpy(data.describe_people()).to(device)
    torch.manual_seed(recipe.seed)
    model = Classes(people.shape[1]).to(device, memory_format=torch.channels_last)
    with Ahead(lambda rng: crops_of(data, batch, rng), recipe.seed, recipe.steps) as batches:

        def loss(step: int, _: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
            crops, person = batches(step)
            labels = torch.from_numpy(np.asarray(person)).to(device)
            pixels = to_input(crops, DIVISOR, device)
            logits, guessed = model(pixels, labels, people, margin_at(step, recipe.steps))
            told_apart = cross_entropy(logits, labels)
            described = mse_loss(guessed, people[labels])
            right = (logits.argmax(1) == labels).float().mean()
            shown = {"identity": told_apart, "attributes": described, "right": right}
            whole = told_apart + ATTRIBUTES * described
            return whole, {name: part.detach() for name, part in shown.items()}

        train(recipe, model, loss, curves(work), device)
    calibrate(model.net, data, batch, device, recipe.seed)
    write_recogniser(model.net, models(work) / RECOGNISER)


def calibrate(net: nn.Module, data: Portraits, batch: int, device: torch.device, seed: int) -> None:
    """Batch-norm statistics of the averaged weights, on pictures damaged as in training."""

    def forward(number: int) -> None:
        crops, _ = crops_of(data, batch, np.random.default_rng((seed, 1, number)))
        net(to_input(crops, DIVISOR, device))

    recalibrate(net, forward, CALIBRATION)


def write_recogniser(net: nn.Module, path: Path) -> None:
    """Write the ONNX file: (N, 3, 112, 112) -> (N, 512)."""
    graph = Graph("flexid_mini_recogniser")
    flow = graph.input("input.1", ("batch", 3, SIDE, SIDE))
    flow = graph.add(nn.Sequential(*fold_norms(net).cpu()), flow)
    graph.output(flow, "embedding", ("batch", EMBEDDING))
    graph.write(path)
