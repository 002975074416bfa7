"""Figures on generated pictures: identity kept, edit obeyed, the rest left alone.

Everything here takes what some recogniser, classifier or detector found and knows none of them.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

RESAMPLES = 1000


@dataclass(frozen=True)
class Figure:
    """A mean with its confidence interval, and how many values it stands on."""

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Likeness:
    """How like the wanted person the faces are."""

    similarity: Figure
    """Mean cosine; a picture without a face counts 0."""
    detected: Figure
    """Share of the pictures in which a face was found, 0 to 1."""
    of_detected: Figure
    """Mean cosine over those pictures alone."""


def cosine(one: Tensor, other: Tensor) -> float:
    """Of two embeddings (D,). Raises ValueError for other shapes or an embedding of length 0."""
    if one.shape != other.shape or one.ndim != 1:
        raise ValueError(
            f"expected two embeddings of one shape (D,), got {tuple(one.shape)} and "
            f"{tuple(other.shape)}; compare embeddings of the same recogniser"
        )
    one, other = one.double(), other.double()
    lengths = one.norm() * other.norm()
    if not lengths > 0:
        raise ValueError("an embedding of length 0 is like nothing; embed the face again")
    return float(one @ other / lengths)


def face_similarity(wanted: Tensor, found: Sequence[Tensor]) -> float | None:
    """The greatest cosine between a person's embedding (D,) and any found face's.

    None when no face was found, which `likeness` counts as 0.
    """
    return max((cosine(wanted, one) for one in found), default=None)


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
    missing = Figure(float("nan"), float("nan"), float("nan"), 0)
    return Likeness(
        bootstrap(strict, people, seed),
        bootstrap(present, people, seed),
        bootstrap([v for v, _ in valid], [w for _, w in valid], seed) if valid else missing,
    )


def hits(asked: Sequence[Hashable], found: Sequence[Hashable | None]) -> list[bool]:
    """Whether each picture shows what was asked for; nothing found is a miss."""
    return [one == other for one, other in zip(asked, found, strict=True)]


def pose_error(asked: Sequence[float], found: Sequence[float]) -> float:
    """Mean absolute difference of two sets of angles in degrees, the short way round."""
    one, other = np.asarray(asked, np.float64), np.asarray(found, np.float64)
    if one.shape != other.shape or one.ndim != 1:
        raise ValueError(f"expected as many angles asked as found, got {one.shape}, {other.shape}")
    return float(np.abs((one - other + 180) % 360 - 180).mean())


def disruption(
    picture: Tensor, untouched: Tensor, boxes: Sequence[Sequence[float]], margin: float = 0.25
) -> float:
    """Mean absolute difference outside the faces, 0 (the same) to 1.

    picture, untouched: (H, W, C) in 0..1, painted from the same seed with and without identity.
    boxes: x0, y0, x1, y1 in pixels, of the faces in both; each is grown by `margin` of its sides,
    since hair and ears belong to the person. Raises ValueError when the shapes differ, or the
    faces leave nothing outside.
    """
    if picture.shape != untouched.shape or picture.ndim != 3:
        raise ValueError(
            f"expected two pictures (H, W, C) of one size, got {tuple(picture.shape)} and "
            f"{tuple(untouched.shape)}; paint both at the same size"
        )
    outside = torch.ones(picture.shape[:2], dtype=torch.bool)
    for x0, y0, x1, y1 in boxes:
        across, down = margin * (x1 - x0), margin * (y1 - y0)
        left, top = max(0, round(x0 - across)), max(0, round(y0 - down))
        outside[top : max(0, round(y1 + down)), left : max(0, round(x1 + across))] = False
    if not outside.any():
        raise ValueError(f"the face boxes {list(boxes)} cover the whole picture")
    return float((picture.float() - untouched.float()).abs()[outside].mean())


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
