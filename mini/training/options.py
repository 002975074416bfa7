"""What the command line can change about a run; recipes read it, and shortened runs are tests."""

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


def models(work: Path) -> Path:
    """Folder of the finished files, laid out like ComfyUI's models folder."""
    return work / "models"


def curves(work: Path) -> Path:
    """Folder of checkpoints and loss curves."""
    return work / "runs"
