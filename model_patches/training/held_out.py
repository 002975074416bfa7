"""What is kept out of a training, for its sample sheets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

FEWEST = 10
"""Of a few, at most one in so many is kept out."""
Kept = TypeVar("Kept")


def hold_out(found: Sequence[Kept], count: int) -> tuple[tuple[Kept, ...], tuple[Kept, ...]]:
    """At most `count` of what was found, evenly spread, and the others."""
    count = min(count, len(found) // FEWEST)
    places = set(range(len(found))[:: max(1, len(found) // count)][:count]) if count else set()
    shown = tuple(one for place, one in enumerate(found) if place in places)
    return shown, tuple(one for place, one in enumerate(found) if place not in places)
