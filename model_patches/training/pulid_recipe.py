"""Train the cross-attention of a PuLID-FLUX file on a frozen Flux: flow matching, and a loss on who
is drawn.

The loss of a row is its flow matching error plus λ(t)·(1 - cos), eq. 9 and 10 of EditIDv2 (arXiv
2509.05659), cos between the recogniser's embeddings of the predicted face and of the photo. λ = 0
decodes nothing. Rows of a step are worked through in parts, whose gradients add up: rows of one
part have pictures and texts of the same size.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from . import distributed
from .face_features import FeatureStore
from .flow import blend, clean, count_tokens, cover_cells, draw_sigma
from .frozen_base import FrozenBase
from .parts import accumulate, divide
from .pulid_layers import injections
from .pulid_likeness import Likeness, LikenessPlan
from .pulid_rows import Drawn, Draws, Row, draw_rows
from .pulid_trained import TrainedAttention

QUARTERS = 4
Shown = dict[str, Tensor]


@dataclass(frozen=True)
class Course:
    """How a step is made of its rows."""

    sigmas: str = "resolution"
    """A key of flow.SIGMAS."""
    face_weight: float = 0.0
    """What errors in the face, or in the row's mask, count beyond the 1 that all errors count."""
    part: int = 1
    """Rows that are computed at once."""
    plan: LikenessPlan = field(default_factory=LikenessPlan)
    to_target: bool = True
    """Whether a face is compared with the picture itself, which does not reward copying the
    reference; else with the reference."""


@dataclass(frozen=True, eq=False)
class Part:
    """Rows of a step whose tensors have the same sizes, on the device."""

    drawn: list[Drawn]
    latents: Tensor
    """(B, 16, h, w) as the model sees them."""
    noise: Tensor
    sigma: Tensor
    text: Tensor
    pooled: Tensor
    tokens: Tensor
    """(B, N, C): those of nobody where the identity is dropped."""
    counts: Tensor | None
    """(B, 1, h, w): what errors count; None: all 1."""


