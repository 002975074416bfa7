"""Paints, looks and counts: person by person, so that an interrupted run covers all rows alike."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from .figures import TRAINED, metrics_of
from .judge import Judge, Seen, disruption, hits, pose_error
from .judges import INDEPENDENT, TRAINING
from .prompts import Prompt
from .report import Study
from .rows import ALONE, Row
from .store import Store

Note = Callable[[str], None]
Photo = Callable[[int], np.ndarray]
"""Seed of a person -> (H, W, 3) uint8 reference photo."""
SeenBy = Mapping[str, Mapping[str, Seen]]
"""Row key -> Prompt.file_name -> what one judge saw."""


class Painter(Protocol):
    """What a studio.Studio does here."""

    def sitter(self, photo: np.ndarray, sip: bool) -> object: ...

    def paint(
        self, row: Row, sitter: object, prompts: Sequence[Prompt], seeds: Sequence[int]
    ) -> np.ndarray: ...


@dataclass
class Evaluation:
    """One run over `study`; `photo` gives the references, `note` shows progress.

    `judges` are those of judges.open_judges; what an absent one would say is None.
    """

    study: Study
    painter: Painter
    judges: Mapping[str, Judge]
    store: Store
    photo: Photo
    note: Note

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows asked for, after the one that disruption is measured against."""
        return (ALONE, *(row for row in self.study.rows if row != ALONE))

    def to_paint(self) -> int:
        """How many pictures are missing."""
        return sum(
            len(self.store.missing_prompts(row, person, self.study.prompts))
            for person in self.study.people
            for row in self.rows
        )

    def run(self) -> Study:
        """Paint and look at what is missing; the study with its measures."""
        clock = Clock(self.to_paint(), self.note)
        measured: dict[str, list[dict]] = {row.key: [] for row in self.study.rows}
        for number, person in enumerate(self.study.people, 1):
            clock.where = f"person {number} of {len(self.study.people)}"
            for key, records in self._person(person, clock).items():
                measured[key] += records
        people = len(self.study.people)
        values = {key: metrics_of(records, people) for key, records in measured.items()}
        return replace(self.study, measured=values)

    def _person(self, person: int, clock: Clock) -> dict[str, list[dict]]:
        """Row key -> one record per prompt."""
        self._paint(person, clock)
        seen = {name: self._look(person, name) for name in self.judges}
        return {
            row.key: [self._record(row, person, prompt, seen) for prompt in self.study.prompts]
            for row in self.study.rows
        }

    def _paint(self, person: int, clock: Clock) -> None:
        missing = {
            row: self.store.missing_prompts(row, person, self.study.prompts) for row in self.rows
        }
        if not any(missing.values()):
            return
        sitter = None
        if any(prompts and row != ALONE for row, prompts in missing.items()):
            sip = any(row.sip for row, prompts in missing.items() if prompts)
            sitter = self.painter.sitter(self.photo(person), sip)
        for row, prompts in missing.items():
            if prompts:
                seeds = [noise_seed(person, prompt) for prompt in prompts]
                pictures = self.painter.paint(row, sitter, prompts, seeds)
                self.store.save(row, person, prompts, pictures)
                clock.count_painted(len(prompts), row.title)

    def _look(self, person: int, judge: str) -> SeenBy:
        """What one judge sees in the pictures of all rows, looked up or looked at."""
        found, wanted = {}, None
        for row in self.rows:
            seen = self.store.load_seen(row, person, judge)
            new = [prompt for prompt in self.study.prompts if prompt.file_name not in seen]
            if new and wanted is None:
                wanted = self.judges[judge].remember(self.photo(person))
            for prompt in new:
                picture = self.store.load(row, person, prompt)
                seen[prompt.file_name] = self.judges[judge].look(picture, wanted)
            if new:
                self.store.note(row, person, judge, seen)
            found[row.key] = seen
        return found

    def _record(
        self, row: Row, person: int, prompt: Prompt, seen: Mapping[str, SeenBy]
    ) -> dict[str, float | None]:
        name = prompt.file_name
        places, plain = (seen[TRAINING][key][name] for key in (row.key, ALONE.key))
        changed = None
        if row != ALONE:
            pictures = [self.store.load(one, person, prompt) for one in (row, ALONE)]
            changed = disruption(*pictures, [places, plain])
        told = {INDEPENDENT: "", TRAINING: TRAINED}
        record = {"detected": float(places.box is not None), "disruption": changed}
        for judge, prefix in told.items():
            one = seen[judge][row.key][name] if judge in seen else None
            record |= {prefix + metric: value for metric, value in measure(prompt, one).items()}
        return record


def measure(prompt: Prompt, seen: Seen | None) -> dict[str, float | None]:
    """What a judge says of one picture; None where it says nothing."""
    if seen is None:
        return dict.fromkeys(("similarity", "pose_error", "expression", "pose", "style", "edit"))
    told = {"similarity": seen.similarity, "pose_error": pose_error(prompt, seen)}
    return told | hits(prompt, seen)


def noise_seed(person: int, prompt: Prompt) -> int:
    """The same for every row, so that only the person's influence differs."""
    digest = hashlib.sha256(f"{person} {prompt.id}".encode()).digest()
    return int.from_bytes(digest[:6], "big")


class Clock:
    """Says how far a run is and how long it will still take."""

    def __init__(self, total: int, note: Note) -> None:
        self.total, self.note = total, note
        self.done, self.started, self.where = 0, time.monotonic(), ""

    def count_painted(self, count: int, what: str) -> None:
        self.done += count
        left = (time.monotonic() - self.started) / self.done * (self.total - self.done)
        self.note(
            f"{self.where}, {what}: {self.done} of {self.total} pictures, {duration(left)} left"
        )


def duration(seconds: float) -> str:
    """ "45 s", "12 min" or "1 h 05 min"."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    hours, minutes = divmod(round(seconds / 60), 60)
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min"
