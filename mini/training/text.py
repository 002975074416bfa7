"""Trains T5 and CLIP-L to tell what a caption is about, before any picture is painted.

The published encoders, too, were trained on text and are frozen when FLUX is. Learned through the
painting alone, words would stay vague for most of the run: the noise hides what they changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...model_patches.training import distributed
from ...model_patches.training.loop import Recipe, train
from .. import world
from ..seeded import Seeded
from .base_model import trainable
from .captions import caption_tokens
from .data import SHOTS, Groups, Portraits
from .options import Options, curves, models
from .text_labels import CLASSES, NOBODY, PEOPLE, all_labels
from .text_model import (
    CLIP_CONFIG,
    T5_CONFIG,
    Words,
    build_clip_l,
    build_t5,
    tokenise,
    words,
    write_clip_l,
    write_t5,
)

RECIPE = Recipe("text", steps=1500, rate=4e-3, warmup=100, decay=0.01, average=0.99, seed=31)
BATCH = 128
GROUP_SHARE = 0.3
"""Share of pictures of several people: telling whose attribute is whose is harder."""
UNKNOWN_SHARE = 0.03
"""Words replaced by an unknown one, so that words outside the small world do no harm."""
MOST = max(CLASSES.values())


class Encoders(nn.Module):
    """T5 and CLIP-L, each with readers that are thrown away."""

    def __init__(self, seed: int, seen: Words) -> None:
        super().__init__()
        draw, asked = Seeded(seed), PEOPLE * len(CLASSES)
        self.t5, self.clip_l = build_t5(draw, seen), build_clip_l(draw, seen)
        width, pooled = T5_CONFIG["d_model"], CLIP_CONFIG["hidden_size"]
        # A question per person and attribute looks for the tokens that answer it.
        self.questions = nn.Parameter(draw.normal("questions", width, asked, std=0.3))
        self.answers = nn.Parameter(draw.normal("answers", asked, width, MOST, std=0.1))
        self.pooled_answers = nn.Linear(pooled, asked * MOST)

    def tell_tokens(self, t5: Tensor) -> Tensor:
        """Token numbers (N, L) -> scores (N, PEOPLE, attributes, MOST), from T5's states."""
        states = self.t5(t5, None)[0].float()
        looked = (states @ self.questions).softmax(1).transpose(1, 2) @ states
        return self._split(torch.einsum("nqd,qdc->nqc", looked, self.answers))

    def tell_pooled(self, clip_l: Tensor) -> Tensor:
        """Token numbers (N, 77) -> the same, from CLIP-L's pooled vector."""
        return self._split(self.pooled_answers(self.clip_l(clip_l)[3]).float())

    @staticmethod
    def _split(scores: Tensor) -> Tensor:
        """No attribute has classes beyond its own."""
        sizes = torch.tensor(tuple(CLASSES.values()), device=scores.device)
        scores = scores.reshape(len(scores), PEOPLE, len(CLASSES), MOST)
        beyond = torch.arange(MOST, device=scores.device) >= sizes[:, None]
        return scores.masked_fill(beyond, -1e4)


class Corpus:
    """Tokens and labels of every caption of the data."""

    def __init__(self, work: Path) -> None:
        singles, groups = Portraits(work), Groups(work)
        self.sets = [caption_tokens(work, name) for name in ("singles", "groups")]
        self.words = words(*self.sets)
        self.special_t5 = tokenise([""]).t5.max()  # padding and the end
        self.special_clip_l = tokenise([""]).clip_l.min()  # start, end and padding
        found = all_labels(work, len(singles) // SHOTS, len(groups))
        self.labels = found[: len(singles)], found[len(singles) :]

    def draw(self, rng: np.random.Generator, count: int) -> tuple[Tensor, Tensor, Tensor]:
        """`count` captions: T5 tokens, CLIP-L tokens and labels, int64."""
        in_groups = int(rng.binomial(count, GROUP_SHARE))
        rows = [
            rng.integers(len(labels), size=number)
            for labels, number in zip(self.labels, (count - in_groups, in_groups), strict=True)
        ]
        pairs = list(zip(self.sets, rows, strict=True))
        t5 = np.concatenate([cut.t5[chosen] for cut, chosen in pairs])
        clip_l = np.concatenate([cut.clip_l[chosen] for cut, chosen in pairs])
        wanted = [part[chosen] for part, chosen in zip(self.labels, rows, strict=True)]
        forgotten = (rng.random(t5.shape) < UNKNOWN_SHARE) & (t5 > self.special_t5)
        t5[forgotten] = self.words.unknown_t5
        forgotten = (rng.random(clip_l.shape) < UNKNOWN_SHARE) & (clip_l < self.special_clip_l)
        clip_l[forgotten] = self.words.unknown_clip_l
        made = t5, clip_l, np.concatenate(wanted)
        t5, clip_l, wanted = (torch.from_numpy(values).long() for values in made)
        return t5, clip_l, wanted


def errors(scores: Tensor, wanted: Tensor) -> Tensor:
    """Cross-entropy of every attribute, averaged over those who are there: (attributes,)."""
    flat = F.cross_entropy(
        scores.flatten(0, 2), wanted.flatten(), ignore_index=NOBODY, reduction="none"
    )
    there = (wanted != NOBODY).sum((0, 1)).clamp(min=1)
    return flat.view_as(wanted).sum((0, 1)) / there


class Loss:
    """What the loop minimises."""

    def __init__(self, module: Encoders, corpus: Corpus, batch: int, device: torch.device) -> None:
        self.module, self.corpus, self.batch, self.device = module, corpus, batch, device

    def __call__(self, step: int, rng: np.random.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        t5, clip_l, wanted = (t.to(self.device) for t in self.corpus.draw(rng, self.batch))
        told = errors(self.module.tell_tokens(t5), wanted)
        pooled = errors(self.module.tell_pooled(clip_l), wanted)
        place = list(CLASSES).index("expression")
        return told.mean() + pooled.mean(), {
            "tokens": told.detach().mean(),
            "pooled": pooled.detach().mean(),
            "expression": told[place].detach(),
            "pooled expression": pooled[place].detach(),
        }


def train_text(work: Path, device: torch.device, options: Options) -> None:
    """Train from the checkpoint in `runs`, then write both files below `models`."""
    recipe = replace(RECIPE, steps=options.steps or RECIPE.steps)
    corpus = Corpus(work)
    module = Encoders(recipe.seed, corpus.words).to(device)
    loss = Loss(module, corpus, distributed.share(options.batch or BATCH), device)
    with trainable(module):
        train(recipe, module, loss, curves(work), device)
    if not distributed.rank():
        write_t5(module.t5, corpus.words, models(work) / world.T5)
        write_clip_l(module.clip_l, corpus.words, models(work) / world.CLIP_L)
