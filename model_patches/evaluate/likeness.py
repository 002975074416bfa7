"""Is it the person: the face that counts in a picture, and its cosine to the reference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .measures import cosine
from .modes import COMPAT, CORRECTED, Mode, check_mode

ALIKE = 0.2
"""Least cosine at which a face is taken for the person rather than for somebody else."""
TINY = 1e-6
TYPICAL_CHANGE, SPREAD = 0.2, 0.1
"""IBench's FaceDiv: the landmark change that it rewards most, and how sharply."""


@dataclass(frozen=True, eq=False)
class SeenFace:
    """One face of a picture, as a detector and a recogniser report it."""

    embedding: Tensor
    """(D,), of any length."""
    score: float
    """Of the detector, 0 to 1."""
    area: float
    """In pixels."""


def mean_reference(embeddings: Sequence[Tensor]) -> Tensor:
    """Mean of the unit embeddings (D,) of several photos of one person, not normalised.

    Raises ValueError for no embedding, for two lengths, or for one that is 0.
    """
    if not embeddings:
        raise ValueError("no face in the reference, expected at least 1; use another photo")
    shapes = {tuple(one.shape) for one in embeddings}
    if len(shapes) > 1 or embeddings[0].ndim != 1:
        raise ValueError(f"embeddings of one recogniser have one shape (D,), got {sorted(shapes)}")
    stacked = torch.stack([one.double() for one in embeddings])
    lengths = stacked.norm(dim=1, keepdim=True)
    if not (lengths > 0).all():
        raise ValueError("a reference embedding has length 0; embed the photo again")
    return (stacked / lengths).mean(0)


def choose_seen(reference: Tensor, faces: Sequence[SeenFace], mode: Mode = CORRECTED) -> int | None:
    """Index of the face that counts; None where there is none.

    corrected: the most similar to the reference (D,), or the largest where none reaches a cosine
    of 0.2. compat: the one with the highest detection score, whoever it is.
    """
    check_mode(mode)
    if not faces:
        return None
    if mode == COMPAT:
        return max(range(len(faces)), key=lambda index: faces[index].score)
    alike = [cosine(reference, face.embedding.to(reference.dtype)) for face in faces]
    best = max(range(len(faces)), key=alike.__getitem__)
    if alike[best] >= ALIKE:
        return best
    return max(range(len(faces)), key=lambda index: faces[index].area)


def face_sim(reference: Tensor, faces: Sequence[SeenFace], mode: Mode = CORRECTED) -> float | None:
    """FaceSim of one picture: the cosine of the face that counts; None without a face."""
    chosen = choose_seen(reference, faces, mode)
    if chosen is None:
        return None
    return cosine(reference.double(), faces[chosen].embedding.double())


def face_div(similarity: float, base: float, change: float) -> tuple[float, float]:
    """IBench's FaceDiv1 and FaceDiv2, compat only.

    Both divide FaceSim by `base`, the picture's without identity, which is near 0 and often
    negative: the values jump over tens in either direction. Use `face_div_product` instead.
    """
    ratio = similarity / (base + TINY)
    return ratio * _bell(change), ratio * (1 + change / SPREAD)


def face_div_product(similarity: float, change: float) -> float:
    """FaceSim times exp(-(change - 0.2)^2 / (2 * 0.1^2)): like the person, and not a copy."""
    return similarity * _bell(change)


def face_div_loss(similarity: float, change: float) -> float:
    """-ln(FaceSim) + (change - 0.2)^2 / (2 * 0.1^2); FaceSim counts as 1e-6 at least."""
    return -math.log(max(similarity, TINY)) - math.log(_bell(change))


def _bell(change: float) -> float:
    return math.exp(-((change - TYPICAL_CHANGE) ** 2) / (2 * SPREAD**2))
