"""What FlexIP trains on: stills that are their own reference, and photos of the same person.

The modality-aware gate of FlexIP (eq. 5) keeps more of a still than of a frame of a clip: γ is α
for a still and 1 - β for a frame. With a spread, γ is drawn around these, so that the slider's
ends and its middle are all seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .data import DataError, Example


@dataclass(frozen=True)
class Row:
    """One picture to draw. Numbers are places in the lists of pictures and captions."""

    picture: int
    references: tuple[int, ...]
    """Other photos of the same person; empty: a still, which is its own reference."""
    caption: int
    line: int
    """In the JSONL file; 0 in a folder of people."""

    @property
    def is_video(self) -> bool:
        """Whether the reference is another photo: the paper's video frames."""
        return bool(self.references)


@dataclass(frozen=True)
class Rows:
    """All rows, and the distinct pictures and captions that they name."""

    stills: tuple[Row, ...]
    frames: tuple[Row, ...]
    pictures: tuple[Path, ...]
    captions: tuple[str, ...]
    """The first is "", for dropped captions."""


@dataclass(frozen=True)
class Draws:
    """How rows are drawn."""

    seed: int = 0
    batch: int = 16
    """Rows of a step, over all processes."""
    video_share: float = 0.5
    """Part of them whose reference is another photo; the paper's 1:1."""
    alpha: float = 0.8
    beta: float = 0.8
    spread: float = 0.2
    dropout: float = 0.05
    """Chance that the caption is dropped, that the photo is, and that both are."""


@dataclass(frozen=True)
class Drawn:
    """One row of a step."""

    row: Row
    reference: int
    is_video: bool
    gamma: float
    """Weight of preservation; personalisation has 1 - gamma."""
    keeps_text: bool
    keeps_photo: bool
    level: float
    """Place among the base's noise levels, in [0, 1)."""
    noise: int
    """Seed of its noise."""


def collect_rows(examples: Sequence[Example], place: Path) -> Rows:
    """Rows of training data. Raises DataError for pictures without a caption."""
    missing = [example for example in examples if example.caption is None]
    if missing:
        raise DataError(
            f"{place}: {len(missing)} of {len(examples)} pictures have no caption, all need one; "
            f"first {missing[0].image.name}. Write a .txt file beside it, which says what the "
            "picture shows."
        )
    pictures: dict[Path, int] = {}
    captions: dict[str, int] = {"": 0}

    def number_of(path: Path) -> int:
        return pictures.setdefault(path, len(pictures))

    groups: dict[str, list[int]] = {}
    for example in examples:
        own = number_of(example.image)
        if example.group:
            groups.setdefault(example.group, []).append(own)
    rows = [
        Row(
            number_of(example.image),
            _references(example, number_of(example.image), groups, number_of),
            captions.setdefault(example.caption or "", len(captions)),
            example.line,
        )
        for example in examples
    ]
    stills = tuple(row for row in rows if not row.is_video)
    frames = tuple(row for row in rows if row.is_video)
    return Rows(stills, frames, tuple(pictures), tuple(captions))


def _references(example: Example, own: int, groups: dict, number_of) -> tuple[int, ...]:
    if example.references:
        return tuple(number_of(path) for path in example.references)
    others = groups.get(example.group or "", ())
    return tuple(sorted({one for one in others if one != own}))


def check_kinds(rows: Rows, draws: Draws) -> None:
    """Raise DataError when a kind that is to be drawn is not there.

    Frames can stand in for stills: each is then its own reference.
    """
    if draws.video_share > 0 and not rows.frames:
        raise DataError(
            f"{len(rows.stills)} rows are stills and 0 have another photo of the same person; the "
            "personalisation stream learns from the latter. Add references or groups, or train "
            "preservation alone with --video-share 0."
        )


def draw_rows(rows: Rows, draws: Draws, step: int) -> list[Drawn]:
    """The rows of a step: the same whatever the number of processes, which then share them."""
    rng = np.random.default_rng((draws.seed, step))
    frames = _spread_frames(draws)
    stills = rows.stills or rows.frames
    return [_draw(rng, rows.frames if video else stills, video, draws) for video in frames]


def _spread_frames(draws: Draws) -> list[bool]:
    """Which rows of a batch are frames: evenly, so that every process gets both kinds."""
    counts = [int(draws.video_share * number) for number in range(draws.batch + 1)]
    return [later > earlier for earlier, later in zip(counts, counts[1:], strict=False)]


def _draw(rng: np.random.Generator, pool: Sequence[Row], video: bool, draws: Draws) -> Drawn:
    row = pool[int(rng.integers(len(pool)))]
    pick, dropped, jitter, level = rng.random(4)
    reference = row.references[int(pick * len(row.references))] if video else row.picture
    chance = draws.dropout
    return Drawn(
        row,
        reference,
        video,
        draw_gamma(video, jitter, draws),
        keeps_text=not (dropped < chance or 2 * chance <= dropped < 3 * chance),
        keeps_photo=not chance <= dropped < 3 * chance,
        level=float(level),
        noise=int(rng.integers(1 << 62)),
    )


def draw_gamma(video: bool, chance: float, draws: Draws) -> float:
    """γ for a chance in [0, 1): uniform within the spread around α or 1 - β, kept in [0, 1]."""
    middle = 1 - draws.beta if video else draws.alpha
    low, high = max(0.0, middle - draws.spread), min(1.0, middle + draws.spread)
    return low + chance * (high - low)
