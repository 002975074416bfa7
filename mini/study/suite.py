"""What the evaluations that choose their rows have in common: `start.py evaluate --suite NAME`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from PIL import Image

from .evaluation import Evaluation, Note, duration
from .job import Prepared, prepare
from .judge import hits
from .judges import INDEPENDENT
from .people import DEMO, reference
from .report import Study, as_csv, figures_of
from .rows import Row
from .sheet import Cell, Line, compose
from .sheet_job import wish

INK, FAINT, PAPER, GRID = "#22252b", "#9aa0aa", "#fbfaf7", "#e4e1da"

Say = Callable[[str], None]


def prepare_rows(
    options: argparse.Namespace,
    rows: Sequence[Row],
    adapters: Mapping[str, Path] | None = None,
    **changed: object,
) -> Prepared:
    """An evaluation of these rows. changed: what takes the place of other options."""
    given = {**vars(options), "rows": list(rows), **changed}
    return prepare(argparse.Namespace(**given), adapters=adapters)


def announce(prepared: Prepared, say: Say) -> None:
    """Say how many pictures are missing and how long they will take."""
    count, seconds = prepared.estimate()
    study = prepared.evaluation.study
    say(
        f"{len(study.people)} {study.split} people x {len(study.prompts)} prompts x "
        f"{len(study.rows)} rows: {count} pictures are missing, about {duration(count * seconds)}"
    )


def run_study(prepared: Prepared, note: Note) -> Study:
    """Paint and measure."""
    prepared.evaluation.note = note
    return prepared.evaluation.run()


def write_figures(folder: Path, name: str, document: Mapping[str, Any]) -> None:
    """NAME.json and NAME.csv, of a document by report.as_document."""
    folder.mkdir(exist_ok=True)
    text = json.dumps(document, indent=1, ensure_ascii=False)
    (folder / f"{name}.json").write_text(text + "\n", encoding="utf-8")
    (folder / f"{name}.csv").write_text(as_csv(figures_of(document)), encoding="utf-8")


def clear_panel(panel: Any, across: str, up: str) -> None:
    """The look that the plots of suites share, and the names of both axes."""
    panel.set_xlabel(across, color=INK, fontsize=9)
    panel.set_ylabel(up, color=INK, fontsize=9)
    panel.tick_params(colors=INK, labelsize=8, color=FAINT)
    panel.grid(color=GRID, lw=0.7)
    panel.set_facecolor(PAPER)
    for side in ("top", "right"):
        panel.spines[side].set_visible(False)


@dataclass(frozen=True)
class Words:
    """The texts of a sheet."""

    title: str
    subtitle: str
    foot: str


def write_sheet(
    prepared: Prepared, columns: Sequence[str], words: Words, note: Note, path: Path
) -> None:
    """One held-out person by the prompts of an evaluation, a column for each of its rows."""
    evaluation = prepared.evaluation
    evaluation.study = replace(evaluation.study, people=(DEMO,))
    run_study(prepared, note)
    face = Image.fromarray(reference(DEMO, evaluation.study.settings.side))
    lines = _lines(evaluation)
    compose(words.title, words.subtitle, columns, lines, face, words.foot).save(path)


def _lines(evaluation: Evaluation) -> list[Line]:
    lines, store = [], evaluation.store
    for prompt in evaluation.study.prompts:
        cells = []
        for row in evaluation.study.rows:
            seen = store.load_seen(row, DEMO, INDEPENDENT)[prompt.file_name]
            picture = Image.fromarray(store.load(row, DEMO, prompt))
            told = {name: hit for name, hit in hits(prompt, seen).items() if name != "edit"}
            cells.append(Cell(picture, seen.similarity, told))
        lines.append(Line(prompt.text, wish(prompt), cells))
    return lines
