"""What is seen in a painted picture: whose face, what expression, which way, in what style."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...model_patches.evaluate import measures
from ...model_patches.face.align import arcface_crop
from ...model_patches.face.analyser import FaceAnalyser
from ...model_patches.face.boxes import Detection, Detector
from ..estimators import Estimate, Estimator
from .prompts import AXES, Prompt

LEAST_TURN = 0.5
"""A pose counts as obeyed when at least this share of the angle is there, on the right side."""


@dataclass(frozen=True)
class Seen:
    """The largest face of a picture, and the picture's style; None where nothing can be told."""

    similarity: float = 0.0
    """Cosine of the recogniser's embeddings, picture against reference photo; 0 without a face."""
    box: tuple[float, float, float, float] | None = None
    """x0, y0, x1, y1 in pixels; None without a face."""
    expression: str | None = None
    angles: tuple[float, float, float] | None = None
    """Yaw, pitch, roll in degrees."""
    style: str | None = None

    @property
    def turned(self) -> dict[str, float]:
        """Axis of prompts.AXES -> degrees; only with a face whose angles are known."""
        yaw, pitch, roll = self.angles
        return dict(zip(AXES, (yaw, pitch, abs(roll)), strict=True))

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> Seen:
        tuples = {name: tuple(values[name]) for name in ("box", "angles") if values[name]}
        return cls(**values | tuples)


@dataclass(frozen=True)
class Judge:
    """Looks at pictures. Where `estimate` and `style` are None, nothing is told but who it is."""

    detector: Detector
    embed: Callable[[np.ndarray, Detection], Tensor]
    """(H, W, 3) uint8 and a face in it -> (D,), compared by cosine."""
    estimate: Callable[[np.ndarray, Detection], Estimate] | None = None
    style: Callable[[np.ndarray], str] | None = None

    def remember(self, photo: np.ndarray) -> Tensor:
        """(H, W, 3) uint8 -> what `look` compares with. Raises ValueError without a face."""
        face = largest(self.detector.find(photo))
        if face is None:
            raise ValueError(
                f"no face is found in the reference photo ({self.detector.tried}); take another one"
            )
        return self.embed(photo, face)

    def look(self, rgb: np.ndarray, wanted: Tensor | None) -> Seen:
        """rgb (H, W, 3) uint8; wanted: of `remember`, without it the similarity is 0."""
        style = self.style(rgb) if self.style else None
        face = largest(self.detector.find(rgb))
        if face is None:
            return Seen(style=style)
        alike = 0.0 if wanted is None else measures.cosine(self.embed(rgb, face), wanted)
        box = tuple(round(float(value), 2) for value in face.box)
        if not self.estimate:
            return Seen(alike, box, style=style)
        read = self.estimate(rgb, face)
        return Seen(alike, box, read.expression, (read.yaw, read.pitch, read.roll), style)


def training_judge(analyser: FaceAnalyser, estimator: Estimator | None) -> Judge:
    """The recogniser of the identity loss, and the estimators whose twin is the critic.

    Raises FileNotFoundError where the pack has no recogniser.
    """
    recogniser = analyser.recogniser
    if recogniser is None:
        raise FileNotFoundError(f"the pack has no recogniser: {analyser.description}")
    return Judge(
        analyser.detector,
        lambda rgb, face: recogniser.embed(arcface_crop(rgb, face.points)),
        estimator and (lambda rgb, face: estimator.faces(rgb, np.array([face.box]))[0]),
        estimator and estimator.style,
    )


def largest(found: Sequence[Detection]) -> Detection | None:
    """The face with the largest box; None without a face."""
    return max(found, key=lambda one: one.area, default=None)


def hits(prompt: Prompt, seen: Seen) -> dict[str, bool | None]:
    """Which wishes of a prompt a picture obeys: expression, pose, style and, all of them, edit.

    None where it is not asked for or cannot be told. Without a face no expression and no pose.
    """
    told = {
        "expression": _compare_label(prompt.expression, seen, seen.expression),
        "pose": _pose(prompt, seen),
        "style": _compare_label(prompt.style, seen, seen.style),
    }
    asked = [told[name] for name in prompt.asked]
    return told | {"edit": None if None in asked else all(asked)}


def _compare_label(wanted: str | None, seen: Seen, found: str | None) -> bool | None:
    if wanted is None or seen.style is None:
        return None
    [hit] = measures.hits([wanted], [found])
    return hit


def _pose(prompt: Prompt, seen: Seen) -> bool | None:
    if not prompt.angles or seen.style is None:
        return None
    if seen.angles is None:
        return False
    return all(seen.turned[axis] / asked >= LEAST_TURN for axis, asked in prompt.angles.items())


def pose_error(prompt: Prompt, seen: Seen) -> float | None:
    """Mean distance to the asked angles in degrees; None without a wish or without a face."""
    if not prompt.angles or seen.angles is None:
        return None
    asked = prompt.angles
    return measures.pose_error(list(asked.values()), [seen.turned[axis] for axis in asked])


def disruption(picture: np.ndarray, plain: np.ndarray, faces: Sequence[Seen]) -> float | None:
    """How much two (H, W, 3) uint8 pictures differ outside of the faces seen in them, in [0, 1].

    None when the faces leave nothing outside.
    """
    boxes = [seen.box for seen in faces if seen.box]
    tensors = [torch.from_numpy(one).float() / 255 for one in (picture, plain)]
    try:
        return measures.disruption(*tensors, boxes)
    except ValueError:
        return None
