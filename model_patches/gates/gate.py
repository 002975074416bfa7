"""(time, knobs) -> weight. Plain numbers, no torch: one gate serves every injection.

A gate is a product of factors. Each factor reads a Moment, so it is resolved while sampling: a
ModelSampling node placed later in the graph cannot make it stale.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Moment:
    """One evaluation of the diffusion model."""

    sigma: float
    percent: float
    """Model percent: 0 is pure noise, 1 is no noise, as ComfyUI's start/end percents mean it."""
    progress: float
    """Share of this run that is done, in [0, 1]; differs from percent at denoise < 1."""


class Factor(Protocol):
    def weight(self, moment: Moment) -> float: ...


@dataclass(frozen=True)
class Gate:
    """The product of its factors; no factor means 1 everywhere."""

    factors: tuple[Factor, ...] = ()

    def weight(self, moment: Moment) -> float:
        return math.prod(factor.weight(moment) for factor in self.factors)

    def __mul__(self, other: Gate) -> Gate:
        return Gate(self.factors + other.factors)


OPEN = Gate()
