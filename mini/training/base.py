"""Trains T5, CLIP-L and FLUX together, from nothing, on encoded pictures and their captions.

Rectified flow as ComfyUI samples it: a picture at sigma is (1 - sigma) * latent + sigma * noise,
and the model gives noise - latent.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .base_model import Base, trainable, write_base
from .base_speed import compiled_blocks
from .base_text import Tokens, Words, tokenise, tokens, words
from .data import Groups, Portraits
from .loop import Recipe, train
from .options import Options, curves, models
from .vae_latents import latents

RECIPE = Recipe("base", steps=2500, rate=5e-3, warmup=150, decay=0.01, average=0.999)
BATCH = 64
GROUP_SHARE = 0.12
EMPTY_SHARE = 0.12
"""Captions left out, for classifier-free guidance."""
UNKNOWN_SHARE = 0.02
"""Words replaced by an unknown one, so that words outside the small world do no harm."""
UNIFORM_SHARE = 0.2
"""Of the noise levels; the others are logit-normal (Esser et al. 2024, arXiv:2403.03206)."""


def train_base(work: Path, device: torch.device, options: Options) -> None:
    """Train from the checkpoint in `runs`, then write the three files below `models`."""
    recipe = replace(RECIPE, steps=options.steps or RECIPE.steps)
    examples = Examples(work)
    module = Base(recipe.seed, examples.words).to(device)
    if options.compile:
        module.options = compiled_blocks(module.flux)
    loss = Loss(module, examples, options.batch or BATCH, device)
    with trainable(module):
        train(recipe, module, loss, curves(work), device)
    write_base(module, examples.words, models(work))


@dataclass(frozen=True)
class Set:
    """Latents float16 (N, 16, 16, 16) and the tokens of their captions."""

    latents: np.ndarray
    tokens: Tokens


class Examples:
    """Latents and tokens of everything that was drawn."""

    def __init__(self, work: Path) -> None:
        self.words, sets = vocabulary(work)
        self.singles, self.groups = (
            Set(latents(work, name), made)
            for name, made in zip(("singles", "groups"), sets, strict=True)
        )
        self.empty = tokenise([""])

    def draw(self, rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """`count` examples: latents float32, T5 tokens and CLIP-L tokens int64."""
        in_groups = int(rng.binomial(count, GROUP_SHARE))
        parts = [
            (part, np.sort(rng.integers(len(part.latents), size=number)))
            for part, number in ((self.singles, count - in_groups), (self.groups, in_groups))
        ]
        latent = np.concatenate([part.latents[rows] for part, rows in parts])
        t5 = np.concatenate([part.tokens.t5[rows] for part, rows in parts])
        clip_l = np.concatenate([part.tokens.clip_l[rows] for part, rows in parts])
        self._forget_words(rng, t5, clip_l)
        empty = rng.random(count) < EMPTY_SHARE
        t5[empty], clip_l[empty] = self.empty.t5[0], self.empty.clip_l[0]
        return (
            torch.from_numpy(latent).float(),
            torch.from_numpy(t5).long(),
            torch.from_numpy(clip_l).long(),
        )

    def _forget_words(self, rng: np.random.Generator, t5: np.ndarray, clip_l: np.ndarray) -> None:
        special = self.empty.t5[0].max()  # padding and the end
        chosen = (rng.random(t5.shape) < UNKNOWN_SHARE) & (t5 > special)
        t5[chosen] = self.words.unknown_t5
        special = self.empty.clip_l[0].min()  # start, end and padding
        chosen = (rng.random(clip_l.shape) < UNKNOWN_SHARE) & (clip_l < special)
        clip_l[chosen] = self.words.unknown_clip_l


def vocabulary(work: Path) -> tuple[Words, list[Tokens]]:
    """The words of all captions, and the tokens of singles and groups."""
    captions = {"singles": Portraits(work).caption, "groups": Groups(work).caption}
    sets = [tokens(texts, work / "data" / name / "tokens.npz") for name, texts in captions.items()]
    return words(*sets), sets


class Loss:
    """What the loop minimises: the mean squared error of the velocity."""

    def __init__(self, module: Base, examples: Examples, batch: int, device: torch.device) -> None:
        self.module, self.examples, self.batch, self.device = module, examples, batch, device

    def __call__(self, step: int, rng: np.random.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        latent, t5, clip_l = (t.to(self.device) for t in self.examples.draw(rng, self.batch))
        sigma = noise_levels(rng, self.batch).to(self.device)
        noise = torch.randn_like(latent)
        level = sigma[:, None, None, None]
        velocity = self.module((1 - level) * latent + level * noise, sigma, t5, clip_l)
        errors = (velocity.float() - (noise - latent)).square().mean((1, 2, 3))
        late = sigma < 0.5
        shown = {name: errors[mask] for name, mask in (("fine", late), ("coarse", ~late))}
        return errors.mean(), {
            name: part.detach().mean() if len(part) else errors.detach().mean()
            for name, part in shown.items()
        }


def noise_levels(rng: np.random.Generator, count: int) -> Tensor:
    """(count,) between 0 and 1: mostly in the middle, where it matters, some everywhere."""
    middle = 1 / (1 + np.exp(-rng.normal(size=count)))
    level = np.where(rng.random(count) < UNIFORM_SHARE, rng.random(count), middle)
    return torch.from_numpy(level).float()
