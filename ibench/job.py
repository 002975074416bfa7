"""From the command line's options to painted, measured and reported pictures."""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from ..model_patches.identity.compare_faces import POSE
from ..model_patches.training import distributed
from .anchors import read_anchors
from .data import read_data
from .graphs import Place, is_link
from .judges import Judges, open_judges, warn_of_kinship
from .measure import SEEDS, Meter
from .painter import Painter
from .plot import draw_plot
from .records import Data, DataError
from .report import write_page
from .rows import GIVEN, ROWS, Row
from .sets import say_few
from .store import Store, digest_file, write_text
from .table import Result, write_csv, write_json
from .work import Brush, Choices, Job, Note, open_brushes, paint_jobs, plan_jobs, share_jobs

TOLD = ("steps", "cfg", "guidance", "sampler_name", "scheduler", "width", "height", "denoise")
"""Inputs that the report names."""
THUMBNAIL = 320


@dataclass(frozen=True, eq=False)
class Opened:
    """A run before its first picture."""

    data: Data
    rows: tuple[Row, ...]
    painter: Painter
    judges: Judges
    meter: Meter
    store: Store
    brushes: list[Brush]
    left_out: Mapping[str, str]
    jobs: list[Job]


def run(options: argparse.Namespace, note: Note) -> None:
    """Everything. Raises DataError or PaintError for what the user can mend."""
    folder = options.out.expanduser().resolve()
    data = limit(read_data(options.data, options.people, options.prompts), options.limit)
    data = data.with_seeds(options.seeds)
    rows = choose_rows(data, options.rows)
    work = tempfile.TemporaryDirectory(prefix="flexid-ibench-", ignore_cleanup_errors=True)
    with work as scratch:
        opened = open_run(options, data, rows, folder, Path(scratch))
        for line in announce(opened):
            tell_first(line, note)
        mine = share_jobs(opened.jobs, distributed.rank(), distributed.count())
        paint_jobs(opened.painter, opened.store, mine, note)
        # A plain twin may be another process's: measure when all pictures are there.
        distributed.meet()
        opened.meter.measure_all(mine, note)
        opened.meter.look_all(mine, note)
        distributed.meet()
        if distributed.rank() == 0:
            result = sum_up(opened, options)
            for path in write_all(result, opened, folder):
                note(str(path))
        distributed.meet()


def tell_first(line: str, note: Note) -> None:
    """Once, whatever the number of processes."""
    if distributed.rank() == 0:
        note(line)


def limit(data: Data, people: int | None) -> Data:
    """Only the first people."""
    if people is None:
        return data
    kept = set(data.people[:people])
    pairs = tuple(pair for pair in data.pairs if pair.person in kept)
    note = f"only the first {len(kept)} of {len(data.people)} people"
    notes = (*data.notes, note) if len(kept) < len(data.people) else data.notes
    return Data(data.source, pairs, notes)


def choose_rows(data: Data, named: list[Row] | None) -> tuple[Row, ...]:
    """What the user named; else the finished pictures of the data, or every way to paint.

    Raises DataError for the row "given" without finished pictures.
    """
    if named is None:
        return (GIVEN,) if data.is_painted else ROWS
    if GIVEN in named and not data.is_painted:
        raise DataError(
            f'the row "given" needs finished pictures, and {data.source} has 0 of them; use an '
            "evaluation file of IBench, or leave the row out."
        )
    return tuple(named)


def open_run(
    options: argparse.Namespace, data: Data, rows: tuple[Row, ...], folder: Path, scratch: Path
) -> Opened:
    """Open ComfyUI and all judges, and refuse what cannot be painted. Nothing is painted yet."""
    kinds = {n["class_type"] for row in rows if row.file for g in row.graphs() for n in g.values()}
    models = [path.expanduser().resolve() for path in options.models]
    painter = Painter(scratch, models, kinds)
    judges = open_judges(painter.folders, options.judge, options.cpu, painter.device, options.mode)
    store = Store(folder)
    meter = Meter(judges, store, options.mode)
    meter.meet(data.people)
    photos = {one.photos[0]: painter.put_photo(one.photos[0]) for one in data.people}
    choices = Choices(dict(options.file), dict(options.set), _sort_slots(options.slot))
    some_photo = next(iter(photos.values()))
    insist = options.rows is not None
    brushes, left_out = open_brushes(painter, rows, choices, some_photo, insist)
    jobs = plan_jobs(rows, brushes, data.pairs, photos)
    kept = tuple(row for row in rows if row.key not in left_out)
    return Opened(data, kept, painter, judges, meter, store, brushes, left_out, jobs)


