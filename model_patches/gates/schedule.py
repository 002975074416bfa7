"""α of a query mix over a run (EditIDv2, arXiv 2509.05659, equation 8), and at which layers.

α is the share of the picture's own query: 1 leaves it as it was trained, 0 replaces it. The paper's
t/T may be the share of the steps or the diffusion time, which run in opposite directions: both are
here.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .gate import NOISE, PICTURE, Moment
from .numbers import check_number
from .window import EDGE_TOLERANCE, Axis, Window

Course = Literal["constant", "paper_decay", "sigma_rise", "range"]
COURSES: tuple[Course, ...] = ("constant", "paper_decay", "sigma_rise", "range")
"""constant: α0. paper_decay: α0·(1 - p), p the time along the axis. sigma_rise: α0·(1 - t), t the
diffusion time. range: from α0 at the start to another value at the end, in a straight line."""

LARGEST_ALPHA = 1.5
"""Beyond 1 the mix moves away from the compensation term."""

GROUPS = ("all", "double", "single")
_ITEM = re.compile(r"(?:(all|double|single)|(\d{1,4})(?:-(\d{1,4}))?)(?::([0-9.eE+-]+))?")


@dataclass(frozen=True)
class Schedule:
    """α over a run. Inside [start, end] on the axis the course holds; outside, α is 1."""

    course: Course = "constant"
    alpha: float = 1.0
    """α0, in [0, LARGEST_ALPHA]."""
    alpha_end: float = 1.0
    """α at `end`; course range only."""
    start: float = 0.0
    end: float = 1.0
    axis: Axis = "percent"

    def __post_init__(self) -> None:
        if self.course not in COURSES:
            raise ValueError(f"Unknown schedule {self.course!r}; choose one of {_list(COURSES)}.")
        check_number("alpha", self.alpha, 0.0, LARGEST_ALPHA)
        check_number("alpha_end", self.alpha_end, 0.0, LARGEST_ALPHA)
        Window(self.start, self.end, self.axis)  # the same limits and messages

    @property
    def is_neutral(self) -> bool:
        """Whether α is 1 all the time."""
        held = self.course == "constant" or (self.course == "range" and self.alpha_end == 1.0)
        return held and self.alpha == 1.0

    @property
    def largest(self) -> float:
        """The largest α that it can reach."""
        return max(self.alpha, self.alpha_end) if self.course == "range" else self.alpha

    def value(self, moment: Moment) -> float:
        """α at a moment."""
        time = getattr(moment, self.axis)
        if not self.start - EDGE_TOLERANCE <= time <= self.end + EDGE_TOLERANCE:
            return 1.0
        if self.course == "paper_decay":
            return self.alpha * (1.0 - time)
        if self.course == "sigma_rise":
            return self.alpha * (1.0 - moment.t)
        if self.course == "range" and self.end > self.start:
            share = min(max((time - self.start) / (self.end - self.start), 0.0), 1.0)
            return self.alpha + (self.alpha_end - self.alpha) * share
        return self.alpha

    def describe(self) -> str:
        """α at pure noise and at the finished picture, such as "0.000 → 1.000"."""
        return " → ".join(f"{self.value(moment):.3f}" for moment in (NOISE, PICTURE))


@dataclass(frozen=True)
class Selection:
    """Some layers of an adapter, by group or by number, and an α0 of their own if they have one."""

    group: str | None
    """One of GROUPS; None: by number."""
    first: int = 0
    last: int = 0
    alpha: float | None = None

    def holds(self, number: int, group: str) -> bool:
        """Whether it names the layer of that number, which lies in "double" or "single" blocks."""
        if self.group is not None:
            return self.group in ("all", group)
        return self.first <= number <= self.last


def parse_blocks(text: str) -> tuple[Selection, ...]:
    """Read "all", "double, 12", "0-9:0.5, single:0.8": groups or numbers, each with an α0 or not.

    Raises ValueError for anything else, and for no item.
    """
    pieces = [piece.strip() for piece in text.split(",") if piece.strip()]
    if not pieces:
        raise ValueError(
            f"blocks is {text!r}, expected at least one of {_list(GROUPS)} or a layer's number, "
            "such as 'double, 12'. Write 'all' for every layer, or set mode to off."
        )
    return tuple(_read_selection(piece) for piece in pieces)


def _read_selection(piece: str) -> Selection:
    found = _ITEM.fullmatch(piece.replace(" ", ""))
    try:
        if found is None:
            raise ValueError
        group, first, last, alpha = found.groups()
        number = None if alpha is None else float(alpha)
    except ValueError:
        raise ValueError(
            f"Cannot read {piece!r} in blocks; expected {_list(GROUPS)}, a layer's number such as "
            "12, or a range such as 0-9, each with an alpha of its own (12:0.5) or without."
        ) from None
    if number is not None:
        check_number(f"the alpha of {piece!r} in blocks", number, 0.0, LARGEST_ALPHA)
    if group is not None:
        return Selection(group, alpha=number)
    low = int(first)
    high = low if last is None else int(last)
    if low > high:
        raise ValueError(
            f"The range {piece!r} in blocks runs from {low} to {high}; the first number must not "
            "come after the last. Swap them."
        )
    return Selection(None, low, high, number)


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)
