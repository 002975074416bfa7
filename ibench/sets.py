"""What only all pictures of a row say together: FID and KID against the plain pictures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from ..model_patches.evaluate.distances import FEW, fid, kid

COUNT = "pictures"


def compare_sets(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> dict[str, float]:
    """Features (D,) of each picture of both sets -> fid, kid times 1000, and how many pictures.

    Nothing for fewer than two pictures: a single one has no spread.
    """
    if min(len(one), len(other)) < 2:
        return {}
    first, second = np.stack(one), np.stack(other)
    found = {"fid": fid(first, second), "kid": 1000 * kid(first, second)[0]}
    return found | {COUNT: float(min(len(one), len(other)))}


def say_few(found: Mapping[str, float]) -> str:
    """Empty where there are enough pictures for FID."""
    count = found.get(COUNT, FEW)
    if count >= FEW:
        return ""
    return f"FID of {count:.0f} pictures, below {FEW}, says more of their number; read KID"
