"""What captions are about, as classes: the text encoders learn to tell it from the caption.

Made from the pictures' descriptions without drawing them; the captions are those of the data.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ...model_patches.files.atomic import replacing
from .. import portraits
from ..portraits import captions, persons, shots
from ..portraits.shots import Shot
from . import data

_PERSON = {
    "gender": persons.GENDERS,
    "age": persons.AGES,
    "hair_style": persons.HAIR_STYLES,
    "hair_colour": tuple(persons.HAIRS),
    "beard": persons.BEARDS,
    "glasses": persons.GLASSES,
    "mark": persons.MARKS,
}
_SHOT = {
    "expression": shots.EXPRESSIONS,
    "style": shots.STYLES,
    "scene": shots.SCENES,
    "light": shots.LIGHTS,
    "clothing": shots.CLOTHES,
    "colour": tuple(shots.COLOURS),
}
_TURNS: dict[str, tuple[Callable[[Shot], float], tuple[float, ...]]] = {
    "yaw": (lambda view: view.yaw, (-28, -captions.LARGE_YAW, captions.LARGE_YAW, 28)),
    "pitch": (lambda view: view.pitch, (-captions.LARGE_PITCH, captions.LARGE_PITCH)),
    "roll": (lambda view: abs(view.roll), (captions.LARGE_ROLL,)),
}
"""Angle of a view, and the degrees that part its classes."""
CLASSES = {name: len(choices) for name, choices in (_PERSON | _SHOT).items()} | {
    name: len(edges) + 1 for name, (_, edges) in _TURNS.items()
}
"""Attribute -> number of classes."""
PEOPLE = data.MOST_FACES
NOBODY = -1


def labels(picture: portraits.Picture) -> np.ndarray:
    """int8 (PEOPLE, attributes), people from left to right; NOBODY where there are fewer."""
    found = np.full((PEOPLE, len(CLASSES)), NOBODY, np.int8)
    for slot, (who, view) in enumerate(picture.people):
        named = [choices.index(getattr(who, name)) for name, choices in _PERSON.items()]
        named += [choices.index(getattr(view, name)) for name, choices in _SHOT.items()]
        named += [int(np.digitize(of(view), edges)) for of, edges in _TURNS.values()]
        found[slot] = named
    # A picture has one place, light and style: the first one's.
    for name in ("style", "scene", "light"):
        place = list(CLASSES).index(name)
        found[: len(picture.people), place] = found[0, place]
    return found


def all_labels(work: Path, people: int, groups: int) -> np.ndarray:
    """Of all singles, then all groups of the data: int8 (N, PEOPLE, attributes); cached."""
    cache = work / "data" / "labels.npy"
    if cache.exists():
        stored = np.load(cache)
        if len(stored) == people * data.SHOTS + groups:
            return stored
    drawn = [data.singles(0, people * data.SHOTS), data.groups(0, groups, people)]
    made = np.stack([labels(picture) for part in drawn for picture, _ in part])
    with replacing(cache) as temporary, temporary.open("wb") as file:
        np.save(file, made)
    return made
