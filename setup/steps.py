"""Resumable set-up: each finished step leaves a stamp, an interrupted one is done again."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from .console import Live


class Step(NamedTuple):
    """One piece of set-up. The action must cope with what its own interruption left behind."""

    name: str
    title: str
    action: Callable[[Live], None]


def finished(steps: Sequence[Step], stamps: Path) -> bool:
    return all((stamps / step.name).exists() for step in steps)


def run_steps(steps: Sequence[Step], stamps: Path) -> None:
    """Do the steps that have no stamp yet, in order, each with a live line."""
    stamps.mkdir(parents=True, exist_ok=True)
    for number, step in enumerate(steps, 1):
        stamp = stamps / step.name
        if stamp.exists():
            continue
        with Live(f"[{number}/{len(steps)}] {step.title}") as live:
            step.action(live)
        stamp.touch()
