"""Sigmas of a sampling run -> Moments."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise

from .gate import Moment


@dataclass(frozen=True)
class Clock:
    """Turns sigmas of one run into Moments.

    `percent_to_sigma` is the model sampling's own, `schedule` this run's sigmas from first to
    last (empty when unknown: progress then equals percent). `is_flow`: sigma runs from 1 to 0 and
    is the diffusion time itself; otherwise the time is read from the percent.
    """

    percent_to_sigma: Callable[[float], float]
    schedule: Sequence[float] = ()
    is_flow: bool = True

    def moment(self, sigma: float) -> Moment:
        percent = self.percent(sigma)
        progress = self.progress(sigma) if self.schedule else percent
        t = min(max(sigma, 0.0), 1.0) if self.is_flow else 1.0 - percent
        return Moment(sigma, percent, progress, t)

    def percent(self, sigma: float) -> float:
        """Inverse of percent_to_sigma by bisection; that function falls from noise to none."""
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            if float(self.percent_to_sigma(middle)) > sigma:
                low = middle
            else:
                high = middle
        # percent_to_sigma(0) is infinity-like for eps models: start of the run means exactly 0.
        return 0.0 if low == 0.0 else high

    def progress(self, sigma: float) -> float:
        """Position of sigma in the schedule, linear between two of its entries."""
        for i, (upper, lower) in enumerate(self._steps):
            if sigma > lower:
                share = 0.0 if sigma >= upper else (upper - sigma) / (upper - lower)
                return (i + share) / len(self._steps)
        return 1.0

    @cached_property
    def _steps(self) -> list[tuple[float, float]]:
        return list(pairwise(self.schedule)) or [(math.inf, 0.0)]
