"""Which of several methods or settings is better: ranks, Pareto front, knee."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

Ties = Literal["average", "ordinal", "min", "max", "dense"]
Point = tuple[float, float]


def mean_ranks(table: Mapping[str, Sequence[float]], ties: Ties = "average") -> dict[str, float]:
    """FlexIP's mRank: the mean rank of each method over columns where more is better; 1 is best.

    ties: "average" by default; "ordinal" gives the one that comes later the better rank, as the
    paper does. Raises ValueError for fewer than three methods, of which ranks say nothing, for
    rows of different lengths, and for values that are not finite.
    """
    from scipy.stats import rankdata

    if len(table) < 3:
        raise ValueError(f"ranks need three methods at least, got {len(table)}")
    lengths = {len(row) for row in table.values()}
    if len(lengths) != 1 or not lengths.pop():
        raise ValueError("expected as many values for each method")
    values = np.array(list(table.values()), np.float64)
    if not np.isfinite(values).all():
        raise ValueError("a value is missing or not finite; leave its column out for all methods")
    if ties == "ordinal":
        ranks = len(table) + 1 - rankdata(values, "ordinal", axis=0)
    else:
        ranks = rankdata(-values, ties, axis=0)
    return dict(zip(table, map(float, ranks.mean(1)), strict=True))


def spearman(values: Sequence[float], others: Sequence[float]) -> float:
    """Spearman's rank correlation, in [-1, 1]; NaN where one side does not vary.

    Raises ValueError for lists of different lengths, or of fewer than two.
    """
    from scipy.stats import rankdata

    if len(values) != len(others) or len(values) < 2:
        raise ValueError(f"expected two lists of one length, got {len(values)} and {len(others)}")
    first, second = (rankdata(one) - (len(one) + 1) / 2 for one in (values, others))
    norm = float(np.sqrt((first @ first) * (second @ second)))
    return float(first @ second) / norm if norm else float("nan")


def pareto_front(points: Mapping[str, Point]) -> list[str]:
    """Names of the points that no other one beats, where more of both is better; by the first."""

    def beats(one: Point, other: Point) -> bool:
        return one != other and one[0] >= other[0] and one[1] >= other[1]

    everyone = points.values()
    names = [name for name, point in points.items() if not any(beats(o, point) for o in everyone)]
    return sorted(names, key=lambda name: points[name])


def hypervolume(points: Sequence[Point], reference: Point) -> float:
    """Area that the points dominate above the reference point, where more of both is better."""
    area, height = 0.0, reference[1]
    for x, y in sorted(points, reverse=True):
        if x > reference[0] and y > height:
            area += (x - reference[0]) * (y - height)
            height = y
    return area


def knee(points: Sequence[Point]) -> int | None:
    """Index of the point where a trade-off turns: from there on one side costs more than it gives.

    points: in the order of the swept number, more of both is better. Both sides are scaled to
    0..1; the knee is the point furthest above the straight line through the two extremes. None
    when fewer than three points are finite, when a side does not vary, or when no point lies above
    the line: then there is no knee, and any choice is a matter of taste.
    """
    whole = [i for i, (x, y) in enumerate(points) if np.isfinite(x) and np.isfinite(y)]
    if len(whole) < 3:
        return None
    values = np.array([points[i] for i in whole], np.float64)
    spans = np.ptp(values, axis=0)
    if not (spans > 0).all():
        return None
    scaled = (values - values.min(0)) / spans
    ends = scaled[scaled[:, 0].argmin()], scaled[scaled[:, 0].argmax()]
    normal = np.array([ends[0][1] - ends[1][1], ends[1][0] - ends[0][0]])
    heights = (scaled - ends[0]) @ normal / np.linalg.norm(normal)
    best = int(heights.argmax())
    return whole[best] if heights[best] > 1e-9 else None
