"""What has to be painted and measured: a job for each row and pair, shared by processes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from .graphs import (
    Graph,
    Place,
    Recipe,
    describe,
    read_recipe,
    rename_files,
    set_inputs,
    without_person,
)
from .painter import Painter, PaintError
from .records import DataError, Pair, Person
from .rows import Row
from .store import PAINTING, Store, digest

Note = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Brush:
    """How one row is painted here: a graph whose files are there."""

    row: Row
    recipe: Recipe
    plain: Recipe | None
    """The same without the person; None where that is unknown, or the row itself."""
    files: Mapping[str, str]
    """Model files -> fingerprint."""


@dataclass(frozen=True)
class Choices:
    """What the user changes in all graphs."""

    files: Mapping[str, str] = field(default_factory=dict)
    inputs: Mapping[str, object] = field(default_factory=dict)
    slots: Mapping[str, Mapping[str, Place]] = field(default_factory=dict)
    """Row -> slot -> place."""


def open_brushes(
    painter: Painter, rows: Sequence[Row], choices: Choices, photo: str, insist: bool
) -> tuple[list[Brush], dict[str, str]]:
    """Brushes of the rows that can be painted, and why the others are left out.

    photo: any photo in ComfyUI's input folder. insist: raise DataError for the first kind of
    trouble instead, since the user named the rows. Nothing is painted yet.
    """
    brushes, left_out = [], {}
    for row in rows:
        if row.given:
            continue
        graphs = [_prepare_graph(graph, choices) for graph in row.graphs()]
        recipes = [read_recipe(graph, choices.slots.get(row.key)) for graph in graphs]
        if row.alone:
            recipes = [found for one in recipes if (found := without_person(one))]
        troubles = [painter.list_problems(one.fill("", 0, photo), one.result) for one in recipes]
        chosen = next((one for one, bad in zip(recipes, troubles, strict=True) if not bad), None)
        if chosen is None:
            left_out[row.key] = "; ".join(troubles[0])
            continue
        plain = None if row.alone else without_person(chosen)
        brushes.append(Brush(row, chosen, plain, painter.name_files(chosen.graph)))
    if left_out and (insist or not brushes):
        lines = [f"  {key}: {why}" for key, why in left_out.items()]
        raise DataError(
            "\n".join(
                [
                    f"{len(left_out)} of {len(rows)} rows cannot be painted:",
                    *lines,
                    "Put the files into the folders that --models names, name others with --file "
                    "NAME=FILE, or leave the rows out.",
                ]
            )
        )
    return brushes, left_out


def _prepare_graph(graph: Graph, choices: Choices) -> Graph:
    return set_inputs(rename_files(graph, choices.files), choices.inputs)


@dataclass(frozen=True, eq=False)
class Job:
    """One picture of one row."""

    row: Row
    pair: Pair
    picture: Path | None = None
    """Of the user; None: it is painted, under `key`."""
    key: str = ""
    plain_picture: Path | None = None
    plain_key: str = ""
    """Of the twin without the person; neither: there is none."""
    paints: tuple[tuple[str, Recipe], ...] = ()
    """What makes the keys."""
    other_seed: Job | None = None
    """The same row, person and prompt by other noise; None: there is none."""

    def find_picture(self, store: Store) -> Path:
        return self.picture or store.picture(self.key)

    def find_plain(self, store: Store) -> Path | None:
        if self.plain_picture:
            return self.plain_picture
        return store.picture(self.plain_key) if self.plain_key else None


def plan_jobs(
    rows: Sequence[Row], brushes: Sequence[Brush], pairs: Sequence[Pair], photos: Mapping[Path, str]
) -> list[Job]:
    """Row after row, person after person. photos: file -> its name in ComfyUI's input folder."""
    by_row = {brush.row.key: brush for brush in brushes}
    jobs = []
    for row in rows:
        for pair in pairs:
            if row.given:
                jobs.append(Job(row, pair, picture=pair.given, plain_picture=pair.plain))
            elif row.key in by_row:
                jobs.append(_plan(by_row[row.key], pair, photos[pair.person.photos[0]]))
    return _pair_seeds(jobs)


def _pair_seeds(jobs: Sequence[Job]) -> list[Job]:
    """Each job with the next seed of the same row, person and prompt; the last with the first."""
    alike: dict[tuple[Row, Person, str], dict[int, Job]] = {}
    for job in jobs:
        pair = job.pair
        alike.setdefault((job.row, pair.person, pair.text), {})[pair.seed] = job
    paired = []
    for job in jobs:
        drawn = alike[job.row, job.pair.person, job.pair.text]
        order = list(drawn)
        following = drawn[order[(order.index(job.pair.seed) + 1) % len(order)]]
        paired.append(replace(job, other_seed=following if len(order) > 1 else None))
    return paired


def _plan(brush: Brush, pair: Pair, photo: str) -> Job:
    key = name_picture(brush.recipe, brush.files, pair, photo)
    paints = [(key, brush.recipe)]
    plain_key = ""
    if brush.plain is not None:
        plain_key = name_picture(brush.plain, brush.files, pair, photo)
        paints.append((plain_key, brush.plain))
    return Job(brush.row, pair, key=key, plain_key=plain_key, paints=tuple(paints))


def name_picture(recipe: Recipe, files: Mapping[str, str], pair: Pair, photo: str) -> str:
    """Digest of all that decides the picture; equal for rows that share their plain twin."""
    graph = recipe.fill(pair.text, pair.seed, photo if recipe.photo else "")
    values = {v for node in graph.values() for v in node["inputs"].values() if isinstance(v, str)}
    used = {name: mark for name, mark in files.items() if values & {name, name.partition("/")[0]}}
    return digest(PAINTING, describe(graph, recipe.result.node), used)


def share_jobs(jobs: Sequence[Job], rank: int, count: int) -> list[Job]:
    """This process's part of each row, as neighbours: a person is encoded once."""
    mine = []
    for row in dict.fromkeys(job.row for job in jobs):
        own = [job for job in jobs if job.row == row]
        mine += own[len(own) * rank // count : len(own) * (rank + 1) // count]
    return mine


def paint_jobs(painter: Painter, store: Store, jobs: Sequence[Job], note: Note) -> int:
    """Paint what is missing; how many pictures that were. `note` is called with a line for each."""
    missing = {}
    for job in jobs:
        for key, recipe in job.paints:
            if key not in missing and not store.has_picture(key):
                missing[key] = job, recipe
    for number, (key, (job, recipe)) in enumerate(missing.items(), 1):
        photo = painter.put_photo(job.pair.person.photos[0])
        graph = recipe.fill(job.pair.text, job.pair.seed, photo)
        try:
            picture = painter.paint(graph, recipe.result)
        except PaintError as error:
            where = f"row {job.row.key}, person {job.pair.person.name}, prompt {job.pair.text!r}"
            raise PaintError(f"{where}: {error}") from error
        made = {
            "row": job.row.key if recipe is job.paints[0][1] else "plain",
            "person": job.pair.person.name,
            "prompt": job.pair.text,
            "seed": job.pair.seed,
            "graph": graph,
        }
        store.save_picture(key, picture, made)
        note(f"{number} of {len(missing)} pictures: {made['row']}, {made['person']}")
    return len(missing)
