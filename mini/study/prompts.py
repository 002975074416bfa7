"""The prompts, and what each asks for. Standard library only: start.py reads them, too."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

AXES = ("yaw", "pitch", "tilt")
"""Degrees; to the picture's right and up are positive. A tilt is a roll to either side: nobody says
to which, and no caption that was trained on does."""


@dataclass(frozen=True)
class Prompt:
    """What a user types, and what a picture must show to obey it; None where nothing is asked."""

    id: str
    text: str
    expression: str | None = None
    yaw: float | None = None
    pitch: float | None = None
    tilt: float | None = None
    style: str | None = None

    @property
    def angles(self) -> dict[str, float]:
        """Axis -> degrees, of the axes that are asked for."""
        return {axis: getattr(self, axis) for axis in AXES if getattr(self, axis) is not None}

    @property
    def asked(self) -> tuple[str, ...]:
        """Of expression, pose and style, those that are asked for."""
        wanted = {"expression": self.expression, "pose": self.angles, "style": self.style}
        return tuple(name for name, value in wanted.items() if value)

    @property
    def file_name(self) -> str:
        """Changes with the text, so that a rewritten prompt is painted again."""
        return f"{self.id}-{hashlib.sha256(self.text.encode()).hexdigest()[:8]}"


def read_prompts(path: Path) -> tuple[Prompt, ...]:
    """The prompts of a file. Raises ValueError for unknown keys and for one that asks nothing."""
    known = {field.name for field in fields(Prompt)}
    prompts = []
    for entry in json.loads(path.read_text(encoding="utf-8")):
        if unknown := sorted(set(entry) - known):
            raise ValueError(
                f"{path.name}: {entry.get('id')} has {unknown}, expected {sorted(known)}"
            )
        prompts.append(Prompt(**entry))
        if not prompts[-1].asked:
            raise ValueError(f"{path.name}: {prompts[-1].id} asks for nothing; add what it asks.")
    return tuple(prompts)


@cache
def all_prompts() -> tuple[Prompt, ...]:
    return read_prompts(Path(__file__).with_name("prompts.json"))


def choose(ids: Iterable[str] | None) -> tuple[Prompt, ...]:
    """The prompts with these ids in the file's order, all without ids. Raises ValueError."""
    known = {prompt.id: prompt for prompt in all_prompts()}
    if unknown := sorted(set(ids or ()) - set(known)):
        raise ValueError(f"no prompt is called {', '.join(unknown)}; there are {', '.join(known)}")
    return tuple(prompt for prompt in known.values() if not ids or prompt.id in ids)
