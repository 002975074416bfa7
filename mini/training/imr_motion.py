"""What the faces of the training pictures do: pictures of five landmarks, and words.

Landmarks are as inexact as a detector's, and angles are taken from them, as in the pack. What a
user says is half an order and half a description: the words of the lists by the rule of the pack,
or what captions call a mood and a turn of the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from torch import Tensor

from ...model_patches.face.angles import head_angles
from ...model_patches.face.landmark_image import in_frame, landmark_image
from ...model_patches.face.landmark_pose import FURTHEST, Angles, Sliders, move_landmarks
from ...model_patches.identity.motion_words import write_words
from ..imr_layout import expression_in_pack
from ..portraits.captions import LARGE_PITCH, LARGE_YAW, MOODS, PHRASES
from ..portraits.shots import EXPRESSIONS
from .captions import Captions
from .data import SIZE, Portraits
from .identity_inputs import jitter_points

FREE = 0.4
"""Share of targets that are described in free words."""
DRIVEN = 0.4
"""Share of targets with the landmarks of their own picture, as after a driving photo. The others
have those of the source, turned: what the pack makes of words."""
ZOOM, SHIFT = 0.12, 4.0
"""Standard deviations by which landmarks are reframed: of the scale, and in pixels."""
TURNS = {
    "": "",
    "left": "looking to the left",
    "right": "turned to the right",
    "up": "looking up",
    "down": "looking down",
}


@dataclass(frozen=True, eq=False)
class Motions:
    """Of B faces."""

    pictures: Tensor
    """(B, 96, 96) uint8."""
    words: Tensor
    """(B, text)."""


@dataclass(frozen=True, eq=False)
class Seen:
    """Landmarks of one face (5, 2), in pixels of its picture, and angles that they tell."""

    points: np.ndarray
    angles: Angles


class Words:
    """Pooled states of all texts that say a motion, by the small CLIP-L."""

    def __init__(self, captions: Captions) -> None:
        texts = list(dict.fromkeys((*_rule_texts(), *_free_texts())))
        self.rows = {text: number for number, text in enumerate(texts)}
        self.states = captions.encode(texts)[1]

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """(B, text)."""
        return self.states[[self.rows[text] for text in texts]]


class MotionReader:
    """Motions of a set's pictures, drawn anew each time."""

    def __init__(self, data: Portraits, words: Words) -> None:
        self.data, self.words = data, words

    def pairs(
        self, rng: np.random.Generator, source: np.ndarray, target: np.ndarray
    ) -> tuple[Motions, Motions]:
        """Picture numbers (B,) each; what a source does, and what its target is to do."""
        seen = [self.see(rng, row) for row in source]
        driven = rng.random(len(target)) < DRIVEN
        aimed = [
            self.see(rng, row).points if own else self.turn(one, row)
            for one, row, own in zip(seen, target, driven, strict=True)
        ]
        said = [
            write_words(name_of(self.data, row), one.angles)
            for one, row in zip(seen, source, strict=True)
        ]
        asked = [self.ask(rng, row) for row in target]
        return (
            self._join([one.points for one in seen], said),
            self._join(aimed, asked),
        )

    def see(self, rng: np.random.Generator, row: int) -> Seen:
        """A face as a detector finds it, framed a little otherwise."""
        points = jitter_points(np.asarray(self.data.points[row], np.float64), rng)
        angles = head_angles(points)
        middle = points.mean(0)
        shifted = middle + rng.normal(0, SHIFT, 2)
        return Seen(shifted + (points - middle) * np.exp(rng.normal(0, ZOOM)), angles)

    def turn(self, seen: Seen, row: int) -> np.ndarray:
        """The landmarks of a source, turned as the face of this picture is."""
        if max(map(abs, seen.angles[:2])) > FURTHEST:
            return seen.points
        return move_landmarks(seen.points, seen.angles, angles_of(self.data, row), Sliders())

    def ask(self, rng: np.random.Generator, row: int) -> str:
        """What a user says of this picture's face."""
        angles = angles_of(self.data, row)
        if rng.random() >= FREE:
            return write_words(name_of(self.data, row), angles)
        mood = EXPRESSIONS[self.data.expression[row]]
        return str(rng.choice(_describe(mood, turn_of(angles))))

    def _join(self, points: Sequence[np.ndarray], texts: Sequence[str]) -> Motions:
        drawn = [landmark_image(in_frame(torch.from_numpy(one), SIZE, SIZE)) for one in points]
        return Motions(torch.stack(drawn), self.words(texts))


def angles_of(data: Portraits, row: int) -> Angles:
    yaw, pitch, roll = (float(value) for value in data.angles[row])
    return yaw, pitch, roll


def name_of(data: Portraits, row: int) -> str:
    """The expression of a picture, as the pack calls it."""
    return expression_in_pack(EXPRESSIONS[data.expression[row]])


def turn_of(angles: Angles) -> str:
    """The larger of yaw and pitch as a key of TURNS; nothing for small ones."""
    yaw, pitch, _ = angles
    across, along = abs(yaw) / LARGE_YAW, abs(pitch) / LARGE_PITCH
    if max(across, along) < 1:
        return ""
    if across >= along:
        return "right" if yaw > 0 else "left"
    return "up" if pitch > 0 else "down"


def _describe(mood: str, turn: str) -> list[str]:
    """All ways to say them in the words of captions."""
    moods = [f"{word} person" for word in MOODS.get(mood, ())]
    moods += [f"person {phrase}" for phrase in PHRASES[mood]]
    return [f"{text} {TURNS[turn]}".rstrip() for text in moods]


def _free_texts() -> list[str]:
    return [text for mood, turn in product(EXPRESSIONS, TURNS) for text in _describe(mood, turn)]


def _rule_texts() -> list[str]:
    names = map(expression_in_pack, EXPRESSIONS)
    views = product((0.0, 30.0), (0.0, 20.0, -20.0))
    return [write_words(name, (*view, 0.0)) for name, view in product(names, views)]
