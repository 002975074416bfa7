"""What many pictures show together: means over people, with intervals over people."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

RESAMPLES = 1000
SHARE = 0.95
"""Of the samples that an interval holds."""


@dataclass(frozen=True)
class Figure:
    """A mean with its confidence interval, and how many values it stands on."""

    mean: float
    low: float
    high: float
    count: int


MISSING = Figure(float("nan"), float("nan"), float("nan"), 0)
"""Of no values."""


Values = np.ndarray
"""(people, pictures) float, NaN where a measure says nothing."""
Means = Callable[[Values], np.ndarray]
"""Values -> their mean over everybody, then over each draw of people: (1 + draws,)."""


@lru_cache(maxsize=32)
def draw_people(people: int, resamples: int = RESAMPLES, seed: int = 0) -> np.ndarray:
    """(resamples, people): how often each person is in each draw. The same draws for one seed, so
    that figures that share them are paired. Do not write into it."""
    chosen = np.random.default_rng(seed).integers(people, size=(resamples, people))
    weights = np.stack([np.bincount(one, minlength=people) for one in chosen])
    weights.setflags(write=False)
    return weights


def resample(values: Values, weights: np.ndarray) -> np.ndarray:
    """Mean over all pictures of every draw (draws,); NaN where a draw has no value."""
    known = ~np.isnan(values)
    sums, counts = np.where(known, values, 0.0).sum(1), known.sum(1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return (weights @ sums) / (weights @ counts)


def interval_of(samples: np.ndarray, share: float = SHARE) -> tuple[float, float]:
    """Ends of the interval that holds `share` of the finite samples; NaN without one."""
    samples = samples[np.isfinite(samples)]
    if not len(samples):
        return float("nan"), float("nan")
    tail = 50 * (1 - share)
    low, high = np.percentile(samples, (tail, 100 - tail))
    return float(low), float(high)


def flat_figure(values: Values, weights: np.ndarray) -> Figure | None:
    """Mean over all pictures, with an interval over people; None where nothing is known.

    weights: of `draw_people`. People count by how many of their pictures have a value.
    """
    count = int((~np.isnan(values)).sum())
    if not count:
        return None
    return Figure(float(np.nanmean(values)), *interval_of(resample(values, weights)), count)


def formula_figure(formula: Callable[[Means], np.ndarray], weights: np.ndarray) -> Figure | None:
    """A formula of several means, such as their ratio, with a paired interval over people.

    formula: gets a function from values to their mean and returns the result, all (1 + draws,).
    `count` is that of the mean with the fewest values; None where one has none.
    """
    used: list[Values] = []

    def mean(values: Values) -> np.ndarray:
        used.append(values)
        return means_of(values, weights)

    with np.errstate(invalid="ignore", divide="ignore"):
        samples = formula(mean)
    count = min(int((~np.isnan(values)).sum()) for values in used)
    return Figure(float(samples[0]), *interval_of(samples[1:]), count) if count else None


def means_of(values: Values, weights: np.ndarray) -> np.ndarray:
    """(1 + draws,): the mean over everybody, then over each draw."""
    everybody = np.ones((1, len(values)))
    return np.concatenate([resample(values, one) for one in (everybody, weights)])


def bootstrap(
    values: Sequence[float],
    groups: Sequence[Hashable],
    seed: int = 0,
    resamples: int = RESAMPLES,
    share: float = SHARE,
) -> Figure:
    """Mean over groups of their means, with an interval from drawing groups again.

    Pictures of one person are alike, so people are drawn, not pictures. Raises ValueError when
    there are no values.
    """
    if not len(values) or len(values) != len(groups):
        raise ValueError(f"expected values with one group each, got {len(values)}, {len(groups)}")
    members: dict[Hashable, list[float]] = {}
    for value, group in zip(values, groups, strict=True):
        members.setdefault(group, []).append(float(value))
    means = np.array([[np.mean(one)] for one in members.values()])
    drawn = resample(means, draw_people(len(means), resamples, seed))
    return Figure(float(means.mean()), *interval_of(drawn, share), len(values))


def verification_area(same: Sequence[float], different: Sequence[float]) -> float:
    """Area under the ROC curve: how often a same-person pair is more alike than another pair.

    Ties count half. Raises ValueError when either kind of pair is missing.
    """
    if not len(same) or not len(different):
        raise ValueError(f"expected pairs of both kinds, got {len(same)} and {len(different)}")
    reference = np.sort(np.asarray(different, np.float64))
    ours = np.asarray(same, np.float64)
    below = np.searchsorted(reference, ours, "left") + np.searchsorted(reference, ours, "right")
    return float(below.mean() / 2 / len(reference))
