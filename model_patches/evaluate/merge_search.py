"""What a search of merge weights found: figures with intervals over people, and the best weights.

Weights are compared in pairs: a person and a prompt count once all weights have painted them.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .statistics import MISSING, RESAMPLES, Figure, bootstrap
from .sweep import HIGHER

NOTE = (
    "The best weights were chosen on these pictures, which flatters their figures: measure them "
    "on other people before you rely on the numbers."
)
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Axis:
    """A figure that is measured."""

    name: str
    better: str
    """One of `sweep.DIRECTIONS`."""

    @property
    def sign(self) -> int:
        return 1 if self.better == HIGHER else -1


@dataclass(frozen=True)
class Scores:
    """Figures of the trials so far, by (point, person, prompt). NaN: could not be measured."""

    x: Mapping[tuple[int, int, int], float]
    y: Mapping[tuple[int, int, int], float] | None = None


@dataclass(frozen=True)
class Search:
    """A search, as far as it is done. Raises ValueError for a tolerance below 0."""

    labels: tuple[str, ...]
    """Of the points: their weights."""
    total: int
    """Trials of the whole search: points change first, then people, then prompts."""
    people: int
    scores: Scores
    axes: tuple[Axis, Axis | None]
    tolerance: float = 0.05
    """How much of x may be lost against the best x."""

    def __post_init__(self) -> None:
        if not 0 <= self.tolerance < math.inf:
            raise ValueError(
                f"tolerance is {self.tolerance:g}, expected 0 or more. 0 takes the best x."
            )

    @property
    def missing(self) -> list[int]:
        """Numbers of the trials that have not been painted."""
        count = len(self.labels)
        places = (
            (n, (n % count, n // count % self.people, n // count // self.people))
            for n in range(self.total)
        )
        return [number for number, place in places if place not in self.scores.x]

    @cached_property
    def cells(self) -> list[tuple[int, int]]:
        """(person, prompt) that all points have painted."""
        found = {place[1:] for place in self.scores.x}
        points = range(len(self.labels))
        return sorted(c for c in found if all((p, *c) in self.scores.x for p in points))

    def measured(self, scores: Mapping[tuple[int, int, int], float]) -> list[tuple[int, int]]:
        """The cells in which no point's figure is missing."""
        points = range(len(self.labels))
        return [
            cell
            for cell in self.cells
            if all(math.isfinite(scores.get((p, *cell), math.nan)) for p in points)
        ]

    def figures(self, scores: Mapping[tuple[int, int, int], float]) -> list[Figure]:
        """Mean and interval over people for each point, of the same pairs everywhere."""
        cells = self.measured(scores)
        if not cells:
            return [MISSING] * len(self.labels)
        people = [person for person, _ in cells]
        return [
            bootstrap([scores[(point, *cell)] for cell in cells], people)
            for point in range(len(self.labels))
        ]

    def difference(
        self, scores: Mapping[tuple[int, int, int], float], one: int, other: int
    ) -> Figure:
        """One point less another, in pairs, with the interval over people."""
        cells = self.measured(scores)
        if not cells:
            return MISSING
        apart = [scores[(one, *cell)] - scores[(other, *cell)] for cell in cells]
        return bootstrap(apart, [person for person, _ in cells])

    @cached_property
    def best(self) -> int | None:
        """The point with the best y among those whose x is within the tolerance of the best x.

        Without y that with the best x; of equal ones the first; None before anything can be
        compared.
        """
        people = sorted({person for person, _ in self._list_shared_cells()})
        if not people:
            return None
        x, y = self._average_pictures(people)
        return self._choose_point(x.mean(0), None if y is None else y.mean(0))

    def stability(self, resamples: int = RESAMPLES, seed: int = 0) -> float:
        """How often the same rule takes the same point when people are drawn again; NaN for one
        person, of whom nothing can be drawn."""
        people = sorted({person for person, _ in self._list_shared_cells()})
        if self.best is None or len(people) < 2:
            return math.nan
        rng = np.random.default_rng(seed)
        draws = rng.integers(len(people), size=(resamples, len(people)))
        x, y = self._average_pictures(people)
        chosen = [
            self._choose_point(x[drawn].mean(0), None if y is None else y[drawn].mean(0))
            for drawn in draws
        ]
        return float(np.mean([one == self.best for one in chosen]))

    def _list_shared_cells(self) -> list[tuple[int, int]]:
        """Cells that have every figure: what the choice stands on."""
        cells = self.measured(self.scores.x)
        if self.axes[1] is None or self.scores.y is None:
            return cells
        return [cell for cell in self.measured(self.scores.y) if cell in cells]

    def _average_pictures(self, people: Sequence[int]) -> tuple[np.ndarray, np.ndarray | None]:
        """x and y of each person, (people, points)."""
        cells = self._list_shared_cells()

        def average(scores: Mapping[tuple[int, int, int], float]) -> np.ndarray:
            rows = [
                [
                    np.mean([scores[(point, *cell)] for cell in cells if cell[0] == person])
                    for point in range(len(self.labels))
                ]
                for person in people
            ]
            return np.array(rows, np.float64)

        with_y = self.axes[1] is not None and self.scores.y is not None
        return average(self.scores.x), average(self.scores.y or {}) if with_y else None

    def _choose_point(self, x: np.ndarray, y: np.ndarray | None) -> int:
        x = x * self.axes[0].sign
        if y is None or self.axes[1] is None:
            return int(x.argmax())
        near = x >= x.max() - self.tolerance - _ROUNDING
        return int(np.where(near, y * self.axes[1].sign, -np.inf).argmax())


