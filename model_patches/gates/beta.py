"""β over a run: how strongly a guided prediction is corrected (EditIDv2, arXiv 2509.05659, eq. 11).

The paper decays β by a cosine, strong early. Early predictions show no face yet, so here β may also
be held to a window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from .gate import Moment
from .window import EDGE_TOLERANCE, Axis, Window

Shape = Literal["window", "cosine_decay", "constant", "rise"]
SHAPES: tuple[Shape, ...] = ("window", "cosine_decay", "constant", "rise")
"""window: 0 at start and end, 1 between them, along a cosine. cosine_decay: ½(1 + cos πp), p the
time along the axis. constant: 1. rise: ½(1 - cos πp)."""


@dataclass(frozen=True)
class Beta:
    """A factor of a gate. Outside of [start, end] on the axis it is 0."""

    shape: Shape = "window"
    start: float = 0.0
    end: float = 1.0
    axis: Axis = "percent"

    def __post_init__(self) -> None:
        if self.shape not in SHAPES:
            raise ValueError(f"Unknown schedule {self.shape!r}; choose one of {', '.join(SHAPES)}.")
        Window(self.start, self.end, self.axis)  # the same limits and messages

    def weight(self, moment: Moment) -> float:
        time = getattr(moment, self.axis)
        if not self.start - EDGE_TOLERANCE <= time <= self.end + EDGE_TOLERANCE:
            return 0.0
        if self.shape == "window":
            length = self.end - self.start
            share = (time - self.start) / length if length else 0.5
            return 0.5 * (1.0 - math.cos(2.0 * math.pi * min(max(share, 0.0), 1.0)))
        if self.shape == "cosine_decay":
            return 0.5 * (1.0 + math.cos(math.pi * time))
        return 1.0 if self.shape == "constant" else 0.5 * (1.0 - math.cos(math.pi * time))
