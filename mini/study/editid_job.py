"""`start.py evaluate --suite editid`: paints the line and what may leave it, and writes four
files."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path

from ...model_patches.adapters.merge import merge_into
from ...model_patches.adapters.merge_plan import Settings, plan_merge
from .. import world
from .adapter_files import check_adapters, describe_adapters, find_adapters
from .editid_join import check_run, join, read_earlier
from .editid_plot import plot
from .editid_suite import MERGES, Gains, Merge, choose_rows, line, measure, to_json
from .editid_table import as_markdown
from .evaluation import Note
from .report import as_run
from .rows import Row, editid_row, guided_row, rigid_row
from .suite import Say, Words, announce, prepare_rows, run_study, write_figures, write_sheet

PROMPTS = ("laughing", "left")
"""Of the figures, unless others are asked for: an expression and a pose."""
SHEET_PROMPTS = ("laughing", "left", "oil")
SHOWN = (rigid_row(0.75), editid_row("balanced"), guided_row(0.3))
"""Columns of the sheet, before the rows that gained most."""
SHEET = Words(
    "Off the line, or only beside it",
    "A constant weight, EditID's preset, ID guidance, and the ways that gained most edits at equal "
    "FaceSim and most FaceSim at equal edits.",
    "The same noise in a line. Cosine and ticks by the independent judge.",
)
MERGED = "merged"
"""Folder of the merges, in the cache."""


def run(options: argparse.Namespace, note: Note, say: Say) -> str:
    """The whole suite; a text for the console. Raises ValueError for adapters that are missing, and
    for an earlier run that this one cannot be joined to."""
    adapters = find_all(options)
    rows = choose_rows(options.rows, adapters)
    check_adapters(rows, adapters)
    earlier = read_earlier(options.join) if options.join else None
    prompts = options.prompts or PROMPTS
    prepared = prepare_rows(options, [*line().rows, *rows], adapters, prompts=prompts)
    if earlier:
        check_run(earlier, as_run(prepared.evaluation.study))
    announce(prepared, say)
    study = run_study(prepared, note)
    gains = measure(study, rows)
    used = {row.adapter for row in rows if row.anchor == "adapter"}
    told = describe_adapters({name: adapters[name] for name in sorted(used)})
    document, folder = to_json(study, gains, told), Path(options.out)
    if earlier:
        document = join(earlier, document)
    write_figures(folder, "editid", document)
    plot(document, folder / "editid.png")
    shown = list(dict.fromkeys((*SHOWN, *find_best(rows, gains))))
    sheet = prepare_rows(options, shown, adapters, prompts=SHEET_PROMPTS)
    write_sheet(sheet, [row.title for row in shown], SHEET, note, folder / "editid_sheet.png")
    return f"{as_markdown(document)}\nwrote four files to {folder}"


def find_all(options: argparse.Namespace) -> dict[str, Path]:
    """Name -> file: the adapters of `options.ablation`, and their merges."""
    adapters = find_adapters(options.ablation)
    return adapters | merge_all(options.models / world.PULID, adapters, options.cache / MERGED)


def merge_all(own: Path, adapters: Mapping[str, Path], folder: Path) -> dict[str, Path]:
    """Name of MERGES -> its file, of those whose adapters are there. own: the small world's
    adapter. Raises as `merge_into`."""
    folder.mkdir(parents=True, exist_ok=True)
    return {
        name: merge_files(merge, own, [adapters[one] for one in merge.adapters], folder)
        for name, merge in MERGES.items()
        if set(merge.adapters) <= adapters.keys()
    }


def merge_files(merge: Merge, own: Path, trained: Sequence[Path], folder: Path) -> Path:
    """The merge's file, found or written in a folder."""
    based = merge.method == "task_arithmetic"
    files, settings = [*([] if based else [own]), *trained], Settings(merge.method, merge.weights)
    return merge_into(plan_merge(files, settings, own if based else None), folder).path


def find_best(rows: Sequence[Row], gains: Gains) -> list[Row]:
    """By the independent judge: the row that gained most edits, and the one that gained most
    FaceSim."""

    def gained(row: Row, name: str) -> float:
        found = getattr(gains[row.key][""], name)
        return float("-inf") if found is None else found.mean

    return [max(rows, key=lambda row: gained(row, name)) for name in ("edits", "similarity")]
