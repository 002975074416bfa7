"""How numbers of several adapter files become one (EditIDv2, eq. 12): the arithmetic of a merge."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from ..gates.numbers import check_weight

Method = Literal[
    "lerp", "task_arithmetic", "slerp", "compat_average", "compat_add", "compat_multiply"
]
METHODS: dict[str, str] = {
    "lerp": "Σ w·file, of any number of files",
    "task_arithmetic": "base + Σ w·(file - base); connect base",
    "slerp": "two files, along the arc between them, for each tensor",
    "compat_average": "two files as EditIDv2's published tool does, (1 - a)·A + a·B in A's number "
    "type",
    "compat_add": "the tool's A + a·B, for files that hold differences",
    "compat_multiply": "the tool's A·(1 + a·B)",
}
CHUNK = 1 << 18
"""Values that are computed at once: what bounds the memory beside one tensor."""

_PAIRS = ("slerp", "compat_average", "compat_add", "compat_multiply")
_PARALLEL = 1e-6
_SMALLEST_SUM = 1e-6


def is_compat(method: str) -> bool:
    """Whether the method repeats the published tool's arithmetic, rounding included."""
    return method.startswith("compat_")


def shares_of(
    method: Method, weights: Sequence[float] | None, count: int, normalise: bool, has_base: bool
) -> list[float]:
    """The weight of each of `count` files as it is used; None weighs all the same.

    lerp: divided by their sum when `normalise`. slerp, compat_average: shares of two files, which
    sum to 1. compat_add, compat_multiply: 1 and a. task_arithmetic: as given, 1 each for None.
    Raises ValueError when method, number of files, base and weights do not fit each other.
    """
    _check_count(method, count, has_base)
    given = [1.0] * count if weights is None else list(weights)
    if len(given) != count:
        raise ValueError(
            f"{len(given)} weights ({', '.join(f'{one:g}' for one in given)}) for {count} files; "
            "expected one for each file, in their order. Leave weights empty to weigh all the same."
        )
    for number, weight in enumerate(given, 1):
        check_weight(f"The weight of file {number}", weight)
    if method == "task_arithmetic" or (method == "lerp" and not normalise):
        return _equal_shares(count) if method == "lerp" and weights is None else given
    if method in ("compat_add", "compat_multiply"):
        return _check_amount(method, given)
    if method != "lerp" and min(given) < 0:
        raise ValueError(
            f"The weights of {method} are {given[0]:g} and {given[1]:g}, expected numbers of 0 or "
            "more: the result lies between the two files. lerp and task_arithmetic can go beyond."
        )
    total = math.fsum(given)
    if abs(total) < _SMALLEST_SUM:
        raise ValueError(
            f"The weights sum to {total:g}, expected another sum than 0, by which they are "
            "divided. Change one of them, or switch normalise off with lerp."
        )
    return [one / total for one in given]


def _check_count(method: Method, count: int, has_base: bool) -> None:
    if method not in METHODS:
        raise ValueError(f"method is {method!r}, expected one of {', '.join(METHODS)}.")
    if method == "task_arithmetic":
        if not has_base:
            raise ValueError(
                "task_arithmetic needs base, and nothing is connected to it. Connect the file that "
                "the others were trained from, for example pulid_flux_v0.9.0.safetensors."
            )
        if count < 1:
            raise ValueError("0 files to merge with base, expected at least 1. Connect one.")
    elif method in _PAIRS and count != 2:
        raise ValueError(
            f"{method} merges 2 files, and {count} are connected. Connect two, or choose lerp."
        )
    elif count < 2:
        raise ValueError(f"{count} files to merge, expected at least 2. Connect another one.")


def _equal_shares(count: int) -> list[float]:
    return [1 / count] * count


def _check_amount(method: Method, given: list[float]) -> list[float]:
    first, amount = given
    if first != 1 or not 0 <= amount <= 1:
        raise ValueError(
            f"The weights of {method} are {first:g}, {amount:g}; expected 1, a with a in [0, 1], "
            "as the published tool has it, for example '1, 0.3'."
        )
    return given


def linear_coefficients(method: Method, shares: Sequence[float]) -> list[float]:
    """Coefficients of the reference and the files for lerp and task arithmetic, which are sums.

    base + Σ w·(file - base) is (1 - Σ w)·base + Σ w·file: one file at weight 1 is that file, bit
    for bit, which the difference would round away.
    """
    rest = 1 - math.fsum(shares) if method == "task_arithmetic" else 0.0
    return [rest, *shares]


def slerp_coefficients(first: Tensor, second: Tensor, shares: Sequence[float]) -> list[float]:
    """Coefficients of two tensors on the arc between their directions; equal ones are lerped.

    sin((1 - t)θ)/sin θ and sin(tθ)/sin θ with θ the angle between the flattened tensors, as in
    Shoemake's quaternions. Raises ValueError for opposite tensors, between which there is no
    shortest arc.
    """
    t = shares[1]
    if t in (0.0, 1.0):
        return [1 - t, t]
    products = torch.zeros(3, dtype=torch.float64)
    for a, b in zip(first.reshape(-1).split(CHUNK), second.reshape(-1).split(CHUNK), strict=True):
        a, b = a.double(), b.double()
        products += torch.stack((a @ b, a @ a, b @ b))
    both, one, other = products.tolist()
    length = math.sqrt(one * other)
    cosine = max(-1.0, min(1.0, both / length)) if length else 1.0
    angle = math.acos(cosine)
    sine = math.sin(angle)
    if sine < _PARALLEL:
        if cosine < 0:
            raise ValueError("its two tensors point in opposite directions. Use lerp.")
        return [1 - t, t]
    return [math.sin((1 - t) * angle) / sine, math.sin(t * angle) / sine]


def add_up(parts: Sequence[Tensor], coefficients: Sequence[float]) -> Tensor:
    """Σ coefficient · part in float64, in the order given; parts with coefficient 0 are left out.

    A single part of coefficient 1 is returned as it is.
    """
    used = [(one, c) for one, c in zip(parts, coefficients, strict=True) if c != 0]
    if len(used) == 1 and used[0][1] == 1:
        return used[0][0]
    total = torch.zeros_like(parts[0], dtype=torch.float64)
    for part, coefficient in used:
        total.add_(part.double(), alpha=coefficient)
    return total


def compat(method: Method, first: Tensor, second: Tensor, amount: float) -> Tensor:
    """The published merging tool's result for two tensors of one shape, in its order of roundings.

    The second tensor is cast to the first one's type, in which everything is computed; integers
    become float32. amount: the tool's alpha, in [0, 1].
    """
    other = second.to(first.dtype)
    if method == "compat_average":
        return (1 - amount) * first + amount * other
    if method == "compat_add":
        return first + amount * other
    return first * (1 + amount * other)
