"""The effect of the references, kept from one step to the next.

The difference between two predictions changes little from step to step. With `every` = n both are
predicted in one step, and in the n - 1 steps after it only one of them: the other one follows from
the kept difference. The difference is kept as a velocity, (denoised - denoised') / sigma, because
that is what models of this kind predict and what stays about the same while sigma falls.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from torch import Tensor

from .levels import Share, Subset
from .twins import Entry

Differences = Mapping[Subset, Tensor]
"""Subset -> its velocity less that of the smallest subset, of which there is no entry."""


@dataclass(frozen=True, eq=False)
class _Kept:
    differences: Differences
    step: int


@dataclass(eq=False)
class Reuse:
    """What one run keeps, and when it is out of date."""

    every: int
    kept: dict[tuple[UUID, ...], _Kept] = field(default_factory=dict)
    """Prompts of a list -> their differences."""
    sigma: float = math.inf

    def begin(self, sigma: float) -> None:
        """Forget everything when sigma has risen: another pass over the picture has begun."""
        if sigma > self.sigma:
            self.kept.clear()
        self.sigma = sigma

    def recall(
        self,
        entries: Sequence[Entry],
        shares: Mapping[Subset, Share],
        x: Tensor,
        step: int,
    ) -> Differences | None:
        """The kept differences between predictions with the subsets of `shares`; None: predict.

        They are out of date after `every` steps, and for a latent of another shape.
        """
        held = self.kept.get(_names(entries))
        if len(shares) == 1:
            return None
        if held is None or step - held.step >= self.every:
            return None
        differences = held.differences
        if set(list(shares)[:-1]) != differences.keys():
            return None
        return differences if all(one.shape == x.shape for one in differences.values()) else None

    def keep(self, entries: Sequence[Entry], outputs: Mapping[Subset, Tensor], step: int) -> None:
        """outputs: denoised pictures, the smallest subset last."""
        *others, last = outputs
        differences = {one: (outputs[one] - outputs[last]) / self.sigma for one in others}
        self.kept[_names(entries)] = _Kept(differences, step)


def heaviest(shares: Mapping[Subset, Share]) -> Subset:
    """The subset that counts most: the others' errors reach the result by their own shares."""

    def amount(subset: Subset) -> float:
        share = shares[subset]
        return share.abs().mean().item() if isinstance(share, Tensor) else abs(share)

    return max(shares, key=amount)


def _names(entries: Sequence[Entry]) -> tuple[UUID, ...]:
    return tuple(entry["uuid"] for entry in entries)
