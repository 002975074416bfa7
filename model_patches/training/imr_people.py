"""What DynamicID's reconfigurator trains on: people, each with several pictures of their face.

Two layouts are read: a folder of people (data_people.py), and the published one, whose folder has
`base_image_dataset` and, if wanted, `KDEF` in it, which both are folders of people. Words of a face
are its picture's .txt file; those of KDEF's pictures are told by their names, such as AF01HAHL.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .data_example import Example
from .data_people import FEWEST_OF_PERSON, read_people
from .data_problems import DataError

BASE, KDEF = "base_image_dataset", "KDEF"
"""Folders of the published layout."""
EXPRESSIONS = {
    "AF": "afraid", "AN": "angry", "DI": "disgusted", "HA": "happy", "NE": "neutral", "SA": "sad",
    "SU": "surprised",
}  # fmt: skip
VIEWS = {
    "FL": "fully turned to the left",
    "FR": "fully turned to the right",
    "HL": "slightly turned to the left",
    "HR": "slightly turned to the right",
    "S": "front view",
}
_NAME = re.compile(rf"[AB][FM]\d+({'|'.join(EXPRESSIONS)})({'|'.join(VIEWS)})", re.IGNORECASE)
"""Session, sex and number of the person, expression, view."""


@dataclass(frozen=True)
class Shot:
    """One picture of a person."""

    path: Path
    words: str | None
    """What the face does; None: it is to be estimated."""
    landmarks: Path | None
    """A picture of them; None: they are to be detected."""
    place: str
    """For messages: its path within the data's folder."""


@dataclass(frozen=True)
class Subject:
    """A person. Numbers are places in a list of shots."""

    name: str
    shots: tuple[int, ...]
    is_kdef: bool = False


@dataclass(frozen=True)
class People:
    """All people, and all their pictures."""

    subjects: tuple[Subject, ...]
    shots: tuple[Shot, ...]
    source: Path


@dataclass(frozen=True)
class Draws:
    """How people and pictures are drawn."""

    seed: int = 0
    batch: int = 1
    """People of a step, over all processes."""
    targets: int = 32
    """Pictures that each is to become, drawn with replacement as published; of KDEF all others."""
    kdef_share: float = 0.05
    """Chance of a person of KDEF, where there are others as well."""


@dataclass(frozen=True)
class Drawn:
    """A person of a step: from one picture to others."""

    subject: Subject
    source: int
    targets: tuple[int, ...]
    levels: tuple[float, ...]
    """Of each target: place among the base's noise levels, in [0, 1)."""
    seeds: tuple[int, ...]
    """Of each target's noise."""
    shift: int
    """Seed of how far landmarks are moved."""


def read_subjects(folder: Path) -> People:
    """Both layouts. Raises DataError, which lists all that is wrong."""
    if not folder.is_dir():
        raise DataError(f"{folder}: no folder. Name a folder with one folder for each person.")
    places = [(folder / name, name == KDEF) for name in (BASE, KDEF) if (folder / name).is_dir()]
    shots: list[Shot] = []
    subjects: list[Subject] = []
    for place, is_kdef in places or [(folder, False)]:
        groups: dict[str, list[int]] = {}
        for example in read_people(place):
            groups.setdefault(example.group or "", []).append(len(shots))
            shots.append(_make_shot(example, folder, is_kdef))
        subjects += [Subject(name, tuple(found), is_kdef) for name, found in groups.items()]
    return People(tuple(subjects), tuple(shots), folder)


def _make_shot(example: Example, folder: Path, is_kdef: bool) -> Shot:
    place = example.image.relative_to(folder).as_posix()
    words = example.caption or words_of_kdef(example.image.stem)
    if is_kdef and words is None:
        raise DataError(
            f"{folder}/{place}: no name of KDEF, such as AF01HAHL.JPG, and no .txt file. Write its "
            "words into one, or remove the picture."
        )
    return Shot(example.image, words, example.landmarks, place)


def words_of_kdef(stem: str) -> str | None:
    """What a picture of KDEF shows, as the authors of DynamicID say it; None for other names."""
    found = _NAME.fullmatch(stem)
    if found is None:
        return None
    expression, view = (part.upper() for part in found.groups())
    return f"the expression is {EXPRESSIONS[expression]}, the face is {VIEWS[view]}"


def keep_usable(people: People, usable: Iterable[int]) -> tuple[Subject, ...]:
    """The people of whom at least two of these shots show the face. Raises DataError for none."""
    known = set(usable)
    kept = [
        Subject(one.name, tuple(shot for shot in one.shots if shot in known), one.is_kdef)
        for one in people.subjects
    ]
    found = tuple(one for one in kept if len(one.shots) >= FEWEST_OF_PERSON)
    if not found:
        raise DataError(
            f"{people.source}: {len(known)} of {len(people.shots)} pictures show a face, and 0 of "
            f"{len(people.subjects)} people have at least {FEWEST_OF_PERSON} of them. Use pictures "
            "that show one face clearly."
        )
    return found


def draw_people(subjects: Sequence[Subject], draws: Draws, step: int) -> list[Drawn]:
    """The people of a step: the same whatever the number of processes, which then share them."""
    rng = np.random.default_rng((draws.seed, step))
    kdef = [one for one in subjects if one.is_kdef]
    others = [one for one in subjects if not one.is_kdef]
    return [
        _draw(rng, kdef if kdef and (not others or chance < draws.kdef_share) else others, draws)
        for chance in rng.random(draws.batch).tolist()
    ]


def _draw(rng: np.random.Generator, pool: Sequence[Subject], draws: Draws) -> Drawn:
    subject = pool[int(rng.integers(len(pool)))]
    source = subject.shots[int(rng.integers(len(subject.shots)))]
    if subject.is_kdef:
        targets = [one for one in subject.shots if one != source]
    else:
        targets = [subject.shots[n] for n in rng.integers(len(subject.shots), size=draws.targets)]
    count = len(targets)
    return Drawn(
        subject,
        source,
        tuple(targets),
        tuple(rng.random(count).tolist()),
        tuple(rng.integers(1 << 62, size=count).tolist()),
        int(rng.integers(1 << 62)),
    )