def _sort_slots(named: list[tuple[str, str, Place]]) -> dict[str, dict[str, Place]]:
    found: dict[str, dict[str, Place]] = {}
    for row, slot, place in named:
        found.setdefault(row, {})[slot] = place
    return found


def announce(opened: Opened) -> list[str]:
    """What is about to happen."""
    keys = {key for job in opened.jobs for key, _ in job.paints}
    there = sum(opened.store.has_picture(key) for key in keys)
    lines = [
        f"{len(opened.data.people)} people, {len(opened.data.pairs)} pairs of {opened.data.source}",
        f"rows: {', '.join(row.key for row in opened.rows)}",
        *(f"left out: {key}: {why}" for key, why in opened.left_out.items()),
        *opened.data.notes,
        f"{len(keys)} pictures with the plain twins, {there} of them painted before; "
        f"{distributed.count()} process(es)",
    ]
    return lines


def sum_up(opened: Opened, options: argparse.Namespace) -> Result:
    """What all processes found."""
    measured = opened.meter.collect(opened.jobs)
    names = {brush.row.key: brush.files for brush in opened.brushes}
    left_out = dict(opened.left_out) | opened.judges.absent
    left_out |= list_unasked(opened.data)
    if all(len(one.photos) == 1 for one in opened.data.people):
        left_out["copy_paste"] = "no person has a second photo; put one beside the first"
    if not any(f"{SEEDS}{POSE}" in one.values for one in measured):
        left_out["changes between two seeds"] = (
            "each person and prompt has one seed; --seeds 2 paints two"
        )
    for row in opened.rows:
        if not any(one.plain for one in measured if one.row == row.key) and not row.alone:
            left_out[f"{row.key}, against the plain picture"] = (
                "the evaluation file has no imagewithoutid"
                if row.given
                else "its graph has no Apply node of FlexID that could be bypassed"
            )
    sets = opened.meter.compare_sets(opened.jobs)
    notes = list(opened.data.notes)
    notes += [f"{row}: {few}" for row, found in sets.items() if (few := say_few(found))]
    notes += warn_of_kinship(opened.judges, {key: list(files) for key, files in names.items()})
    if len(opened.data.people) == 1:
        notes.append("one person says nothing about others: there are no intervals")
    return Result(
        opened.data.source, options.mode, opened.rows, tuple(measured),
        {brush.row.key: tell_settings(brush) for brush in opened.brushes},
        names, opened.judges.files, sets, left_out, tuple(notes), read_anchors(),
    )  # fmt: skip


def list_unasked(data: Data) -> dict[str, str]:
    """Measures of wishes that no prompt's record states."""
    stated = {
        name for pair in data.pairs for name, wish in pair.prompt.wishes.items() if wish is not None
    }
    needed = {
        "expression_asked": ("expression",), "view_asked": ("view",),
        "pose_error": ("yaw_deg", "pitch_deg"),
    }  # fmt: skip
    return {
        name: f"no prompt states what it asks for; add {' or '.join(keys)} to the entries of "
        "prompts.json"
        for name, keys in needed.items()
        if not stated.intersection(keys)
    }


def tell_settings(brush: Brush) -> dict[str, Any]:
    """Numbers of a graph that decide how a picture looks."""
    nodes = brush.recipe.graph.values()
    return {
        name: node["inputs"][name]
        for name in TOLD
        for node in nodes
        if name in node["inputs"] and not is_link(node["inputs"][name])
    }


def write_all(result: Result, opened: Opened, folder: Path) -> list[Path]:
    """table.csv, figures.json, report.html and trade_off.svg; their paths."""
    photos = {one.name: _copy_photo(one.photos[0], folder) for one in opened.data.people}
    texts = {
        "figures.json": write_json(result),
        "table.csv": write_csv(result),
        "report.html": write_page(result, folder, photos),
    }
    if plot := draw_plot(result):
        texts["trade_off.svg"] = plot
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def _copy_photo(photo: Path, folder: Path) -> Path:
    """Small, beside the report, so that the folder can be moved."""
    target = folder / "photos" / f"{digest_file(photo)}.jpg"
    if not target.is_file():
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(photo) as opened:
            small = ImageOps.exif_transpose(opened).convert("RGB")
            small.thumbnail((THUMBNAIL, THUMBNAIL))
            small.save(target, "jpeg")
    return target
