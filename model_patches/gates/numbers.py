"""The one check of numbers that reach a gate: JSON can carry NaN past the limits of a widget."""

from __future__ import annotations

import math

LARGEST_WEIGHT = 100.0
"""No weight beyond it makes a picture, and products of a few such weights still fit a float32."""


def check_number(name: str, value: float, low: float, high: float) -> float:
    """The value, when it is finite and within [low, high]; ValueError with both otherwise."""
    if not (math.isfinite(value) and low <= value <= high):  # also false for NaN
        raise ValueError(
            f"{name} is {value:g}; expected a finite number in [{low:g}, {high:g}]. Set it to a "
            "value in that range."
        )
    return value


def check_weight(name: str, value: float) -> float:
    """A factor of a weight: finite, at most LARGEST_WEIGHT either way."""
    return check_number(name, value, -LARGEST_WEIGHT, LARGEST_WEIGHT)
