"""The weight of an injection at a moment of the run: a product of factors with a limit.

Factors read a Moment, so a gate is resolved while sampling: a ModelSampling node placed later in
the graph cannot make it stale.
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
    t: float
    """Diffusion time as papers write it, 1 pure noise to 0 the picture: sigma for flow models,
    timestep / (N - 1) for eps and v models."""


NOISE = Moment(1.0, 0.0, 0.0, 1.0)
PICTURE = Moment(0.0, 1.0, 1.0, 0.0)


class Factor(Protocol):
    def weight(self, moment: Moment) -> float: ...


@dataclass(frozen=True)
class Gate:
    """The product of its factors, held within [-limit, limit]; no factor means 1 everywhere."""

    factors: tuple[Factor, ...] = ()
    limit: float = math.inf

    def weight(self, moment: Moment, factor: float = 1.0) -> float:
        """factor x the product of the gate's own; the limit holds for that whole product."""
        product = factor * math.prod(one.weight(moment) for one in self.factors)
        return max(-self.limit, min(product, self.limit))

    def __mul__(self, other: Gate) -> Gate:
        return Gate(self.factors + other.factors, min(self.limit, other.limit))


OPEN = Gate()


def describe_ends(gate: Gate, factor: float = 1.0) -> str:
    """The weight at pure noise and at the finished picture, such as "0.150 → 0.050"."""
    ends = (gate.weight(moment, factor) for moment in (NOISE, PICTURE))
    return " → ".join(f"{round(weight, 3) + 0.0:.3f}" for weight in ends)  # + 0.0: no "-0.000"
