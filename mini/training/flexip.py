"""FlexIP on the small Flux: two streams, and a plain IP-Adapter of the same size to compare with.

Half of a batch are stills, which are their own reference; the other half are two pictures of one
person in other views, as the frames of a clip are in the paper. Loss and gate are the paper's
(FlexIP, arXiv 2504.07405, eq. 4 and 5): nothing judges likeness here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...model_patches.adapters.ip_tokens import Features
from ...model_patches.encoders.eva_clip import load_eva_clip
from ...model_patches.encoders.eva_tower import HEAD
from ...model_patches.face.pack import EMBEDDING
from ...model_patches.training import distributed
from ...model_patches.training.attention_kernel import plain_attention
from ...model_patches.training.flexip_flux import (
    FluxRows,
    FluxStreams,
    FluxWidths,
    flux_settings,
    square_errors,
)
from ...model_patches.training.flexip_recipe import export, notes_of
from ...model_patches.training.flexip_rows import Draws, draw_gamma
from ...model_patches.training.flow import add_noise, early_sigmas
from ...model_patches.training.frozen_base import FrozenBase
from ...model_patches.training.loop import Recipe, train
from .. import world
from .adapter_diffusion import Examples, strangers
from .adapter_tokens import damage
from .captions import captions_of
from .data import SHOTS
from .identity_inputs import SIDE, tower_input
from .options import Options, curves, models

RECIPE = Recipe("flexip", steps=1700, rate=2e-3, warmup=100, decay=0.02, seed=31)
PLAIN = replace(RECIPE, name="flexip_plain")
"""The baseline: one stream, always at weight 1, on the same examples for as many steps."""
BATCH = 32
DRAWS = Draws()
SIZES = {"dim": 128, "head": HEAD, "latents": 16, "heads": 2}
TWO = {"tokens": 128, "depth": 2}
ONE = {"tokens": 208, "depth": 3}
"""So that both have the same number of parameters, within 2 %."""


def make_streams(base: FrozenBase, vision: int, pooled: int, personal: bool) -> FluxStreams:
    """Streams of the small world, after each block of the base.

    vision: channels of the tower's patches; pooled: of its class token, without the embedding.
    """
    widths = FluxWidths(
        context=vision,
        pooled=EMBEDDING + pooled,
        text=base.text_width,
        hidden=base.anchors.hidden,
        **SIZES,
        **(TWO if personal else ONE),
    )
    return FluxStreams(widths, base.anchors.all_blocks, personal)


class FlexIPLoss:
    """What the loop minimises."""

    def __init__(
        self,
        streams: FluxStreams,
        base: FrozenBase,
        tower: torch.nn.Module,
        examples: Examples,
        batch: int = BATCH,
    ) -> None:
        """tower: EVA-CLIP's, frozen; batch: over all processes."""
        self.streams, self.base, self.tower, self.examples = streams, base, tower, examples
        self.batch = distributed.share(batch)
        self.two = streams.maker.personal is not None

    def __call__(self, step: int, rng: np.random.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        device, people = self.base.device, len(self.examples.data) // SHOTS
        video = np.arange(self.batch) % 2 == 1
        reference, target = strangers(rng, people, self.batch)
        reference = np.where(video, reference, target)
        chance, dropout = rng.random(self.batch), DRAWS.dropout
        wordless = (chance < dropout) | ((chance >= 2 * dropout) & (chance < 3 * dropout))
        somebody = ~((chance >= dropout) & (chance < 3 * dropout))
        sigma = early_sigmas(rng, self.batch).to(device)
        noisy, wanted = add_noise(self.examples.targets(target), sigma)
        text, pooled = self.examples.captions(target, wordless)
        features = self.look(reference, torch.from_numpy(somebody))
        weights = self.weights(rng, video)
        rows = FluxRows(noisy, wanted, sigma, text, pooled, features, weights)
        squares = square_errors(self.base, self.streams, rows)
        errors = (squares * self.examples.weights(target)).mean((1, 2, 3))
        still = torch.from_numpy(~video).to(device)
        shown = {"image": errors[still].mean(), "video": errors[~still].mean()}
        return errors.mean(), {name: value.detach() for name, value in shown.items()}

    def weights(self, rng: np.random.Generator, video: np.ndarray) -> Tensor:
        """(B, streams): γ and 1 - γ of eq. 5, or 1."""
        if not self.two:
            return torch.ones(self.batch, 1, device=self.base.device)
        drawn = [draw_gamma(bool(one), rng.random(), DRAWS) for one in video]
        gamma = torch.tensor(drawn, dtype=torch.float32, device=self.base.device)
        return torch.stack((gamma, 1 - gamma), dim=1)

    @torch.no_grad()
    def look(self, rows: np.ndarray, there: Tensor) -> Features:
        """What the token makers read of these pictures; zeros for nobody."""
        inputs, device = self.examples.inputs, self.base.device
        pooled, taps = self.tower(tower_input(damage(inputs.grey(rows).to(device))))
        face = F.normalize(inputs.embedding(rows).to(device), dim=-1)
        kept = there.to(device).float()
        return {
            "context": kept[:, None, None] * taps[:, -1].float(),
            "pooled": kept[:, None] * torch.cat((face, pooled.float()), dim=-1),
        }


def train_flexip(work: Path, device: torch.device, options: Options) -> None:
    """Both streams, and their file below `models`."""
    _train(RECIPE, True, world.FLEXIP, work, device, options)


def train_plain(work: Path, device: torch.device, options: Options) -> None:
    """The baseline, and its file below `models`."""
    _train(PLAIN, False, world.FLEXIP_PLAIN, work, device, options)


def _train(
    recipe: Recipe, two: bool, name: str, work: Path, device: torch.device, options: Options
) -> None:
    recipe = replace(recipe, steps=options.steps or recipe.steps)
    base = FrozenBase(models(work) / world.FLUX, device, fast=options.compile)
    vision = load_eva_clip(models(work) / world.EVA)
    examples = Examples(work, captions_of(work, device), device)
    torch.manual_seed(recipe.seed)
    streams = make_streams(base, vision.dims.width, vision.dims.output, two).to(device)
    tower = vision.patcher.model.to(device)
    loss = FlexIPLoss(streams, base, tower, examples, options.batch or BATCH)
    with plain_attention(device):
        train(recipe, streams, loss, curves(work), device)
    if not distributed.rank():
        write_file(streams.cpu(), models(work) / name, recipe.steps)


def write_file(streams: FluxStreams, path: Path, steps: int) -> None:
    """A FlexIP file for a Flux, in 16 bits."""
    two = streams.maker.personal is not None
    notes = notes_of(streams, DRAWS, steps) if two else {"steps": str(steps)}
    export(path, streams, flux_settings(streams, SIDE, notes))
