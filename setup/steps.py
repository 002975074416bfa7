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
    redo: tuple[str, ...] = ()
    """Earlier steps to do again when this one was cut short, because it spoils their work."""


def is_finished(steps: Sequence[Step], stamps: Path) -> bool:
    return all((stamps / step.name).exists() for step in steps)


def run_steps(steps: Sequence[Step], stamps: Path) -> None:
    """Do the steps that have no stamp yet, in order, each with a live line.

    A step that raises an error has failed and may be tried again as it is; one that was
    interrupted or killed leaves its mark, and what it spoils is redone.
    """
    stamps.mkdir(parents=True, exist_ok=True)
    for step in steps:
        if _begun_stamp(step, stamps).exists():
            for name in step.redo:
                (stamps / name).unlink(missing_ok=True)
    for number, step in enumerate(steps, 1):
        if not (stamps / step.name).exists():
            _run(step, stamps, f"[{number}/{len(steps)}] {step.title}")


def _begun_stamp(step: Step, stamps: Path) -> Path:
    return stamps / f"{step.name}.begun"


def _run(step: Step, stamps: Path, title: str) -> None:
    mark = _begun_stamp(step, stamps)
    mark.touch()
    try:
        with Live(title) as live:
            step.action(live)
    except Exception:
        mark.unlink()
        raise
    mark.replace(stamps / step.name)
