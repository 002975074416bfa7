"""Draws the training pictures once, into arrays that every recipe maps from disk.

`data/singles`: six pictures of each person, next to each other (index = 6 * person + k). k = 0
and 1 are two frames of one sitting: same photo, expression and scene, a slightly other pose. The
other four are drawn freely, half of them photos. `data/groups`: two, sometimes three people.
People have the seeds 0, 1, 2, ...; those from HELD_OUT on never appear here.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.lib.format import open_memmap

from .. import portraits
from ..study.options import SPLITS
from .options import Options

SIZE = 128
SHOTS = 6
PEOPLE, GROUPS = 12_000, 6_000
HELD_OUT = SPLITS["held-out"]
MOST_FACES = 3
PHOTO_SHARE = 0.5
THREE_SHARE = 0.15
"""Of the groups, those with three people."""
SWAY = {"yaw": (8.0, 45.0), "pitch": (5.0, 25.0), "roll": (4.0, 25.0)}
"""Between the frames of a sitting: standard deviation in degrees, and the limit of the angle."""
CHUNK = 300
SEED = 0

Drawn = tuple[portraits.Picture, str]
Draw = Callable[[int, int], Iterator[Drawn]]
"""(start, end) -> the pictures with these numbers, each the same whatever is drawn with it."""


@dataclass(frozen=True)
class Layout:
    """One set of pictures on disk."""

    name: str
    count: int
    faces: int
    renderer: str
    chunk: int = CHUNK

    def fields(self) -> dict[str, tuple[tuple[int, ...], type]]:
        """Array name -> shape per picture and type."""
        return {
            "images": ((SIZE, SIZE, 3), np.uint8),
            "people": ((self.faces,), np.int64),
            "expression": ((self.faces,), np.int64),
            "style": ((), np.int64),
            "angles": ((self.faces, 3), np.float32),
            "box": ((self.faces, 4), np.float32),
            "points": ((self.faces, 5, 2), np.float32),
        }

    def chunks(self) -> range:
        return range(0, self.count, self.chunk)


class Portraits:
    """A set of pictures of one person each. All arrays are mapped from disk, read-only.

    images uint8 (N, 128, 128, 3) RGB; person int64 (N,) seed; expression and style int64 (N,)
    index into portraits.EXPRESSIONS and STYLES; angles float32 (N, 3) yaw, pitch, roll in degrees;
    box float32 (N, 4) and points float32 (N, 5, 2) in pixels; caption: N texts; vectors float32
    (people, P) Person.vector() of the set's person i. Raises FileNotFoundError before the data is
    drawn.
    """

    def __init__(self, work: Path, name: str = "singles") -> None:
        arrays, self.caption = _read(work, name)
        self.images, self.style = arrays["images"], arrays["style"]
        self.person, self.expression = arrays["people"][:, 0], arrays["expression"][:, 0]
        self.angles, self.box = arrays["angles"][:, 0], arrays["box"][:, 0]
        self.points = arrays["points"][:, 0]
        self.vectors = np.load(_folder(work, name) / "vectors.npy", mmap_mode="r")

    def describe_people(self) -> np.ndarray:
        """(people, P) float32 vectors around zero, each number at about unit variance.

        Rare names (a birthmark) would hardly count beside the others without it.
        """
        vectors = np.array(self.vectors, np.float32)
        spread = vectors.std(0, ddof=1).clip(0.1)
        return (vectors - vectors.mean(0)) / spread

    def __len__(self) -> int:
        return len(self.caption)


class Groups:
    """The pictures of two or three people: as Portraits, with a face axis of length 3 after N.

    people (N, 3) seeds, -1 where there is nobody; expression (N, 3) likewise; angles (N, 3, 3),
    box (N, 3, 4), points (N, 3, 5, 2) zero there; count (N,) number of people.
    """

    def __init__(self, work: Path) -> None:
        arrays, self.caption = _read(work, "groups")
        self.images, self.style = arrays["images"], arrays["style"]
        self.people, self.expression = arrays["people"], arrays["expression"]
        self.angles, self.box, self.points = arrays["angles"], arrays["box"], arrays["points"]
        self.count = (np.asarray(self.people) >= 0).sum(1)

    def __len__(self) -> int:
        return len(self.caption)


def build(work: Path, device: object, options: Options) -> None:
    """Draw what is missing. `device` is not used: pictures are drawn by processes.

    Raises ValueError when the folder holds data of another size, or half of another renderer's.
    """
    people = PEOPLE if options.people is None else options.people
    count = GROUPS if options.groups is None else options.groups
    if people < MOST_FACES:
        raise ValueError(f"people is {people}, expected at least {MOST_FACES}.")
    draw_portraits(work, "singles", range(people), SHOTS, singles, options.processes)
    crowds = partial(groups, people=people)
    _draw_set(work, "groups", count, MOST_FACES, crowds, options.processes)


def draw_portraits(
    work: Path, name: str, seeds: range, shots: int, draw: Draw, processes: int | None
) -> None:
    """Draw what is missing of a set that Portraits reads: `shots` pictures of each person."""
    _draw_set(work, name, len(seeds) * shots, 1, draw, processes)
    path = _folder(work, name) / "vectors.npy"
    if not path.exists():
        np.save(path, np.stack([portraits.person(seed).vector() for seed in seeds]))


def _draw_set(
    work: Path, name: str, count: int, faces: int, draw: Draw, processes: int | None
) -> None:
    layout = _prepare(work, Layout(name, count, faces, _fingerprint(), CHUNK))
    _draw_all(work, layout, draw, processes)


def _folder(work: Path, name: str) -> Path:
    return work / "data" / name


def _fingerprint() -> str:
    """Of the renderer's source: half a set must not be drawn by another version."""
    digest = hashlib.sha256()
    for path in sorted(Path(portraits.__file__).parent.glob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _prepare(work: Path, layout: Layout) -> Layout:
    """Make the empty arrays, or find those of an earlier run; the layout on disk."""
    folder = _folder(work, layout.name)
    stated = folder / "layout.json"
    if stated.exists():
        found = Layout(**json.loads(stated.read_text()))
        _agree(folder, found, layout)
        return found
    folder.mkdir(parents=True, exist_ok=True)
    for name, (shape, kind) in layout.fields().items():
        open_memmap(folder / f"{name}.npy", "w+", dtype=kind, shape=(layout.count, *shape))
    stated.write_text(json.dumps(asdict(layout)))
    return layout


def _agree(folder: Path, found: Layout, asked: Layout) -> None:
    if found.count != asked.count:
        raise ValueError(
            f"{folder} holds {found.count} pictures, {asked.count} are asked for. Choose another "
            "--work, or remove that folder."
        )
    missing = [start for start in found.chunks() if not _chunk_captions(folder, start).exists()]
    if found.renderer == asked.renderer:
        return
    if missing:
        raise ValueError(
            f"{folder} is half drawn by another version of the renderer ({found.renderer}, now "
            f"{asked.renderer}). Remove that folder to draw everything anew."
        )
    sys.stdout.write(f"data: {folder} was drawn by an earlier version of the renderer, kept\n")


def _chunk_captions(folder: Path, start: int) -> Path:
    """A chunk's captions; they are written last, so they say that its arrays are complete."""
    return folder / "captions" / f"{start:07d}.json"


def _draw_all(work: Path, layout: Layout, pictures: Draw, processes: int | None) -> None:
    folder = _folder(work, layout.name)
    _chunk_captions(folder, 0).parent.mkdir(exist_ok=True)
    missing = [start for start in layout.chunks() if not _chunk_captions(folder, start).exists()]
    draw = partial(_draw_chunk, folder, layout, pictures)
    processes = min(processes or os.cpu_count() or 1, len(missing))
    if processes <= 1:
        return _show(layout, len(missing), map(draw, missing))
    # Forked children would inherit threads of torch in an undefined state.
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        _show(layout, len(missing), pool.imap_unordered(draw, missing))


def _show(layout: Layout, chunks: int, drawn: Iterator[int]) -> None:
    started, pictures = time.monotonic(), 0
    for index, count in enumerate(drawn, 1):
        pictures += count
        if index % 10 == 0 or index == chunks:
            pace = (time.monotonic() - started) / pictures * 1000
            sys.stdout.write(
                f"data: {layout.name} {index} of {chunks} chunks, {pace:.1f} s per 1000\n"
            )
            sys.stdout.flush()


def _draw_chunk(folder: Path, layout: Layout, draw: Draw, start: int) -> int:
    """Draw the pictures from `start` on; how many. Runs in a process of its own."""
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r+") for name in layout.fields()}
    end = min(start + layout.chunk, layout.count)
    captions = []
    for index, (picture, caption) in enumerate(draw(start, end), start):
        _store(arrays, index, picture)
        captions.append(caption)
    for array in arrays.values():
        array.flush()
    partial_file = _chunk_captions(folder, start).with_suffix(".part")
    partial_file.write_text(json.dumps(captions), encoding="utf-8")
    os.replace(partial_file, _chunk_captions(folder, start))
    return len(captions)


def _store(arrays: dict[str, np.ndarray], index: int, picture: portraits.Picture) -> None:
    rendered = portraits.render(picture, SIZE)
    arrays["images"][index] = rendered.image
    arrays["style"][index] = portraits.STYLES.index(picture.people[0][1].style)
    arrays["people"][index] = arrays["expression"][index] = -1
    for slot, ((person, shot), face) in enumerate(zip(picture.people, rendered.faces, strict=True)):
        arrays["people"][index, slot] = person.seed
        arrays["expression"][index, slot] = portraits.EXPRESSIONS.index(shot.expression)
        arrays["angles"][index, slot] = shot.yaw, shot.pitch, shot.roll
        arrays["box"][index, slot] = face.box
        arrays["points"][index, slot] = face.points


def singles(start: int, end: int) -> Iterator[Drawn]:
    for seed in range(start // SHOTS, -(-end // SHOTS)):
        rng = np.random.default_rng((SEED, 1, seed))
        person = portraits.person(seed)
        for shot in sitting(rng) + tuple(free_shot(rng) for _ in range(SHOTS - 2)):
            picture = portraits.picture(rng, ((person, shot),))
            yield picture, portraits.caption(rng, picture)


def sitting(rng: np.random.Generator) -> tuple[portraits.Shot, portraits.Shot]:
    """Two photos taken one after the other."""
    first = portraits.shot(rng, style="photo")
    moved = {
        name: float(np.clip(getattr(first, name) + rng.normal(0, spread), -limit, limit))
        for name, (spread, limit) in SWAY.items()
    }
    return first, replace(first, **moved)


def free_shot(rng: np.random.Generator) -> portraits.Shot:
    """Half the time a photo, else one of the other styles."""
    drawn = [name for name in portraits.STYLES if name != "photo"]
    style = "photo" if rng.random() < PHOTO_SHARE else str(rng.choice(drawn))
    return portraits.shot(rng, style=style)


def groups(start: int, end: int, people: int) -> Iterator[Drawn]:
    for index in range(start, end):
        rng = np.random.default_rng((SEED, 2, index))
        count = 3 if rng.random() < THREE_SHARE else 2
        seeds = rng.choice(people, size=count, replace=False)
        members = tuple((portraits.person(int(seed)), free_shot(rng)) for seed in seeds)
        picture = portraits.picture(rng, members)
        yield picture, portraits.caption(rng, picture)


def _read(work: Path, name: str) -> tuple[dict[str, np.ndarray], list[str]]:
    folder = _folder(work, name)
    stated = folder / "layout.json"
    if not stated.exists():
        raise FileNotFoundError(f"{stated} is missing. Draw the pictures first: --only data.")
    layout = Layout(**json.loads(stated.read_text()))
    missing = [start for start in layout.chunks() if not _chunk_captions(folder, start).exists()]
    if missing:
        raise FileNotFoundError(
            f"{folder} lacks {len(missing)} of {len(layout.chunks())} chunks. Run --only data "
            "again; it goes on where it stopped."
        )
    arrays = {key: np.load(folder / f"{key}.npy", mmap_mode="r") for key in layout.fields()}
    captions = [
        caption
        for start in layout.chunks()
        for caption in json.loads(_chunk_captions(folder, start).read_text(encoding="utf-8"))
    ]
    return arrays, captions
