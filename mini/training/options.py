"""Options of a run, as recipes read them; tests use them to shorten runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Options:
    """`None` leaves a recipe as it is written."""

    steps: int | None = None
    """Training steps of every model that is trained."""
    batch: int | None = None
    """Examples per step, likewise."""
    people: int | None = None
    """Number of people drawn for the pictures of one person (data)."""
    groups: int | None = None
    """Number of pictures of two or three people (data)."""
    processes: int | None = None
    """How many processes draw pictures; without it one per core (data)."""
    compile: bool = False
    """Compile the blocks of FLUX: faster, but needs a C++ compiler (base, adapter, sip)."""
    likeness: float | None = None
    """Weight of the identity loss; 0 leaves it out (adapter)."""
    likeness_pictures: int | None = None
    """How many pictures of a step it judges (adapter)."""
    likeness_start: float | None = None
    """Share of the run after which it begins (adapter)."""


def models(work: Path) -> Path:
    """Folder of the finished files, laid out like ComfyUI's models folder."""
    return work / "models"


def curves(work: Path) -> Path:
    """Folder of checkpoints and loss curves."""
    return work / "runs"
