"""What an identity adapter trains on: a picture to draw, and another photo of the same person.

That the reference is another photo ("data lubrication", EditIDv2, arXiv 2509.05659) is what moves
an adapter away from copying pose and expression.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .data import Example
from .data_problems import Problems

Box = tuple[float, float, float, float]
Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Photo:
    """A picture, and which face in it is meant; without box and mask the largest."""

    path: Path
    box: Box | None = None
    points: Points | None = None
    """Of the face, in place of the detector's."""
    mask: Path | None = None


@dataclass(frozen=True)
class Row:
    """One picture to draw. Numbers are places in the lists of photos and captions."""

    photo: int
    references: tuple[int, ...]
    """Other photos of the same person; of a row that is its own reference its photo alone."""
    caption: int
    line: int
    """In the file; 0 in a folder of people."""
    place: int | str
    """For messages: the line, or the picture's path within the folder."""


@dataclass(frozen=True)
class Rows:
    """All rows, and the distinct photos and captions that they name."""

    rows: tuple[Row, ...]
    photos: tuple[Photo, ...]
    captions: tuple[str, ...]
    """The first is "", for dropped captions."""
    source: Path
    """The file or folder, for messages."""


@dataclass(frozen=True)
class Draws:
    """How rows are drawn."""

    seed: int = 0
    batch: int = 2
    """Rows of a step, over all processes."""
    dropout: float = 0.05
    """Chance that the caption is dropped, that the identity is, and that both are."""


@dataclass(frozen=True)
class Drawn:
    """One row of a step."""

    row: Row
    reference: int
    keeps_text: bool
    keeps_photo: bool
    level: float
    """Chance in (0, 1) that the sigma is made of."""
    noise: int
    """Seed of its noise."""


def collect_rows(
    examples: Sequence[Example], source: Path, other: bool = True, alone: bool = False
) -> Rows:
    """Rows of training data. other: the reference is another photo; else the picture itself.
    alone: a picture without another photo of the person is its own reference.

    Raises DataError, which lists pictures without a caption and those without another photo.
    """
    problems = Problems(source)
    photos: dict[Photo, int] = {}
    captions: dict[str, int] = {"": 0}
    own = [photos.setdefault(_photo(one), len(photos)) for one in examples]
    known, groups = _by_path(examples, own), _by_group(examples, own)
    rows = []
    for example, mine in zip(examples, own, strict=True):
        place = example.line or f"{example.group}/{example.image.name}"
        if example.caption is None:
            problems.add(
                place, "no caption. Write a .txt file beside it, which says what the picture shows."
            )
        if example.image in example.references:
            problems.add(place, "references names the picture itself. Name another photo.")
        found = (mine,)
        if other:
            found = _references(example, mine, known, groups, photos)
        if not found and alone:
            found = (mine,)
        if not found:
            problems.add(
                place,
                "the picture has 0 other photos of the same person, at least 1 is needed. Name "
                "references or a group, or train with --reference target.",
            )
        caption = captions.setdefault(example.caption or "", len(captions))
        rows.append(Row(mine, found, caption, example.line, place))
    problems.raise_if_any()
    return Rows(tuple(rows), tuple(photos), tuple(captions), source)


def _photo(example: Example) -> Photo:
    return Photo(example.image, example.box, example.points, example.mask)


def _by_path(examples: Sequence[Example], own: Sequence[int]) -> dict[Path, int]:
    """Pictures that one row describes: as a reference of others they show the same face."""
    found: dict[Path, set[int]] = {}
    for example, number in zip(examples, own, strict=True):
        found.setdefault(example.image, set()).add(number)
    return {path: numbers.pop() for path, numbers in found.items() if len(numbers) == 1}


def _by_group(examples: Sequence[Example], own: Sequence[int]) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for example, number in zip(examples, own, strict=True):
        if example.group:
            groups.setdefault(example.group, []).append(number)
    return groups


def _references(
    example: Example,
    own: int,
    known: dict[Path, int],
    groups: dict[str, list[int]],
    photos: dict[Photo, int],
) -> tuple[int, ...]:
    if example.references:
        return tuple(
            known[path] if path in known else photos.setdefault(Photo(path), len(photos))
            for path in dict.fromkeys(example.references)
        )
    return tuple(sorted({one for one in groups.get(example.group or "", ()) if one != own}))


def draw_rows(rows: Sequence[Row], draws: Draws, step: int) -> list[Drawn]:
    """The rows of a step: the same whatever the number of processes, which then share them."""
    rng = np.random.default_rng((draws.seed, step))
    return [_draw(rng, rows, draws.dropout) for _ in range(draws.batch)]


def _draw(rng: np.random.Generator, rows: Sequence[Row], chance: float) -> Drawn:
    row = rows[int(rng.integers(len(rows)))]
    pick, dropped, level = rng.random(3)
    return Drawn(
        row,
        row.references[int(pick * len(row.references))],
        keeps_text=not (dropped < chance or 2 * chance <= dropped < 3 * chance),
        keeps_photo=not chance <= dropped < 3 * chance,
        level=max(float(level), sys.float_info.min),
        noise=int(rng.integers(1 << 62)),
    )
