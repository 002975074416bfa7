"""What is measured in a picture, as plain values that a file can hold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..model_patches.evaluate.inception import INCEPTION_FILE, inception_features
from ..model_patches.evaluate.modes import Mode
from ..model_patches.evaluate.outcomes import NAN, Outcome
from ..model_patches.face.pixels import to_uint8
from ..model_patches.identity.compare import (
    Comparison,
    add_other,
    compare_identity,
    embed_photos,
    know_by_photos,
)
from ..model_patches.identity.compare_faces import Known, Seen, measure_changes
from .judges import Judges
from .looks import (
    AXES,
    Look,
    compare_expressions,
    compare_looks,
    compare_subjects,
    compare_turns,
    look,
    look_at_expression,
    measure_wishes,
)
from .records import DataError, Person
from .sets import compare_sets
from .store import MEASURING, Store, digest, digest_file, open_picture
from .work import Job, Note

FACES, SHOWN = "faces", "shown"
SEEDS = "seeds_"
"""Before the name of a change: between two pictures of a row that differ by their noise alone."""
SHARED = "Processes on several machines need one --out folder that all of them share."


@dataclass(frozen=True)
class Measured:
    """One picture of a row."""

    row: str
    person: str
    prompt: str
    attributes: tuple[str, ...]
    styles: tuple[str, ...]
    picture: Path
    plain: Path | None
    values: Mapping[str, Outcome]
    faces: int
    shown: str | None = None
    """The face's expression by IBench's network; None without it, or without a face."""
    seed: int = 0
    """Of the noise: one prompt may have several."""

    @property
    def pair(self) -> tuple[str, str, int]:
        """What two rows have in common."""
        return self.person, *self.asked

    @property
    def asked(self) -> tuple[str, int]:
        """Prompt and seed."""
        return self.prompt, self.seed


class Meter:
    """Measures pictures of people that it knows by their photos."""

    def __init__(self, judges: Judges, store: Store, mode: Mode) -> None:
        self.judges, self.store, self.mode = judges, store, mode
        self.known: dict[Person, Known] = {}
        self.digests: dict[Path, str] = {}
        self.photos: dict[Person, Look] = {}

    def meet(self, people: Sequence[Person]) -> None:
        """Look at all photos. Raises DataError that names every one that cannot be used."""
        troubles = []
        for person in people:
            try:
                self.known[person] = self._know(person)
            except ValueError as error:
                troubles.append(f"  {person.name}: {error}")
        if troubles:
            raise DataError(
                "\n".join(
                    [f"the photos of {len(troubles)} of {len(people)} people cannot be used:"]
                    + troubles
                    + ["Replace them, or remove these people."]
                )
            )

    def _know(self, person: Person) -> Known:
        analyser, finder = self.judges.analyser, self.judges.finder
        photos = [open_picture(path) for path in person.photos]
        known = know_by_photos(analyser, photos[0], finder, self.mode)
        if len(photos) == 1:
            return known
        others = [embed_photos(analyser, photo) for photo in photos[1:]]
        return add_other(known, sum(others[1:], others[0]) / len(others))

    def measure_all(self, jobs: Sequence[Job], note: Note) -> None:
        """Measure what is missing, into the store."""
        missing = [job for job in jobs if self.store.load_measure(self.name(job)) is None]
        for number, job in enumerate(missing, 1):
            self.store.save_measure(self.name(job), self._measure(job))
            note(f"{number} of {len(missing)} measured: {job.row.key}, {job.pair.person.name}")

    def look_all(self, jobs: Sequence[Job], note: Note) -> None:
        """Features of all pictures for FID and KID, as far as its network is there."""
        if self.judges.inception is None:
            return
        for path in dict.fromkeys(one for job in jobs for one in self._both(job)):
            if self.store.load_features(self._name_features(path)) is None:
                pixels = to_uint8(open_picture(path)[0])
                found = inception_features(self.judges.inception, pixels)
                self.store.save_features(self._name_features(path), found.numpy())
        note("looked at all pictures for FID and KID")

    def _both(self, job: Job) -> list[Path]:
        """The picture and its plain twin; nothing without a twin."""
        plain = job.find_plain(self.store)
        return [job.find_picture(self.store), plain] if plain else []

    def _name_features(self, path: Path) -> str:
        return digest(MEASURING, INCEPTION_FILE, self._digest(path), dict(self.judges.files))

    def compare_sets(self, jobs: Sequence[Job]) -> dict[str, dict[str, float]]:
        """Row -> FID and KID of its pictures against their plain twins."""
        found = {}
        for row in dict.fromkeys(job.row.key for job in jobs):
            pairs = [both for job in jobs if job.row.key == row if (both := self._both(job))]
            if self.judges.inception is not None and pairs:
                sides = [
                    [self._load_features(path) for path in side]
                    for side in zip(*pairs, strict=True)
                ]
                found[row] = compare_sets(*sides)
        return found

    def _load_features(self, path: Path) -> np.ndarray:
        features = self.store.load_features(self._name_features(path))
        if features is None:
            raise DataError(f"{path}: not looked at. {SHARED}")
        return features

    def name(self, job: Job) -> str:
        """Digest of all that decides a job's figures."""
        pictures = [job.find_picture(self.store), job.find_plain(self.store)]
        marks = [path and self._digest(path) for path in (*pictures, *job.pair.person.photos)]
        asked = job.pair.text, job.pair.prompt.wishes
        other = [self._digest(job.other_seed.find_picture(self.store))] if job.other_seed else []
        return digest(MEASURING, marks, dict(self.judges.files), self.mode, asked, *other)

    def _digest(self, path: Path) -> str:
        if path.parent == self.store.folder / "pictures":
            return path.stem  # its name is a digest already
        if path not in self.digests:
            self.digests[path] = digest_file(path)
        return self.digests[path]

    def _measure(self, job: Job) -> dict[str, Any]:
        plain = job.find_plain(self.store)
        [row] = self.compare(job, plain).rows
        values = dict(row.values)
        for axis, turn in zip(AXES, row.turns or (NAN,) * len(AXES), strict=True):
            values[axis] = Outcome(turn, "" if row.turns else row.values["likeness"].reason)
        photo = self._look_at_photo(job.pair.person)
        mine = self._look(job.find_picture(self.store), row.seen[0])
        values |= compare_looks(photo, mine, self.mode) | compare_turns(photo, mine, self.mode)
        values |= compare_subjects(self.judges.networks, photo, mine)
        values |= self._measure_edits(job, photo, mine)
        if plain is not None:
            edits = self._measure_edits(job, photo, self._look(plain, row.seen[1]))
            values |= {f"plain_{name}": found for name, found in edits.items()}
        if job.other_seed is not None:
            changes = self._compare_seeds(job, job.other_seed, mine)
            values |= {f"{SEEDS}{name}": found for name, found in changes.items()}
        told = {name: _as_plain(found) for name, found in values.items()}
        return {"values": told, FACES: row.faces, SHOWN: mine.expression}

    def _measure_edits(self, job: Job, photo: Look, mine: Look) -> dict[str, Outcome]:
        """What the plain model is measured in, too: it says how freely a picture may be edited."""
        networks, finder = self.judges.networks, self.judges.finder
        wishes = measure_wishes(networks, job.pair.prompt, mine, finder is not None)
        return compare_expressions(networks, photo, mine) | wishes

    def _compare_seeds(self, job: Job, other: Job, mine: Look) -> dict[str, Outcome]:
        """How far two pictures of one person and prompt differ anyway."""
        networks, with_mesh = self.judges.networks, self.judges.finder is not None
        [row] = self.compare(other, None).rows
        theirs = row.seen[0]
        if mine.seen is None:  # nothing to compare with: every change has failed
            known = self.known[job.pair.person].seen
            assert known is not None  # a person of a photo
            changes = measure_changes(known, None, with_mesh, self.mode)
        else:
            changes = measure_changes(mine.seen, theirs, with_mesh, self.mode)
        pixels = to_uint8(open_picture(other.find_picture(self.store))[0])
        drawn = Look(theirs, logits=look_at_expression(networks, pixels, theirs, self.mode))
        missing_last = (drawn, mine) if mine.seen is None else (mine, drawn)
        return changes | compare_expressions(networks, *missing_last)

    def _look_at_photo(self, person: Person) -> Look:
        if person not in self.photos:
            self.photos[person] = self._look(person.photos[0], self.known[person].seen)
        return self.photos[person]

    def _look(self, path: Path, seen: Seen | None) -> Look:
        pixels = to_uint8(open_picture(path)[0])
        return look(self.judges.networks, pixels, seen, self.mode, self.judges.clip)

    def compare(self, job: Job, plain: Path | None) -> Comparison:
        """Raises ValueError for pictures of unequal sizes, or unusable pixels."""
        try:
            return compare_identity(
                self.judges.analyser,
                open_picture(job.find_picture(self.store)),
                [self.known[job.pair.person]],
                plain=plain and open_picture(plain),
                finder=self.judges.finder,
                asked=self.judges.ask(job.pair.text),
                mode=self.mode,
            )
        except ValueError as error:
            raise DataError(f"{job.find_picture(self.store)}: {error}") from error

    def collect(self, jobs: Sequence[Job]) -> list[Measured]:
        """All that was measured, by whichever process. Raises DataError for what is missing."""
        found = []
        for job in jobs:
            record = self.store.load_measure(self.name(job))
            if record is None:
                raise DataError(f"{job.row.key}, {job.pair.person.name}: not measured. {SHARED}")
            values = {name: _as_outcome(*one) for name, one in record["values"].items()}
            pair = job.pair
            found.append(
                Measured(
                    job.row.key,
                    pair.person.name,
                    pair.text,
                    pair.prompt.attributes,
                    pair.prompt.styles,
                    job.find_picture(self.store),
                    job.find_plain(self.store),
                    values,
                    record[FACES],
                    record[SHOWN],
                    pair.seed,
                )  # fmt: skip
            )
        return found


def _as_plain(found: Outcome) -> list[Any]:
    """JSON has no NaN."""
    return [found.value if math.isfinite(found.value) else None, found.reason]


def _as_outcome(value: float | None, reason: str) -> Outcome:
    return Outcome(NAN if value is None else value, reason)
