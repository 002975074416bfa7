"""What is seen in a painted picture: whose face, what expression, which way, in what style."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...model_patches.evaluate import measures
from ...model_patches.face.align import arcface_crop
from ...model_patches.face.analyser import FaceAnalyser
from ...model_patches.face.boxes import Detection
from .. import world
from ..estimators import Estimator, load_estimator
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


class Judge:
    """Looks at pictures with the face pack and, where their file is there, the estimators."""

    def __init__(self, analyser: FaceAnalyser, estimator: Estimator | None) -> None:
        self.analyser, self.estimator = analyser, estimator

    def look(self, rgb: np.ndarray, embedding: torch.Tensor | None) -> Seen:
        """rgb (H, W, 3) uint8, embedding (512,) of the reference photo: without, similarity 0."""
        style = self.estimator.style(rgb) if self.estimator else None
        face = largest(self.analyser.detector.find(rgb))
        if face is None:
            return Seen(style=style)
        similarity = 0.0
        if embedding is not None:
            mine = self.analyser.recogniser.embed(arcface_crop(rgb, face.points))
            similarity = measures.cosine(mine, embedding)
        box = tuple(round(float(value), 2) for value in face.box)
        if not self.estimator:
            return Seen(similarity, box)
        (estimate,) = self.estimator.faces(rgb, np.array([face.box]))
        angles = (estimate.yaw, estimate.pitch, estimate.roll)
        return Seen(similarity, box, estimate.expression, angles, style)


def open_judge(analyser: FaceAnalyser, models: Path) -> Judge:
    path = models / world.ESTIMATORS
    return Judge(analyser, load_estimator(path) if path.is_file() else None)


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
        "style": seen.style and seen.style == prompt.style if prompt.style else None,
    }
    asked = [told[name] for name in prompt.asked]
    return told | {"edit": None if None in asked else all(asked)}


def _compare_label(wanted: str | None, seen: Seen, found: str | None) -> bool | None:
    if wanted is None or seen.style is None:
        return None
    return found == wanted


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