def write_table(search: Search) -> str:
    """CSV: weights, each figure with the ends of its interval, and which point is the best."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    columns = _list_columns(search)
    names = [f"{axis.name}{end}" for axis, _ in columns for end in ("", " low", " high")]
    writer.writerow(["weights", *names, "pairs", "best"])
    for number, label in enumerate(search.labels):
        cells = []
        for _, figures in columns:
            one = figures[number]
            numbers = (one.mean, one.low, one.high)
            cells += [f"{v:.6g}" if math.isfinite(v) else "" for v in numbers]
        best = "best" if number == search.best else ""
        writer.writerow([label, *cells, len(search.cells), best])
    return text.getvalue()


def write_report(search: Search) -> str:
    """What is done, a line for each point, the best one, and how sure that is."""
    done = search.total - len(search.missing)
    lines = [
        f"{done} of {search.total} trials done, {len(search.cells)} pairs of person and prompt"
    ]
    if search.missing:
        shown = ", ".join(map(str, search.missing[:12]))
        lines.append(f"missing trials: {shown}{', …' if len(search.missing) > 12 else ''}")
    columns = _list_columns(search)
    for number, label in enumerate(search.labels):
        figures = [f"{axis.name} {describe(found[number])}" for axis, found in columns]
        lines.append(f"{label}: {', '.join(figures)}{' (best)' if number == search.best else ''}")
    return "\n".join([*lines, *_list_left_out(search), *_explain_best(search)])


def describe(figure: Figure) -> str:
    """A mean with its interval, where it has one that can be seen."""
    if not math.isfinite(figure.mean):
        return "not measured"
    mean, low, high = (f"{one:.3g}" for one in (figure.mean, figure.low, figure.high))
    return mean if low == mean == high else f"{mean} [{low}, {high}]"


def place_points(
    search: Search,
) -> tuple[list[tuple[float, float]], list[tuple[Figure, Figure]], tuple[str, str]]:
    """Points of a chart, the figures they stand on, and what its axes are called.

    y over x; without y: x over the points' numbers, from 1.
    """
    columns = _list_columns(search)
    titles = tuple(f"{axis.name} ({axis.better} is better)" for axis, _ in columns)
    if len(columns) == 2:
        pairs = list(zip(columns[0][1], columns[1][1], strict=True))
        return [(a.mean, b.mean) for a, b in pairs], pairs, (titles[0], titles[1])
    numbers = [Figure(float(n), n, n, 1) for n in range(1, len(search.labels) + 1)]
    pairs = list(zip(numbers, columns[0][1], strict=True))
    return (
        [(a.mean, b.mean) for a, b in pairs],
        pairs,
        ("set of weights, in their order", titles[0]),
    )


def _list_columns(search: Search) -> list[tuple[Axis, list[Figure]]]:
    first, second = search.axes
    found = [(first, search.figures(search.scores.x))]
    if second is not None and search.scores.y is not None:
        found.append((second, search.figures(search.scores.y)))
    return found


def _list_left_out(search: Search) -> list[str]:
    """Pairs without a figure: they are left out for all points."""
    lines = []
    for axis, scores in zip(search.axes, (search.scores.x, search.scores.y), strict=True):
        if axis is None or scores is None:
            continue
        lost = len(search.cells) - len(search.measured(scores))
        if lost:
            lines.append(f"{axis.name}: {lost} pairs left out, not measured for all weights")
    return lines


def _explain_best(search: Search) -> list[str]:
    best = search.best
    if best is None:
        return ["best weights: none yet; no pair has been painted and measured with all weights"]
    first, second = search.axes
    rule = f"the best {first.name}"
    if second is not None:
        rule = f"the best {second.name} within {search.tolerance:g} of the best {first.name}"
    lines = [f"best weights: {search.labels[best]}, {rule}"]
    for other in dict.fromkeys((0, len(search.labels) - 1)):
        if other != best:
            apart = [
                f"{axis.name} {describe(search.difference(scores, best, other))}"
                for axis, scores in ((first, search.scores.x), (second, search.scores.y))
                if axis is not None and scores is not None
            ]
            lines.append(f"best less {search.labels[other]}: {', '.join(apart)}")
    stability = search.stability()
    if math.isnan(stability):
        lines.append("intervals: none, they need two people or more")
    else:
        lines.append(
            f"in brackets: 95 % intervals over people; the same weights are the best in "
            f"{100 * stability:.0f} % of {RESAMPLES} draws of these people"
        )
    return [*lines, NOTE]
