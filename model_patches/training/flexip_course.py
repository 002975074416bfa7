"""What every FlexIP training has, whatever its base: its course, its files and its sheets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import torch

from ..adapters.flexip_settings import FlexIPSettings
from . import distributed, held_out
from .flexip_flux import FluxStreams
from .flexip_recipe import export, learn_gates, notes_of
from .flexip_rows import Draws, Row, Rows
from .flexip_sheet import Studio, write_sheet
from .flexip_streams import FlexIPStreams
from .loop import Loss, Recipe, train
from .milestones import every, say

Made = TypeVar("Made", FlexIPStreams, FluxStreams)


@dataclass(frozen=True)
class Course:
    """The options of `start.py train flexip` for both kinds of base; setup/train_flexip.py has
    their defaults."""

    data: Path
    base: Path
    out: Path
    work: Path
    steps: int
    batch: int
    part: int
    rate: float
    warmup: int
    muon: bool
    average: float
    size: int
    alpha: float
    beta: float
    spread: float
    learn_gates: bool
    video_share: float
    dropout: float
    dim: int
    depth: int
    latents: int
    export_every: int
    sheet_rows: int
    seed: int

    @property
    def draws(self) -> Draws:
        return Draws(
            self.seed, self.batch, self.video_share, self.alpha, self.beta, self.spread,
            self.dropout,
        )  # fmt: skip

    @property
    def recipe(self) -> Recipe:
        return Recipe(
            "flexip",
            steps=self.steps,
            rate=self.rate,
            warmup=self.warmup,
            average=self.average,
            seed=self.seed,
            muon=self.muon,
        )


def hold_out(rows: Rows, count: int) -> tuple[tuple[Row, ...], Rows]:
    """Rows for the sheets, and the others. Few rows: at most one in ten is kept."""
    shown, _ = held_out.hold_out([*rows.frames, *rows.stills], count)
    stills, frames = (
        tuple(row for row in kind if row not in shown) for kind in (rows.stills, rows.frames)
    )
    return shown, replace(rows, stills=stills, frames=frames)


def begin(course: Course, make: Callable[[], Made]) -> Made:
    """What is trained, from the course's seed."""
    torch.manual_seed(course.seed)
    streams = make()
    if course.learn_gates:
        learn_gates(streams, course.draws)
    return streams


def train_and_write(
    course: Course,
    streams: FlexIPStreams | FluxStreams,
    loss: Loss,
    device: torch.device,
    stated: Callable[[Mapping[str, str]], FlexIPSettings],
    studio: Studio,
    **notes: str,
) -> None:
    """Train from the checkpoint in the work folder, if there is one, and write the averaged weights
    and sheets on the way. Raises as `loop.train`.

    stated: notes -> what the file states; notes: more of them.
    """

    def write(step: int) -> None:
        noted = notes_of(streams, course.draws, step, data=course.data.name, **notes)
        export(course.out, streams, stated(noted))
        say(f"step {step}: {course.out}")
        if studio.rows:
            sheet = course.work / "sheets" / f"{step:07}.png"
            write_sheet(studio, course.out, sheet)
            say(f"step {step}: {sheet}")

    recipe, each = course.recipe, every(course.export_every, write)
    train(recipe, streams, loss, course.work, device, each)
    distributed.by_first(lambda: write(recipe.steps))
