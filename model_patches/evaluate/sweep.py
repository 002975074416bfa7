"""One number of a graph over several values: which ones, what they gave, where the knee is."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .ranks import knee

EVEN, GEOMETRIC = SPACINGS = ("even", "geometric")
HIGHER, LOWER = DIRECTIONS = ("higher", "lower")
MOST_VALUES = 64
ADVICE = "Change first, last and count, or write the values yourself, by commas."


def list_values(first: float, last: float, count: int, spacing: str, own: str = "") -> list[float]:
    """The values of a sweep, in their order.

    own: numbers by commas, which take the place of the others; empty: `count` numbers from `first`
    to `last`, both included, with equal differences (even) or equal ratios (geometric). Raises
    ValueError for anything but 2 to 64 different, finite numbers.
    """
    values = _parse(own) if own.strip() else _spread(first, last, count, spacing)
    if not 2 <= len(values) <= MOST_VALUES:
        raise ValueError(f"a sweep has {len(values)} values, expected 2 to {MOST_VALUES}. {ADVICE}")
    if not all(map(math.isfinite, values)):
        raise ValueError(f"the values {values} are not all finite. {ADVICE}")
    twice = sorted({value for value in values if values.count(value) > 1})
    if twice:
        raise ValueError(
            f"{len(values)} values hold {', '.join(f'{one:g}' for one in twice)} more than once, "
            f"expected different ones: equal values paint the same picture. {ADVICE}"
        )
    return values


def _parse(own: str) -> list[float]:
    values = []
    for part in own.replace("\n", ",").split(","):
        if not part.strip():
            continue
        try:
            values.append(float(part))
        except ValueError:
            raise ValueError(
                f"{part.strip()!r} is no number in {own.strip()!r}, expected numbers by commas, "
                "such as 0, 0.5, 1."
            ) from None
    return values


def _spread(first: float, last: float, count: int, spacing: str) -> list[float]:
    if not math.isfinite(first) or not math.isfinite(last):
        raise ValueError(f"first is {first} and last is {last}, expected finite numbers. {ADVICE}")
    if count < 2:
        return [first] * count
    if spacing == EVEN:
        found = np.linspace(first, last, count)
    elif spacing == GEOMETRIC:
        if not first * last > 0:
            raise ValueError(
                f"first is {first:g} and last is {last:g}; equal ratios need two numbers of one "
                f"sign, and neither 0. Choose {EVEN}, or other ends."
            )
        found = np.geomspace(first, last, count)
    else:
        raise ValueError(f"unknown spacing {spacing!r}; choose {' or '.join(SPACINGS)}")
    return [float(f"{value:.6g}") for value in found]  # 0.3, not 0.30000000000000004


@dataclass(frozen=True)
class Measured:
    """One figure for each value of a sweep."""

    name: str
    numbers: tuple[float, ...]
    """NaN where it could not be measured."""
    better: str
    """One of DIRECTIONS."""

    @property
    def gains(self) -> list[float]:
        """More is better."""
        return [one if self.better == HIGHER else -one for one in self.numbers]


@dataclass(frozen=True)
class Sweep:
    """What a swept number gave."""

    name: str
    """Of the number."""
    values: tuple[float, ...]
    measured: tuple[Measured, ...] = ()
    """At most two: what is traded for what."""

    def __post_init__(self) -> None:
        for one in self.measured:
            if one.better not in DIRECTIONS:
                raise ValueError(
                    f"unknown direction {one.better!r}; choose {' or '.join(DIRECTIONS)}"
                )
            check_count(self.values, len(one.numbers), f"numbers of {one.name}")

    @property
    def labels(self) -> list[str]:
        return [f"{value:g}" for value in self.values]

    def find_knee(self) -> int | None:
        """Index of the value from where on one side costs more than the other gives."""
        if len(self.measured) != 2:
            return None
        x, y = (one.gains for one in self.measured)
        return knee(list(zip(x, y, strict=True)))


def check_count(values: Sequence[float], count: int, what: str) -> None:
    """Raise ValueError unless there is one for each value."""
    if len(values) != count:
        raise ValueError(
            f"the sweep has {len(values)} values and {count} {what}, expected one for each value. "
            "Connect what the swept graph gives, without a node in between that joins a list into "
            "one batch, and the values of the same Sweep Values."
        )


def caption(sweep: Sweep) -> list[list[str]]:
    """Lines for each value: the value, and each figure."""
    return [
        [f"{sweep.name} {label}", *(_describe(one, index) for one in sweep.measured)]
        for index, label in enumerate(sweep.labels)
    ]


def place_points(sweep: Sweep) -> tuple[list[tuple[float, float]], tuple[str, str]]:
    """Points of a chart, and what its axes are called: one figure over the other.

    With one figure: it over the values. Without any: no point.
    """
    if not sweep.measured:
        return [], ("", "")
    if len(sweep.measured) == 1:
        [one] = sweep.measured
        return list(zip(sweep.values, one.numbers, strict=True)), (sweep.name, one.name)
    x, y = sweep.measured
    titles = (f"{x.name} ({x.better} is better)", f"{y.name} ({y.better} is better)")
    return list(zip(x.numbers, y.numbers, strict=True)), titles


def write_table(sweep: Sweep) -> str:
    """CSV: the value, each figure, and whether it is the knee. What is not measured is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([sweep.name, *(one.name for one in sweep.measured), "knee"])
    best = sweep.find_knee()
    for index, value in enumerate(sweep.values):
        numbers = (one.numbers[index] for one in sweep.measured)
        cells = [f"{one:.6g}" if math.isfinite(one) else "" for one in numbers]
        writer.writerow([f"{value:g}", *cells, "knee" if index == best else ""])
    return text.getvalue()


def write_report(sweep: Sweep) -> str:
    """A line for each value, and what the knee is or why there is none."""
    best = sweep.find_knee()
    lines = []
    for index, label in enumerate(sweep.labels):
        numbers = [_describe(one, index) for one in sweep.measured]
        mark = " (knee)" if index == best else ""
        lines.append(f"{sweep.name} {label}{': ' if numbers else ''}{', '.join(numbers)}{mark}")
    lines.append(_explain_knee(sweep, best))
    return "\n".join(lines)


def _describe(one: Measured, index: int) -> str:
    number = one.numbers[index]
    return f"{one.name} {number:.3g}" if math.isfinite(number) else f"{one.name} not measured"


def _explain_knee(sweep: Sweep, best: int | None) -> str:
    if len(sweep.measured) < 2:
        return "knee: left out (it needs two figures for each value; connect x and y)"
    x, y = sweep.measured
    if best is not None:
        return (
            f"knee: {sweep.name} {sweep.labels[best]}; from there on one side costs more than it "
            f"gives ({x.better} {x.name} and {y.better} {y.name} are better)"
        )
    pairs = zip(x.numbers, y.numbers, strict=True)
    whole = sum(math.isfinite(a) and math.isfinite(b) for a, b in pairs)
    if whole < 3:
        return f"knee: none, {whole} of {len(sweep.values)} values have both figures, expected 3"
    return "knee: none; no value lies above the line between the two ends, so it is your choice"
