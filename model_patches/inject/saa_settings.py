"""How the people of one picture share it: the settings of semantic-activated attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..gates.numbers import check_number

STRONGEST_BETA = 20.0

Mode = Literal["corrected", "published"]
MODES: tuple[Mode, ...] = ("corrected", "published")
"""corrected: masks of any shape, whose overlaps are shared. published: as the authors' code."""
Unplaced = Literal["activation", "strips"]
UNPLACED: tuple[Unplaced, ...] = ("activation", "strips")
"""Where people are when nobody has a region: where their activation is, or in equal strips."""


@dataclass(frozen=True)
class SaaSettings:
    """How people share a picture. Raises ValueError for a number or word out of range."""

    mode: Mode = "corrected"
    activation: bool = True
    """False: every image token attends fully, as in plain cross-attention."""
    threshold: float = 0.3
    """An activation below it counts as none."""
    beta: float = 2.0
    """How much regions raise the activation inside and lower it outside."""
    alpha: float = 0.24
    """Share of the run's steps, from the first one, in which beta works."""
    unplaced: Unplaced = "activation"
    mix: float = 0.5
    """Published mode, one box for several people: factor of its person's scores."""

    def __post_init__(self) -> None:
        for name, value, known in (
            ("mode", self.mode, MODES),
            ("way without regions", self.unplaced, UNPLACED),
        ):
            if value not in known:
                raise ValueError(f"Unknown {name} {value!r}; choose {' or '.join(known)}.")
        check_number("The threshold", self.threshold, 0.0, 1.0)
        check_number("Beta", self.beta, 0.0, STRONGEST_BETA)
        check_number("Alpha", self.alpha, 0.0, 1.0)
        check_number("The mix", self.mix, 0.0, 1.0)
