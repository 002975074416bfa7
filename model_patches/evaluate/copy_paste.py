"""Copy-Paste of WithAnyone: does a picture copy the reference photo rather than show the person?"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from .modes import COMPAT, CORRECTED, Mode, check_mode

SAME_PHOTO = 0.05
"""Radians: two photos closer than this are one, and nothing lies between them."""
EPSILON = 1e-6
"""Of the published code."""


@dataclass(frozen=True)
class CopyPaste:
    """Of one generated face."""

    person: int | None
    """Index into the people; None when there were more faces than people."""
    value: float
    """+1: the reference photo itself; -1: the other photo; 0: as far from both. May be NaN."""
    to_reference: float
    """Cosine to the reference photo."""
    to_target: float
    """Cosine to the other photo of the person."""


@dataclass(frozen=True)
class People:
    """Of one picture."""

    faces: tuple[CopyPaste, ...]
    unmatched: float
    """Mean cosine of faces to the other people's target photos; NaN for one person."""
    unmatched_reference: float
    """And to their reference photos."""


def copy_paste(
    generated: Tensor, target: Tensor, reference: Tensor, mode: Mode = CORRECTED
) -> float:
    """(angle(generated, target) - angle(generated, reference)) / angle(target, reference).

    All (D,). corrected: float64, stable for equal embeddings, NaN when the two photos are less
    than 0.05 apart or an embedding has length 0. compat: float32 with the published epsilons,
    where exact matches give about 0.999 and equal photos 0.
    """
    check_mode(mode)
    apart = _angle(target, reference, mode)
    if mode == COMPAT and apart < EPSILON:
        return 0.0
    if mode == CORRECTED and not apart >= SAME_PHOTO:  # NaN, too
        return float("nan")
    return (_angle(generated, target, mode) - _angle(generated, reference, mode)) / apart


def _angle(one: Tensor, other: Tensor, mode: Mode) -> float:
    if one.shape != other.shape or one.ndim != 1:
        raise ValueError(f"expected (D,) each, got {tuple(one.shape)} and {tuple(other.shape)}")
    if mode == COMPAT:
        cosine = _units([one], mode) @ _units([other], mode).T
        return float(np.arccos(np.clip(cosine, -1, 1))[0, 0])
    first, second = _units([one], mode)[0], _units([other], mode)[0]
    half = float(np.linalg.norm(first - second)) / 2
    return half if math.isnan(half) else 2 * math.asin(min(1.0, half))


def compare_people(
    generated: Sequence[Tensor],
    targets: Sequence[Tensor],
    references: Sequence[Tensor],
    mode: Mode = CORRECTED,
) -> People | None:
    """Copy-Paste of every face of a picture of several people.

    targets, references: one photo's embedding (D,) each per person. corrected: one assignment of
    faces to people, by the mean of both cosines; faces beyond the people are unmatched. compat:
    faces are assigned to the targets and to the references apart, so one face may be compared
    with two people; None when the numbers differ. Raises ValueError without people, or when
    targets and references differ in number.
    """
    from scipy.optimize import linear_sum_assignment

    check_mode(mode)
    if not targets or len(targets) != len(references):
        raise ValueError(
            f"expected one target and one reference for each person, got {len(targets)} and "
            f"{len(references)}"
        )
    if not generated or (mode == COMPAT and len(generated) != len(targets)):
        return None if mode == COMPAT else People((), float("nan"), float("nan"))
    faces = _units(generated, mode)
    to_target, to_reference = (faces @ _units(one, mode).T for one in (targets, references))
    by_target = by_reference = (to_target + to_reference) / 2
    if mode == COMPAT:
        by_target, by_reference = to_target, to_reference
    first = dict(zip(*map(list, linear_sum_assignment(-by_target)), strict=True))
    second = dict(zip(*map(list, linear_sum_assignment(-by_reference)), strict=True))
    found = []
    for face, one in enumerate(generated):
        if face not in first:
            found.append(CopyPaste(None, *[float("nan")] * 3))
            continue
        a, b = int(first[face]), int(second[face])
        value = copy_paste(one, targets[a], references[b], mode)
        found.append(CopyPaste(a, value, float(to_reference[face, b]), float(to_target[face, a])))
    return People(
        tuple(found), _average_others(to_target, first), _average_others(to_reference, second)
    )


def _average_others(similar: np.ndarray, mine: Mapping[int, int]) -> float:
    """Mean of all pairs of a face and a person but the assigned ones."""
    others = [
        value for (face, person), value in np.ndenumerate(similar) if mine.get(face) != person
    ]
    return float(np.mean(others)) if others else float("nan")


def _units(embeddings: Sequence[Tensor], mode: Mode) -> np.ndarray:
    kind = np.float32 if mode == COMPAT else np.float64
    stacked = np.stack([one.float().numpy().astype(kind) for one in embeddings])
    lengths = np.linalg.norm(stacked, axis=1, keepdims=True).astype(kind)
    if mode == COMPAT:
        return stacked / (lengths + kind(EPSILON))
    return stacked / np.where(lengths > 0, lengths, np.nan)


def inlier_statistics(values: Sequence[float], rule: str = "iqr") -> dict[str, float]:
    """MultiID-Bench's summary, compat only: it leaves out what lies far from the rest.

    rule: "iqr" (1.5 quartile ranges), "zscore" (3 deviations), "percentile" (5 to 95) or "none".
    When that leaves out more than half, the median stands for all. Do not use it for new figures:
    failures are outliers.
    """
    every = np.asarray(values, np.float64)
    if every.ndim != 1 or not len(every):
        raise ValueError(f"expected a list of values, got shape {every.shape}")
    kept = every[_inside(every, rule)]
    if len(kept) < len(every) / 2:
        kept = np.array([np.median(every)])
    removed = len(every) - len(kept)
    q1, median, q3 = np.percentile(kept, (25, 50, 75))
    return {
        "mean": float(kept.mean()),
        "std": float(kept.std()),
        "min": float(kept.min()),
        "max": float(kept.max()),
        "median": float(median),
        "q1": float(q1),
        "q3": float(q3),
        "outliers_removed": removed,
        "outliers_percent": 100 * removed / len(every),
    }


def _inside(values: np.ndarray, rule: str) -> np.ndarray:
    if rule == "iqr":
        q1, q3 = np.percentile(values, (25, 75))
        reach = 1.5 * (q3 - q1)
        return (values >= q1 - reach) & (values <= q3 + reach)
    if rule == "zscore":
        return np.abs(values - values.mean()) <= 3 * values.std()
    if rule == "percentile":
        low, high = np.percentile(values, (5, 95))
        return (values >= low) & (values <= high)
    if rule != "none":
        raise ValueError(f"unknown rule {rule!r}; choose iqr, zscore, percentile or none")
    return np.ones(len(values), bool)
