"""What many pictures show together: means over people, with intervals over people."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 1000


@dataclass(frozen=True)
class Figure:
    """A mean with its confidence interval, and how many values it stands on."""

    mean: float
    low: float
    high: float
    count: int


MISSING = Figure(float("nan"), float("nan"), float("nan"), 0)
"""Of no values."""


@dataclass(frozen=True)
class Likeness:
    """How like the wanted person the faces are."""

    similarity: Figure
    """Mean cosine; a picture without a face counts 0."""
    detected: Figure
    """Share of the pictures in which a face was found, 0 to 1."""
    of_detected: Figure
    """Mean cosine over those pictures alone."""


def likeness(
    similarities: Sequence[float | None], people: Sequence[Hashable], seed: int = 0
) -> Likeness:
    """Sums up `face_similarity` of many pictures; `people` says whose picture each is.

    Intervals are over people. Raises ValueError when there is no picture.
    """
    strict = [0.0 if one is None else one for one in similarities]
    present = [one is not None for one in similarities]
    pairs = zip(similarities, people, strict=True)
    valid = [(one, who) for one, who in pairs if one is not None]
    return Likeness(
        bootstrap(strict, people, seed),
        bootstrap(present, people, seed),
        bootstrap([v for v, _ in valid], [w for _, w in valid], seed) if valid else MISSING,
    )


def bootstrap(
    values: Sequence[float],
    groups: Sequence[Hashable],
    seed: int = 0,
    resamples: int = RESAMPLES,
    share: float = 0.95,
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
    means = np.array([np.mean(one) for one in members.values()])
    rng = np.random.default_rng(seed)
    drawn = means[rng.integers(len(means), size=(resamples, len(means)))].mean(1)
    tail = (1 - share) / 2
    low, high = np.quantile(drawn, (tail, 1 - tail))
    return Figure(float(means.mean()), float(low), float(high), len(values))


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