class PulidLoss:
    """What the loop minimises."""

    def __init__(
        self,
        base: FrozenBase,
        layers: TrainedAttention,
        store: FeatureStore,
        rows: Sequence[Row],
        draws: Draws,
        course: Course,
        likeness: Likeness | None,
    ) -> None:
        """likeness: may be None where λ is 0."""
        self.base, self.layers, self.store, self.rows = base, layers, store, rows
        self.draws, self.course, self.likeness = draws, course, likeness

    def __call__(self, step: int, _: np.random.Generator) -> tuple[Tensor, Shown]:
        mine = distributed.share(self.draws.batch)
        first = distributed.rank() * mine
        drawn = draw_rows(self.rows, self.draws, step)[first : first + mine]
        parts = self.divide(drawn)
        errors: list[Tensor] = []
        alike: list[Tensor] = []

        def loss_of(part: Part) -> Tensor:
            velocity, cosines, loss = self.of_part(part)
            errors.append(velocity.detach())
            alike.append(cosines.detach())
            return loss

        finished = accumulate(parts, loss_of, mine, self.base.device)
        rows = [one for part in parts for one in part.drawn]
        sigma = torch.cat([part.sigma for part in parts])
        return finished, show(torch.cat(errors), torch.cat(alike), sigma, rows)

    def divide(self, drawn: Sequence[Drawn]) -> list[Part]:
        """Rows of the same sizes together, at most `course.part` of them."""
        loaded = [self._load(one) for one in drawn]
        sizes = [(row["latent"].shape, row["text"].shape) for row in loaded]
        return [
            self._join([drawn[n] for n in numbers], [loaded[n] for n in numbers])
            for numbers in divide(sizes, self.course.part)
        ]

    def _load(self, one: Drawn) -> Shown:
        latent = self.store.latent(one.row.photo)
        text = self.store.text(one.row.caption if one.keeps_text else 0)
        kept = one.keeps_photo
        person = self.store.face(one.reference) if kept else self.store.nobody
        return {**latent, **text, "tokens": person["tokens"]}

    def _join(self, drawn: list[Drawn], loaded: list[Shown]) -> Part:
        device = self.base.device

        def stack(name: str) -> Tensor:
            return torch.stack([row[name] for row in loaded]).to(device)

        latents = self.base.format.process_in(stack("latent"))
        noise = [
            torch.randn(latents.shape[1:], generator=torch.Generator().manual_seed(one.noise))
            for one in drawn
        ]
        tokens = count_tokens(latents)
        sigma = [draw_sigma(self.course.sigmas, one.level, tokens) for one in drawn]
        counts = None
        if self.course.face_weight:
            covered = [self._cover(*pair) for pair in zip(drawn, loaded, strict=True)]
            counts = 1 + self.course.face_weight * torch.stack(covered).to(device)
        return Part(
            drawn,
            latents,
            torch.stack(noise).to(device),
            torch.tensor(sigma, device=device),
            stack("text"),
            stack("pooled"),
            stack("tokens"),
            counts,
        )

    def _cover(self, one: Drawn, loaded: Shown) -> Tensor:
        """(1, h, w) in 0..1: the row's mask, or the cells that its face covers."""
        if "mask" in loaded:
            return loaded["mask"]
        rows, columns = loaded["latent"].shape[-2:]
        face = self.store.face(one.row.photo)
        if "box" not in face:
            return torch.zeros(1, rows, columns)
        where = self.store.where(one.row.photo)
        box = where.points(face["box"].numpy().reshape(2, 2)).reshape(1, 1, 4)
        size = (where.size[1], where.size[0])
        return torch.from_numpy(cover_cells(box, size, (rows, columns))).float()

    def of_part(self, part: Part) -> tuple[Tensor, Tensor, Tensor]:
        """(B,) flow matching errors, (B,) cosines or NaN, and the sum of the rows' losses."""
        noisy, wanted = blend(part.latents, part.noise, part.sigma)
        blocks = self.layers.blocks or self.base.anchors.blocks
        added = injections(blocks, self.layers.layers, part.tokens)
        found = self.base.velocity(noisy, part.sigma, part.text, part.pooled, added)
        squares = (found - wanted).square()
        errors = (squares if part.counts is None else squares * part.counts).mean((1, 2, 3))
        _check_finite(errors, part)
        weights = self.course.plan.at(part.sigma)
        judged = self._choose_judged(part, weights)
        cosines = torch.full_like(errors, math.nan)
        if self.likeness is None or not judged:
            return errors, cosines, errors.sum()
        predicted = clean(noisy, found, part.sigma)[judged]
        alike = self._compare(self.likeness, part, judged, predicted)
        cosines[judged] = alike.detach()
        return errors, cosines, errors.sum() + (weights[judged] * (1 - alike)).sum()

    def _choose_judged(self, part: Part, weights: Tensor) -> list[int]:
        """Rows with an identity, a face in the picture, and a weight."""
        return [
            number
            for number, (one, weight) in enumerate(zip(part.drawn, weights.tolist(), strict=True))
            if weight and one.keeps_photo and "points" in self.store.face(one.row.photo)
        ]

    def _compare(
        self, likeness: Likeness, part: Part, judged: Sequence[int], predicted: Tensor
    ) -> Tensor:
        drawn = [part.drawn[number] for number in judged]
        faces = [self.store.face(one.row.photo) for one in drawn]
        places = [self.store.where(one.row.photo) for one in drawn]
        pairs = zip(places, faces, strict=True)
        points = np.stack([where.points(face["points"].numpy()) for where, face in pairs])
        people = faces
        if not self.course.to_target:
            people = [self.store.face(one.reference) for one in drawn]
        known = torch.stack([face["embedding"] for face in people])
        size = (places[0].size[1], places[0].size[0])
        return likeness(predicted, points, size, torch.nn.functional.normalize(known, dim=-1))


def show(errors: Tensor, alike: Tensor, sigma: Tensor, drawn: Sequence[Drawn]) -> Shown:
    """Means for the log; NaN where a step has none of a kind."""
    quarter = (sigma * QUARTERS).long().clamp(max=QUARTERS - 1)
    kept = torch.tensor([one.keeps_photo for one in drawn], device=errors.device)
    known = alike[~alike.isnan()]
    return {
        "velocity": errors.mean(),
        "alike": known.mean(),
        "with identity": errors[kept].mean(),
        **{f"quarter {n + 1}": errors[quarter == n].mean() for n in range(QUARTERS)},
    }


def _check_finite(errors: Tensor, part: Part) -> None:
    for error, one, sigma in zip(errors.tolist(), part.drawn, part.sigma.tolist(), strict=True):
        if not math.isfinite(error):
            raise FloatingPointError(
                f"the loss of the row of {one.row.place} is {error} at sigma {sigma:.3f}. Look at "
                "that picture, or lower the rate."
            )
