"""One slider for two streams: balance -> weights of preservation and personalisation.

FlexIP (arXiv 2504.07405), section 3.3: the weight γ of the preservation stream leaves 1 - γ to the
personalisation stream. Here γ is the user's balance b: 0 follows the prompt, 1 keeps the photo.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from .gate import Gate, Moment
from .numbers import check_number

Law = Literal["linear", "crossfade", "equal_power"]
LAWS: tuple[Law, ...] = ("linear", "crossfade", "equal_power")
"""linear: b and 1 - b, as FlexIP trains. crossfade: both are 1 in the middle, for streams that were
trained apart. equal_power: sine and cosine, whose squares sum to 1."""


@dataclass(frozen=True)
class Balance:
    """Weights of the two streams, each in [0, 1]."""

    preserve: float
    personal: float

    @property
    def gates(self) -> tuple[Gate, Gate]:
        """The same as gates over time, constant: preservation, personalisation."""
        return Gate((Constant(self.preserve),)), Gate((Constant(self.personal),))


@dataclass(frozen=True)
class Constant:
    """A factor that is the same at every moment."""

    value: float

    def weight(self, moment: Moment) -> float:
        return self.value


def weigh(value: float, law: Law = "linear") -> Balance:
    """The weights at a balance in [0, 1]; exactly 0 and 1 at both ends, and monotone between.

    Raises ValueError for another number or an unknown law.
    """
    if law not in LAWS:
        raise ValueError(f"Unknown balance law {law!r}; choose one of {', '.join(LAWS)}.")
    check_number("The balance", value, 0.0, 1.0)
    if value in (0.0, 1.0):  # cos(π/2) is not 0
        return Balance(float(value), 1.0 - value)
    if law == "crossfade":
        return Balance(min(1.0, 2.0 * value), min(1.0, 2.0 * (1.0 - value)))
    if law == "equal_power":
        angle = 0.5 * math.pi * value
        return Balance(math.sin(angle), math.cos(angle))
    return Balance(value, 1.0 - value)
