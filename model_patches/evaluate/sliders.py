"""What a slider does: does it order what it should, evenly, and at what price."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from .measures import cosine
from .ranks import spearman
from .statistics import Figure, interval_of, means_of


@dataclass(frozen=True, eq=False)
class Course:
    """Two measures at every value of a slider, from its lowest to its highest."""

    kept: np.ndarray
    """(points, people, pictures): what the slider should raise, such as the likeness."""
    obeyed: np.ndarray
    """(points, people, pictures): what it costs."""


def course_means(stack: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """(points, people, pictures) -> (1 + draws, points): means over everybody, then each draw."""
    return np.stack([means_of(values, weights) for values in stack], axis=1)


def course_correlation(stack: np.ndarray, weights: np.ndarray) -> Figure:
    """Spearman's correlation of a slider with the means that it gives, with its interval.

    stack: (points, people, pictures), in the slider's order. weights: of `draw_people`.
    """
    order = list(range(len(stack)))
    samples = np.array([spearman(order, means) for means in course_means(stack, weights)])
    return Figure(float(samples[0]), *interval_of(samples[1:]), int(np.isfinite(stack).sum()))


def gain_at_equal(one: Course, other: Course, place: int, weights: np.ndarray) -> Figure | None:
    """What `one` obeys at a point, less what `other` obeys where it first keeps as much.

    None where `other` never keeps that much.
    """
    kept, obeyed = (
        [course_means(stack, weights) for stack in stacks]
        for stacks in ((one.kept, other.kept), (one.obeyed, other.obeyed))
    )
    samples = np.array(
        [
            mine[place] - read_at(theirs_kept, theirs, mine_kept[place])
            for mine, mine_kept, theirs_kept, theirs in zip(
                obeyed[0], kept[0], kept[1], obeyed[1], strict=True
            )
        ]
    )
    if not np.isfinite(samples[0]):
        return None
    count = int(np.isfinite(one.obeyed[place]).sum())
    return Figure(float(samples[0]), *interval_of(samples[1:]), count)


def read_at(along: Sequence[float], values: Sequence[float], wanted: float) -> float:
    """`values` where `along` first rises to `wanted`, on straight lines between the points; NaN
    where it never does."""
    for number in range(1, len(along)):
        low, high = along[number - 1], along[number]
        if low <= wanted <= high and high > low:
            share = (wanted - low) / (high - low)
            return float(values[number - 1] + share * (values[number] - values[number - 1]))
    return float("nan")


def largest_jump(embeddings: Sequence[Tensor | None]) -> float:
    """Largest over mean distance (1 - cosine) of neighbours, (D,) in the slider's order: 1 is even.

    NaN where one is missing, or none differ.
    """
    known = [one for one in embeddings if one is not None]
    if len(known) < max(len(embeddings), 2):
        return float("nan")
    steps = [1 - cosine(one, other) for one, other in zip(known, known[1:], strict=False)]
    mean = float(np.mean(steps))
    return max(steps) / mean if mean > 0 else float("nan")
