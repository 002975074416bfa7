"""Draws the pictures that the independent judges learn from: people whom no other recipe sees."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from .. import portraits
from .data import Drawn, Portraits, draw_portraits
from .options import Options

NAME = "judges"
FIRST, PEOPLE, SHOTS = 500_000, 1_400, 3
"""Seed of the first person, how many people, and pictures of each: half of all are photos."""
SEED = 101


def build(work: Path, device: object, options: Options) -> None:
    """Draw what is missing; as data.build, and with its errors."""
    people = PEOPLE if options.people is None else options.people
    seeds = range(FIRST, FIRST + people)
    draw_portraits(work, NAME, seeds, SHOTS, shots, options.processes)


def shots(start: int, end: int) -> Iterator[Drawn]:
    """The pictures from number `start` on."""
    others = [style for style in portraits.STYLES if style != "photo"]
    for number in range(start, end):
        rng = np.random.default_rng((SEED, number))
        style = str(rng.choice(others)) if number % 2 else "photo"
        person = portraits.person(FIRST + number // SHOTS)
        picture = portraits.picture(rng, ((person, portraits.shot(rng, style=style)),))
        yield picture, portraits.caption(rng, picture)


def open_pictures(work: Path) -> Portraits:
    """Raises FileNotFoundError before they are drawn."""
    try:
        return Portraits(work, NAME)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"{error} Here: --only judge_data.") from error
