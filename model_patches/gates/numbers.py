"""Numbers from widgets: JSON can carry NaN past a widget's limits, and a text can hold several."""

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


def parse_weights(text: str) -> list[float] | None:
    """ "1, 0.5" -> [1.0, 0.5]; None when empty. Raises ValueError for anything but numbers."""
    if not text.strip():
        return None
    try:
        return [float(part) for part in text.replace(";", ",").split(",")]
    except ValueError as error:
        raise ValueError(
            f"weights are {text!r}, expected numbers separated by commas such as '1, 0.5', "
            "one for each input, or nothing."
        ) from error
