"""From the command line's options to an evaluation, and from its study to files."""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

from ...model_patches.gates.cag import Knobs
from . import rows
from .adapter_files import adapter_digests, check_adapters, find_adapters
from .evaluation import Evaluation, Photo, duration
from .judges import TRAINING, open_judges
from .options import SPLITS, settings_of
from .people import reference
from .prompts import choose
from .report import Study, as_csv, table, to_json
from .store import Store, file_digests
from .studio import Studio

__all__ = ["Prepared", "announcement", "duration", "prepare", "table", "write"]

PROBE = 2
"""Steps of the trial that the estimate comes from."""


@dataclass
class Prepared:
    """An evaluation that has not begun, and the studio it uses."""

    evaluation: Evaluation
    studio: Studio

    def estimate(self) -> tuple[int, float]:
        """How many pictures are missing, and about how many seconds one takes here."""
        count = self.evaluation.to_paint()
        return count, self._seconds() if count else 0.0

    def _seconds(self) -> float:
        study, made = self.evaluation.study, self.studio.settings
        few = study.prompts[:4]
        short = Studio(self.studio.models, rows.settings(**{**rows.as_json(made), "steps": PROBE}))
        short.model, short.clip, short.vae = self.studio.model, self.studio.clip, self.studio.vae
        for _ in range(2):  # the first one loads
            started = time.perf_counter()
            short.paint(rows.ALONE, None, few, range(len(few)))
            seconds = (time.perf_counter() - started) / len(few)
        return seconds * made.steps / PROBE


def prepare(
    options: argparse.Namespace,
    photo: Photo | None = None,
    adapters: Mapping[str, Path] | None = None,
) -> Prepared:
    """Open what is needed. `photo` gives reference photos in place of the renderer's, `adapters`
    the files of rows in place of those in `options.ablation`.

    Raises ValueError for a row whose adapter is not there.
    """
    adapters = find_adapters(options.ablation) if adapters is None else adapters
    check_adapters(options.rows or (), adapters)
    made = settings_of(options)
    knobs = Knobs(**dict(options.knob))
    numbers = {f.name: getattr(knobs, f.name) for f in fields(knobs)}
    digests = file_digests(options.models) | adapter_digests(adapters)
    first = SPLITS[options.split]
    study = Study(
        tuple(dict.fromkeys(options.rows or rows.ROWS)),
        choose(options.prompts),
        tuple(range(first, first + options.people)),
        options.split,
        made,
        numbers,
        digests,
    )
    studio = Studio(options.models, made, knobs, adapters)
    evaluation = Evaluation(
        study,
        studio,
        open_judges(studio.analyser, options.models),
        Store(options.cache, digests, made, numbers),
        photo or partial(reference, side=made.side),
        lambda _: None,
    )
    return Prepared(evaluation, studio)


def announcement(prepared: Prepared, count: int, seconds: float) -> list[str]:
    """What is about to happen and how long it will take."""
    evaluation = prepared.evaluation
    study = evaluation.study
    whole = len(evaluation.rows) * len(study.people) * len(study.prompts)
    names = ", ".join(row.title for row in study.rows)
    lines = [
        f"{len(study.people)} {study.split} people x {len(study.prompts)} prompts, rows: {names}",
        f"{whole} pictures, {whole - count} of them painted before",
    ]
    if count:
        lines.append(
            f"about {seconds:.1f} s a picture here: {duration(count * seconds)}; fewer with "
            "--people N or --rows ROW ..."
        )
    if evaluation.judges[TRAINING].estimate is None:
        lines.append("no estimators in these models: only faces are measured, no edits")
    return lines


def write(study: Study, options: argparse.Namespace) -> None:
    """The files that were asked for."""
    if options.json:
        Path(options.json).write_text(to_json(study), encoding="utf-8")
    if options.csv:
        Path(options.csv).write_text(as_csv(study.figures), encoding="utf-8")
    if options.png:
        from .plot import plot

        plot(study, options.png)
