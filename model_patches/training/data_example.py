"""One picture of a user's training data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Example:
    """One picture to train on. Paths exist and are images."""

    image: Path
    caption: str | None
    """None only in a folder of people, for a picture without a .txt file."""
    references: tuple[Path, ...]
    """Other photos of the same person; empty: those of the group, or the image itself."""
    group: str | None
    """The clip or sitting; in a folder of people the person."""
    box: tuple[float, float, float, float] | None
    points: tuple[tuple[float, float], ...] | None
    line: int
    """In the JSONL file; 0 in a folder of people."""
    mask: Path | None = None
    landmarks: Path | None = None
    """A picture of the face's 106 landmarks, as DynamicID's data have it."""
