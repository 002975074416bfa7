"""The effect of the references, kept from one step to the next.

The difference between two predictions changes little from step to step. With `every` = n both are
predicted in one step, and in the n - 1 steps after it only one of them: the other one follows from
the kept difference. The difference is kept as a velocity, (denoised - denoised') / sigma, because
that is what models of this kind predict and what stays about the same while sigma falls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID

from torch import Tensor

from .levels import Share, Subset
from .twins import Clock, Entry

Differences = Mapping[Subset, Tensor]
"""Subset -> its velocity less that of the smallest subset, of which there is no entry."""


@dataclass(frozen=True, eq=False)
class _Kept:
    differences: Differences
    step: int
    passes: int

    def is_old(self, clock: Clock, every: int) -> bool:
        return clock.step - self.step >= every or clock.passes != self.passes


@dataclass(eq=False)
class Reuse:
    """What one run keeps, and when it is out of date."""

    every: int
    kept: dict[tuple[UUID, ...], _Kept] = field(default_factory=dict)
    """Prompts of a list -> their differences."""

    def recall(
        self,
        entries: Sequence[Entry],
        shares: Mapping[Subset, Share],
        x: Tensor,
        clock: Clock,
    ) -> Differences | None:
        """The kept differences between predictions with the subsets of `shares`; None: predict.

        They are out of date after `every` steps, in another pass over the picture, and for a latent
        of another shape.
        """
        held = self.kept.get(_names(entries))
        if held is None or held.is_old(clock, self.every):
            return None
        differences = held.differences
        if set(list(shares)[:-1]) != differences.keys():
            return None
        return differences if all(one.shape == x.shape for one in differences.values()) else None

    def keep(
        self, entries: Sequence[Entry], outputs: Mapping[Subset, Tensor], clock: Clock
    ) -> None:
        """outputs: denoised pictures, the smallest subset last."""
        *others, last = outputs
        differences = {one: (outputs[one] - outputs[last]) / clock.sigma for one in others}
        self.kept[_names(entries)] = _Kept(differences, clock.step, clock.passes)


def heaviest(shares: Mapping[Subset, Share]) -> Subset:
    """The subset that counts most: the others' errors reach the result by their own shares."""

    def amount(subset: Subset) -> float:
        share = shares[subset]
        return share.abs().mean().item() if isinstance(share, Tensor) else abs(share)

    return max(shares, key=amount)


def _names(entries: Sequence[Entry]) -> tuple[UUID, ...]:
    return tuple(entry["uuid"] for entry in entries)
