"""Pictures of people whom no recipe has seen, drawn for the evaluation of the face networks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .. import portraits
from .data import HELD_OUT, SIZE

PEOPLE, SHOTS, GROUPS = 300, 6, 300


@dataclass(frozen=True)
class Drawn:
    """One picture and the truth about it."""

    image: np.ndarray
    """(128, 128, 3) uint8 RGB."""
    seeds: tuple[int, ...]
    shots: tuple[portraits.Shot, ...]
    boxes: np.ndarray
    """(F, 4) pixels."""
    points: np.ndarray
    """(F, 5, 2) pixels."""

    @property
    def style(self) -> str:
        return self.shots[0].style


def draw_singles(first: int = HELD_OUT, people: int = PEOPLE) -> list[Drawn]:
    """SHOTS pictures of each person, half of them photos, next to each other."""
    other = [style for style in portraits.STYLES if style != "photo"]
    drawn = []
    for seed in range(first, first + people):
        rng = np.random.default_rng((3, seed))
        for number in range(SHOTS):
            style = "photo" if number % 2 == 0 else str(rng.choice(other))
            drawn.append(_draw(rng, [(seed, portraits.shot(rng, style=style))]))
    return drawn


def draw_groups(first: int = HELD_OUT, pictures: int = GROUPS) -> list[Drawn]:
    """Pictures of two people, every fifth of three; the styles are drawn evenly."""
    drawn = []
    for index in range(pictures):
        rng = np.random.default_rng((4, first, index))
        seeds = first + rng.choice(max(PEOPLE, 3), 3 if index % 5 == 0 else 2, replace=False)
        drawn.append(_draw(rng, [(int(seed), portraits.shot(rng)) for seed in seeds]))
    return drawn


def _draw(rng: np.random.Generator, members: list[tuple[int, portraits.Shot]]) -> Drawn:
    people = tuple((portraits.person(seed), shot) for seed, shot in members)
    picture = portraits.picture(rng, people)
    rendered = portraits.render(picture, SIZE)
    return Drawn(
        rendered.image,
        tuple(seed for seed, _ in members),
        tuple(shot for _, shot in picture.people),
        np.array([face.box for face in rendered.faces], np.float32).reshape(-1, 4),
        np.array([face.points for face in rendered.faces], np.float32).reshape(-1, 5, 2),
    )
