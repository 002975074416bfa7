"""How much each section measures, so that all of them end within the time they were given.

A section first tries a small piece of its own work on this machine. From the seconds of that
piece it chooses the size of its work and the number of rounds, and it says how long they take
before it begins.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

Clock = Callable[[], float]
Row = dict[str, object]
Size = TypeVar("Size")

LEAST = 3
"""Rounds behind every ratio. The median of fewer does not survive one disturbed round."""
MARGIN = 0.8
"""Share of the time that a plan may fill: other programs slow a machine down while it works."""


@dataclass(frozen=True)
class Plan:
    """A section that is ready to be measured."""

    seconds: float
    """How long measuring will take, estimated from what was tried."""
    what: str
    """The sizes and rounds that were chosen."""
    measure: Callable[[], list[Row]]


class Allowance:
    """The time of one section. It runs from the start: trying and loading count, too."""

    def __init__(self, seconds: float, clock: Clock = time.monotonic) -> None:
        self.seconds, self._clock, self._started = seconds, clock, clock()

    def left(self) -> float:
        return self.seconds - (self._clock() - self._started)

    def rounds(self, planned: int) -> Iterator[int]:
        """0 to planned - 1; fewer, but never below LEAST, when rounds take longer than planned."""
        begun = self._clock()
        for number in range(planned):
            if number >= LEAST and (self._clock() - begun) / number > self.left():
                return
            yield number


class Budget:
    """The time of all sections, shared out by weight. What one leaves over, later ones get."""

    def __init__(
        self, seconds: float, weights: Mapping[str, float], clock: Clock = time.monotonic
    ) -> None:
        self._left, self._clock = Allowance(seconds, clock), clock
        self._waiting = dict(weights)

    def shares(self) -> dict[str, float]:
        """Section -> its seconds, of those that have not begun."""
        whole, left = sum(self._waiting.values()), max(0.0, self._left.left())
        return {section: left * weight / whole for section, weight in self._waiting.items()}

    def begin(self, section: str) -> Allowance:
        seconds = self.shares()[section]
        del self._waiting[section]
        return Allowance(seconds, self._clock)


def choose(
    sizes: Sequence[Size], cost: Callable[[Size], float], seconds: float, most: int
) -> tuple[Size, int]:
    """The first size of which LEAST rounds fit, else the last one; and its rounds, at most `most`.

    sizes: from the largest to the smallest. cost: seconds of one round at a size.
    """
    usable = MARGIN * seconds
    size = next((size for size in sizes if LEAST * cost(size) <= usable), sizes[-1])
    return size, rounds_in(usable, cost(size), most)


def rounds_in(seconds: float, one: float, most: int) -> int:
    """How many rounds of `one` second each fit; LEAST where fewer would."""
    fitting = int(seconds / one) if one > 0 else most
    return max(LEAST, min(most, fitting))


def duration(seconds: float) -> str:
    """The time in words: "2 s", "4 min"."""
    return f"{max(1, round(seconds))} s" if seconds < 90 else f"{round(seconds / 60)} min"
