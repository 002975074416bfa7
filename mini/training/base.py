"""Trains FLUX, from nothing, on encoded pictures and their captions; the text encoders are frozen.

Two things make it learn faces soon. Errors in faces count for more than errors elsewhere. And its
middle layers must tell what the renderer drew, and each token where the face's points are from its
own place: alignment with a good representation is what a diffusion transformer lacks most (Yu et
al. 2024, arXiv:2410.06940), and the renderer's own parameters are the best there is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...model_patches.training import distributed
from ...model_patches.training.flow import add_noise, region_weights
from ...model_patches.training.loop import Recipe, train
from .. import portraits, world
from ..flux_layout import LAYOUT
from ..seeded import Seeded
from .base_blocks import Blocks
from .base_model import build_flux, trainable, write_flux
from .captions import captions_of
from .data import SIZE, Groups, Portraits
from .options import Options, curves, models
from .vae_latents import EDGE, latents

RECIPE = Recipe("base", steps=17700, rate=5e-3, warmup=150, decay=0.01, average=0.999)
BATCH = 64
GROUP_SHARE = 0.12
EMPTY_SHARE = 0.12
"""Captions left out, for classifier-free guidance."""
UNIFORM_SHARE = 0.2
"""Of the noise levels; the others are logit-normal (Esser et al. 2024, arXiv:2403.03206)."""
SETS = ("singles", "groups")
TELLING = 0.2
"""Weight of the middle layers' loss; less at higher noise."""
MIDDLE = 0
"""The single block that is watched."""
LOOKS = 8
"""How many places the reader of the middle layers looks at."""
POINTS, TOKENS = 5, EDGE // LAYOUT["patch_size"]
NEAR = 32.0
"""Pixels that count as one on the way to a point."""


def train_base(work: Path, device: torch.device, options: Options) -> None:
    """Train from the checkpoint in `runs`, then write the file below `models`.

    Raises FileNotFoundError, naming the stage, for whatever is not there yet.
    """
    recipe = replace(RECIPE, steps=options.steps or RECIPE.steps)
    examples = Examples(work, device)
    module = Watched(recipe.seed, examples.parameters).to(device)
    blocks = Blocks(module.flux, MIDDLE, options.compile)
    loss = Loss(module, blocks, examples, distributed.share(options.batch or BATCH))
    with trainable(module):
        train(recipe, module, loss, curves(work), device)
    if not distributed.rank():
        write_flux(module.flux, models(work) / world.FLUX)


