"""Which weights a search of a merge tries."""

from __future__ import annotations

import itertools
import math

from ..gates.numbers import parse_weights
from .merge_rules import Method, shares_of

MOST_POINTS = 64

Point = tuple[float, ...]
"""One weight for each file."""


def list_points(
    method: Method, files: int, steps: int, own: str = "", has_base: bool = False
) -> list[Point]:
    """The weights to try, each different, as a merge of `files` files uses them.

    own: one set of weights a line, such as "0.7, 0.3"; those of lerp and slerp are divided by
    their sum. Empty: `steps` values from 0 to 1 for each weight, with equal differences; of lerp
    and slerp those that sum to 1, from all weight on the first file to all on the last. Raises
    ValueError for weights that the method refuses, and for anything but 2 to 64 different points.
    """
    found = _parse(own) if own.strip() else _spread(method, files, steps)
    points = [tuple(shares_of(method, point, files, True, has_base)) for point in found]
    twice = [point for number, point in enumerate(points) if point in points[:number]]
    if twice:
        raise ValueError(
            f"{len(points)} lines of weights hold {label(twice[0])} more than once, expected "
            "different ones: equal weights make the same adapter. Delete one of them."
        )
    if not 2 <= len(points) <= MOST_POINTS:
        raise ValueError(_explain_count(len(points)))
    return points


def label(point: Point) -> str:
    """As Merge Identity Adapters reads it, such as "0.7, 0.3"."""
    return ", ".join(f"{weight:.6g}" for weight in point)


def _parse(own: str) -> list[Point]:
    lines = [line for line in own.splitlines() if line.strip()]
    return [tuple(parse_weights(line) or ()) for line in lines]


def _spread(method: Method, files: int, steps: int) -> list[Point]:
    if steps < 2:
        raise ValueError(f"steps is {steps}, expected 2 or more: 0 and 1 are values, too.")
    last = steps - 1
    scales = method == "task_arithmetic"
    count = steps**files if scales else math.comb(last + files - 1, last)
    if count > MOST_POINTS:
        raise ValueError(_explain_count(count))
    grid = itertools.product(range(steps), repeat=files)
    whole = [point for point in grid if scales or sum(point) == last]
    if not scales:
        whole.reverse()  # from the first file to the last
    return [tuple(float(f"{one / last:.6g}") for one in point) for point in whole]


def _explain_count(count: int) -> str:
    return (
        f"the search has {count} sets of weights, expected 2 to {MOST_POINTS}. Choose other steps, "
        "or write the weights yourself, one set a line."
    )
