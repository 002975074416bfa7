"""A weight over time: constant, linear, cosine, or points between which it is interpolated."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from .gate import Moment
from .numbers import check_number, check_weight

Axis = Literal["percent", "progress"]


Shape = Literal["constant", "linear", "cosine", "points"]


AXES: tuple[Axis, ...] = ("percent", "progress")


SHAPES: tuple[Shape, ...] = ("constant", "linear", "cosine", "points")


# Schedules are float32, so an edge such as "step 4 of 20" may miss its own percent by about 1e-7.
EDGE_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Window:
    """A curve over [start, end] on one axis, 0 outside.

    `points` are (time, weight) with rising times on the same axis; between two of them the weight
    is interpolated linearly or, when `smooth`, by half a cosine; beyond the outermost it is held.
    """

    start: float = 0.0
    end: float = 1.0
    axis: Axis = "percent"
    points: tuple[tuple[float, float], ...] = ((0.0, 1.0),)
    smooth: bool = False

    def __post_init__(self) -> None:
        if not 0.0 <= self.start <= self.end <= 1.0:
            raise ValueError(
                f"The window starts at {self.start:g} and ends at {self.end:g}; both must lie in "
                "[0, 1] and the start must not come after the end. Swap or correct the two values."
            )
        if self.axis not in AXES:
            raise ValueError(f"Unknown time axis {self.axis!r}; choose one of {', '.join(AXES)}.")
        for _, weight in self.points:
            check_weight("a weight of the window", weight)
        times = [time for time, _ in self.points]
        if not times or times != sorted(times):
            raise ValueError(
                f"The window's points have times {times}; at least one is needed and times must "
                "rise from left to right. Reorder them."
            )

    def weight(self, moment: Moment) -> float:
        time = getattr(moment, self.axis)
        if not self.start - EDGE_TOLERANCE <= time <= self.end + EDGE_TOLERANCE:
            return 0.0
        return self._curve(time)

    def _curve(self, time: float) -> float:
        if time <= self.points[0][0]:
            return self.points[0][1]
        for (t0, w0), (t1, w1) in pairwise(self.points):
            if time < t1:
                share = (time - t0) / (t1 - t0)
                if self.smooth:
                    share = (1 - math.cos(math.pi * share)) / 2
                return w0 + (w1 - w0) * share
        return self.points[-1][1]


def window(
    shape: Shape,
    start: float,
    end: float,
    first: float = 1.0,
    last: float = 1.0,
    points: str = "",
    axis: Axis = "percent",
) -> Window:
    """The window that the Window node describes.

    `first` is the weight at `start`, `last` the weight at `end` (linear and cosine only);
    `points` is text such as "0:1, 0.4:0.6, 1:0" (points only).
    """
    if shape == "constant":
        return Window(start, end, axis, ((start, first),))
    if shape == "points":
        return Window(start, end, axis, parse_points(points))
    return Window(start, end, axis, ((start, first), (end, last)), smooth=shape == "cosine")


def parse_points(text: str) -> tuple[tuple[float, float], ...]:
    """Read "time:weight, time:weight, ..."; times in [0, 1]. Raises ValueError."""
    pieces = [piece for piece in text.replace("\n", ",").split(",") if piece.strip()]
    if not pieces:
        raise ValueError(
            "The window's shape is 'points' but its points are empty; write for example "
            '"0:1, 0.4:0.6, 1:0" (time:weight) or choose another shape.'
        )
    return tuple(_point(piece) for piece in pieces)


def _point(piece: str) -> tuple[float, float]:
    try:
        time, weight = (float(number) for number in piece.split(":"))
    except ValueError:
        raise ValueError(
            f"Cannot read the point {piece.strip()!r}; a point is time:weight, two numbers, for "
            'example "0.4:0.6".'
        ) from None
    check_number(f"the time of the point {piece.strip()!r}", time, 0.0, 1.0)
    check_weight(f"the weight of the point {piece.strip()!r}", weight)
    return time, weight