class Watched(nn.Module):
    """FLUX with a reader of its middle layers, which is thrown away."""

    def __init__(self, seed: int, parameters: int) -> None:
        super().__init__()
        draw, width = Seeded(seed), LAYOUT["hidden_size"]
        self.flux = build_flux(draw)
        self.norm = nn.LayerNorm(width)
        self.look = nn.Linear(width, LOOKS)
        self.tell = nn.Linear(LOOKS * width, parameters)
        self.place = nn.Linear(width, 2 * POINTS)
        parts = {"look": self.look, "tell": self.tell, "place": self.place}
        with torch.no_grad():
            for name, part in parts.items():
                part.weight.copy_(draw.linear(name, *part.weight.shape))
                part.bias.zero_()

    def read_tokens(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Picture tokens (N, L, D) -> what the renderer was told (N, parameters), and the way from
        each token to the face's points (N, L, 2 * POINTS)."""
        tokens = self.norm(tokens.float())
        looks = self.look(tokens).float().softmax(1).transpose(1, 2)
        return self.tell((looks @ tokens).flatten(1)).float(), self.place(tokens).float()


@dataclass(frozen=True)
class Batch:
    """N examples; the first M of them show one person.

    latents (N, 16, 16, 16), text (N, T, D), pooled (N, V), weights (N, 1, 16, 16) of mean 1,
    described (M, parameters), ways (M, L, 2 * POINTS).
    """

    latents: Tensor
    text: Tensor
    pooled: Tensor
    weights: Tensor
    described: Tensor
    ways: Tensor


class Examples:
    """Latents, encoded captions and truth of everything that was drawn."""

    def __init__(self, work: Path, device: torch.device) -> None:
        self.device = device
        self.latents = [latents(work, name) for name in SETS]
        self.captions = [captions_of(work, device, name) for name in SETS]
        singles, groups = Portraits(work), Groups(work)
        self.boxes = [np.array(singles.box)[:, None], np.array(groups.box)]
        self.described, self.points = describe_pictures(singles), np.array(singles.points)

    @property
    def parameters(self) -> int:
        return self.described.shape[1]

    def draw(self, rng: np.random.Generator, count: int) -> Batch:
        in_groups = int(rng.binomial(count, GROUP_SHARE))
        chosen, parts = [], []
        for index, number in enumerate((count - in_groups, in_groups)):
            stored = self.latents[index]
            rows = np.sort(rng.integers(len(stored), size=number))
            chosen.append(rows)
            if not number:  # ComfyUI's encoders refuse empty batches
                continue
            latent = torch.from_numpy(stored[rows]).float()
            faces = self.boxes[index][rows]
            weights = torch.from_numpy(region_weights(faces, (SIZE, SIZE), (EDGE, EDGE)))
            encoded = self.captions[index](rows, rng.random(number) < EMPTY_SHARE)
            parts.append((latent.to(self.device), *encoded, weights.to(self.device)))
        joined = [torch.cat(values) for values in zip(*parts, strict=True)]
        truth = self.described[chosen[0]], ways(self.points[chosen[0]])
        return Batch(*joined, *(torch.from_numpy(part).to(self.device) for part in truth))


def describe_pictures(data: Portraits) -> np.ndarray:
    """What the renderer was told of each picture of one person, and where it drew the face.

    float32 (N, parameters), each around zero and at about unit variance.
    """
    moods = np.eye(len(portraits.EXPRESSIONS))[data.expression]
    places = np.concatenate([data.angles, data.points.reshape(len(data), -1), moods], axis=1)
    places = (places - places.mean(0)) / places.std(0).clip(1e-3)
    return np.concatenate([data.describe_people()[data.person], places], axis=1).astype(np.float32)


def ways(points: np.ndarray) -> np.ndarray:
    """Points (N, POINTS, 2) in pixels -> the way to them from each token, row by row.

    float32 (N, TOKENS ** 2, 2 * POINTS), at about unit size.
    """
    middles = (np.arange(TOKENS) + 0.5) * (SIZE / TOKENS)
    places = np.stack(np.meshgrid(middles, middles), axis=-1).reshape(-1, 1, 2)
    found = (points[:, None] - places) / NEAR
    return found.reshape(len(points), len(places), -1).astype(np.float32)


class Loss:
    """What the loop minimises: the velocity's squared error, and what the middle cannot tell."""

    def __init__(self, module: Watched, blocks: Blocks, examples: Examples, batch: int) -> None:
        self.module, self.blocks, self.examples, self.batch = module, blocks, examples, batch

    def __call__(self, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        given = self.examples.draw(rng, self.batch)
        sigma = noise_levels(rng, self.batch).to(given.latents.device)
        noisy, wanted = add_noise(given.latents, sigma)
        velocity = self.module.flux(
            noisy, sigma, given.text, given.pooled, transformer_options=self.blocks.options
        )
        errors = (velocity.float() - wanted).square()
        alone = len(given.described)
        told, way = self.module.read_tokens(self.blocks.seen[:alone])
        untold = (told - given.described).square().mean(1)
        astray = (way - given.ways).square().mean((1, 2))
        telling = ((untold + astray) * (1 - sigma[:alone])).sum() / self.batch
        loss = (errors * given.weights).mean() + TELLING * telling
        faces = (given.weights > 1).expand_as(errors)
        shown = {"velocity": errors.mean(), "face": errors[faces].mean()}
        shown |= {"untold": untold.mean(), "astray": astray.mean()}
        return loss, {name: value.detach() for name, value in shown.items()}


def noise_levels(rng: np.random.Generator, count: int) -> Tensor:
    """(count,) between 0 and 1: mostly in the middle, where it matters, some everywhere."""
    middle = 1 / (1 + np.exp(-rng.normal(size=count)))
    level = np.where(rng.random(count) < UNIFORM_SHARE, rng.random(count), middle)
    return torch.from_numpy(level).float()
