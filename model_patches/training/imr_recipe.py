"""Reconfiguration, DynamicID's second stage: tokens of one picture become those of another.

Source: DynamicID (arXiv 2503.06505), equation 7. One picture of a person is the source, others are
targets; base, face encoder and attention are frozen. The reconfigurator runs once for all targets
of a person, the base on a few at once: the gradients that it gives the tokens are added up before
they go back through the reconfigurator.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from . import distributed
from .face_features import FeatureStore
from .imr_features import draw_landmarks, motions_of
from .imr_loss import EditLoss, edit_loss
from .imr_people import Drawn, Draws, Subject, draw_people
from .imr_trained import TrainedImr
from .parts import accumulate
from .row_batches import Shown, seeded_noise
from .saa_trained import TrainedSaa, predict_person
from .unet_base import UNetBase

PROMPT_PLACE = 1
"""Of the prompt of all pictures, in the captions."""


@dataclass(frozen=True)
class Course:
    """How a step is made of its people."""

    weight: float = 1.0
    """λ of equation 7; 0: the base is not asked."""
    part: int = 4
    """Targets that the base computes at once."""
    spread: float = 3.0
    """By how many pixels of 512 landmarks are moved, at random."""
    threshold: float = 0.3


class ImrLoss:
    """What the loop minimises."""

    def __init__(
        self,
        base: UNetBase,
        saa: TrainedSaa,
        net: TrainedImr,
        store: FeatureStore,
        points: Mapping[int, Tensor],
        subjects: Sequence[Subject],
        draws: Draws,
        course: Course,
    ) -> None:
        """saa: frozen. points: landmarks of each picture, in the frame of 512 pixels."""
        self.base, self.saa, self.net, self.store = base, saa, net, store
        self.points, self.subjects, self.draws, self.course = points, subjects, draws, course
        self.text = store.text(PROMPT_PLACE)["text"].to(base.device)

    def __call__(self, step: int, _: np.random.Generator) -> tuple[Tensor, Shown]:
        mine = distributed.share(self.draws.batch)
        first = distributed.rank() * mine
        drawn = draw_people(self.subjects, self.draws, step)[first : first + mine]
        shown: list[Shown] = []

        def loss_of(one: Drawn) -> Tensor:
            value, found = self.of_person(one)
            shown.append(found)
            return value

        finished = accumulate(drawn, loss_of, mine, self.base.device)
        return finished, {
            name: torch.stack([one[name] for one in shown]).mean() for name in shown[0]
        }

    def of_person(self, one: Drawn) -> tuple[Tensor, Shown]:
        """The mean of equation 7 over the person's targets, and its terms."""
        store, device = self.store, self.base.device
        source = store.face(one.source)["tokens"][None].to(device)
        wanted = torch.stack([store.face(n)["tokens"] for n in one.targets]).to(device)
        predicted = self.predict(one, source)
        # The base's gradients stop here, and go on together.
        leaf = predicted.detach().float().requires_grad_()
        terms: list[EditLoss] = []
        for start in range(0, len(wanted), self.course.part):
            part = slice(start, start + self.course.part)
            loss = self.of_part(one, leaf[part], wanted[part], part)
            (loss.total.sum() / len(wanted)).backward()
            terms.append(EditLoss(*(term.detach() for term in loss)))
        _check_finite(terms, one)
        total, tokens, noise = (torch.cat(found).mean() for found in zip(*terms, strict=True))
        assert leaf.grad is not None
        through = (predicted * leaf.grad).sum()
        shown = {
            "tokens": tokens,
            "noise": noise,
            "unedited": edit_loss(source.expand_as(wanted), wanted).tokens.mean(),
        }
        return total + (through - through.detach()), shown

    def predict(self, one: Drawn, source: Tensor) -> Tensor:
        """(T, N, width): the source's tokens (1, N, width) with each target's motion."""
        numbers, rng = (one.source, *one.targets), np.random.default_rng(one.shift)
        spread, device = self.course.spread, self.base.device
        pictures = [draw_landmarks(self.points[n], spread, rng) for n in numbers]
        words = motions_of(self.store, numbers).to(device)
        return self.net(source, torch.stack(pictures).to(device), words)

    def of_part(self, one: Drawn, predicted: Tensor, wanted: Tensor, part: slice) -> EditLoss:
        """Equation 7 of some targets, for the same noise, noise level and latents in both terms."""
        if not self.course.weight:
            return edit_loss(predicted, wanted)
        base, device = self.base, self.base.device
        targets, seeds = one.targets[part], one.seeds[part]
        latents = torch.stack([self.store.latent(n)["latent"] for n in targets]).to(device)
        noise = [seeded_noise(latents[0], seed) for seed in seeds]
        sigma = base.sigmas_at(one.levels[part])
        noisy = base.add_noise(latents, torch.stack(noise).to(device), sigma)
        text = self.text.expand(len(targets), -1, -1)
        facts = (base, self.saa, noisy, sigma, text)
        with torch.no_grad():
            by_target = predict_person(*facts, wanted, self.course.threshold)
        by_predicted = predict_person(*facts, predicted, self.course.threshold)
        return edit_loss(predicted, wanted, by_predicted, by_target, self.course.weight)


def _check_finite(terms: Sequence[EditLoss], one: Drawn) -> None:
    totals = torch.cat([term.total for term in terms]).tolist()
    for value, level in zip(totals, one.levels, strict=True):
        if not math.isfinite(value):
            raise FloatingPointError(
                f"the loss of {one.subject.name} is {value} at noise level {level:.3f}. Look at "
                "that person's pictures, or lower the rate."
            )
