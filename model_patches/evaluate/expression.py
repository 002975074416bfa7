"""Which expression a face has, and how far it changed."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

from torch import Tensor

CLASSES = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""Of FER2013, in the order of its networks."""
REST = "_neutral"
"""The blendshape that is none."""

# Which of MediaPipe's blendshapes make an expression, after Ekman's action units. A pair has two
# sides, Left and Right, and counts with its mean.
SCORER: dict[str, dict[str, float]] = {
    "angry": {"browDown*": 4.0, "mouthPress*": 2.0, "noseSneer*": 1.0, "eyeSquint*": 1.0},
    "disgust": {"noseSneer*": 5.0, "mouthUpperUp*": 3.0, "browDown*": 1.0},
    "fear": {"eyeWide*": 3.0, "browInnerUp": 2.0, "mouthStretch*": 3.0, "browOuterUp*": -1.0},
    "happy": {"mouthSmile*": 6.0, "cheekSquint*": 2.0, "mouthFrown*": -2.0},
    "sad": {"mouthFrown*": 4.0, "browInnerUp": 2.0, "mouthShrugLower": 2.0, "eyeWide*": -1.0},
    "surprise": {"jawOpen": 3.0, "browOuterUp*": 3.0, "browInnerUp": 1.5, "eyeWide*": 1.5},
    "neutral": {},
}
BIAS = {"neutral": 1.5}
"""What the other expressions have to reach."""


def mean_class(logits: Tensor) -> int:
    """(crops, 7) logits of one face -> the class of their mean."""
    return int(_average_crops(logits).argmax())


def class_probabilities(logits: Tensor) -> dict[str, float]:
    """(crops, 7) logits of one face -> probability of each of CLASSES.

    That of the expression that was asked for is DynamicID's Expr (section 4.1).
    """
    shares = _average_crops(logits).double().softmax(-1)
    return dict(zip(CLASSES, shares.tolist(), strict=True))


def _average_crops(logits: Tensor) -> Tensor:
    if logits.ndim != 2 or logits.shape[1] != len(CLASSES) or not len(logits):
        raise ValueError(f"expected logits (crops, {len(CLASSES)}), got {tuple(logits.shape)}")
    return logits.mean(0)


def expression_change(one: Mapping[str, float], other: Mapping[str, float]) -> float:
    """Mean absolute difference of two faces' blendshapes, the neutral one left out; 0 to 1.

    Raises ValueError when they are not the same blendshapes.
    """
    names = one.keys() - {REST}
    if names != other.keys() - {REST} or not names:
        raise ValueError(
            f"expected the same blendshapes of both faces, got {len(one)} and {len(other)}; use "
            "one landmarker for both"
        )
    return sum(abs(one[name] - other[name]) for name in names) / len(names)


def score_expression(blendshapes: Mapping[str, float]) -> dict[str, float]:
    """Blendshapes -> probability of each of CLASSES, by the fixed table SCORER.

    It is called `expr_bs`, since its values cannot be compared with those of a trained classifier.
    Raises KeyError for a blendshape that the table reads and the face lacks.
    """
    raw = {
        kind: BIAS.get(kind, 0.0) + sum(w * _read(blendshapes, name) for name, w in table.items())
        for kind, table in SCORER.items()
    }
    largest = max(raw.values())
    raised = {kind: math.exp(value - largest) for kind, value in raw.items()}
    return {kind: value / sum(raised.values()) for kind, value in raised.items()}


def _read(blendshapes: Mapping[str, float], name: str) -> float:
    if not name.endswith("*"):
        return blendshapes[name]
    return (blendshapes[f"{name[:-1]}Left"] + blendshapes[f"{name[:-1]}Right"]) / 2


def class_difference(pairs: Sequence[tuple[int | str | None, int | str | None]]) -> float:
    """ExprDiv: the share of pairs whose classes differ. A pair with None is left out of it.

    NaN when no pair is whole. Report `histogram` beside it: one constant wrong class scores, too.
    """
    whole = [one != other for one, other in pairs if one is not None and other is not None]
    return sum(whole) / len(whole) if whole else float("nan")


def histogram(found: Sequence[str | None]) -> dict[str, int]:
    """How often each of CLASSES was found; what was not found counts as "none"."""
    counts = Counter("none" if one is None else one for one in found)
    unknown = counts.keys() - {*CLASSES, "none"}
    if unknown:
        raise ValueError(f"unknown expression {sorted(unknown)}; expected {', '.join(CLASSES)}")
    return {kind: counts[kind] for kind in (*CLASSES, "none")}
