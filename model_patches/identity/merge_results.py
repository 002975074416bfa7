"""Figures of a merge search as they come: kept on disk, so that a search can go on tomorrow."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..adapters.merge_points import label
from ..evaluate.merge_search import Axis, Scores, Search, write_report
from ..files.records import Records, append_record, read_records
from .merge_search import Trial

ENDING = ".jsonl"
_DIGITS = 12
_NAME = re.compile(r"\w[\w .-]{0,59}")

Graph = Mapping[str, Any]
"""A graph in API format: number -> class_type and inputs."""


@dataclass(frozen=True)
class Results:
    """A search with all that was measured for it so far."""

    search: Search
    path: Path
    """Of the record."""
    unreadable: int
    others: int
    """Records under this name of other searches or graphs."""

    @property
    def final_weights(self) -> str | None:
        """The best weights; None before all trials are done, or where none can be chosen."""
        best = self.search.best
        return None if best is None or self.search.missing else self.search.labels[best]

    @property
    def report(self) -> str:
        lines = [write_report(self.search), f"record: {self.path.name}"]
        if self.unreadable:
            lines.append(
                f"{self.unreadable} lines of the record cannot be read; their trials count as "
                "missing"
            )
        if self.others:
            lines.append(
                f"{self.others} other records of this name are of other settings or graphs; they "
                "are kept and not counted"
            )
        return "\n".join(lines)


def check_name(name: str) -> str:
    """The name of a record, trimmed. Raises ValueError for one that is no plain file name."""
    plain = name.strip()
    if not _NAME.fullmatch(plain):
        raise ValueError(
            f"name is {name!r}, expected 1 to 60 letters, digits, spaces, dots, hyphens or "
            "underscores, beginning with a letter or digit. Choose another name."
        )
    return plain


def digest_graph(graph: Graph, node: str, free: Mapping[str, str]) -> str:
    """Digest of all nodes that lead to `node`, and of its own links; its widgets do not count.

    free: class -> its input that differs from trial to trial. The same pictures and figures then
    lead to the same record, and a changed step count, model or figure never mixes with what was
    measured before.
    """
    own = graph.get(node, {}).get("inputs", {})
    linked = {key: value for key, value in own.items() if _is_link(value)}
    seen: dict[str, Any] = {}
    waiting = _list_links(linked)
    while waiting:
        number = waiting.pop()
        if number in seen or number not in graph:
            continue
        kind = graph[number]["class_type"]
        inputs = {k: v for k, v in graph[number]["inputs"].items() if k != free.get(kind)}
        seen[number] = [kind, inputs]
        waiting += _list_links(inputs)
    return hashlib.sha256(json.dumps([linked, seen], sort_keys=True).encode()).hexdigest()


def keep_score(
    folder: Path,
    name: str,
    graph: str,
    trial: Trial,
    numbers: tuple[float, float | None],
    axes: tuple[Axis, Axis | None],
    tolerance: float,
) -> Results:
    """Write the figures of a trial to the record of its search, and sum up what is there.

    graph: as `digest_graph` gives it; numbers: x and y, NaN where they could not be measured. A
    trial that was measured before counts as it is now. Raises ValueError for a name that is no
    file name and a tolerance below 0, and OSError.
    """
    name = check_name(name)
    Search((), 0, 1, Scores({}), axes, tolerance)  # a wrong tolerance writes nothing
    key = hashlib.sha256(f"{trial.search} {graph}".encode()).hexdigest()[:_DIGITS]
    path = folder / f"{name}.{key}{ENDING}"
    x, y = numbers
    record = {
        "trial": trial.number,
        "weights": trial.weights,
        "person": trial.person,
        "prompt": trial.prompts[trial.prompt],
        "x": _make_plain(x),
        "y": _make_plain(y),
    }
    known = read_records(path)
    if not any(one == record for one in known.found[-1:]):
        append_record(path, record)
        known = Records((*known.found, record), known.unreadable)
    search = Search(
        tuple(map(label, trial.points)),
        trial.total,
        trial.people,
        _collect(known, trial, axes[1] is not None),
        axes,
        tolerance,
    )
    others = [one for one in folder.glob(f"*{ENDING}") if one.name.startswith(f"{name}.")]
    others = [one for one in others if one != path and len(one.name) == len(path.name)]
    return Results(search, path, known.unreadable, len(others))


def _is_link(value: Any) -> bool:
    """A link is [number of a node, output]."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str)


def _list_links(inputs: Mapping[str, Any]) -> list[str]:
    """Numbers of the nodes that feed these inputs."""
    return [value[0] for value in inputs.values() if _is_link(value)]


def _make_plain(number: float | None) -> float | None:
    return float(number) if number is not None and math.isfinite(number) else None


def _collect(records: Records, trial: Trial, with_y: bool) -> Scores:
    count = len(trial.points)
    x: dict[tuple[int, int, int], float] = {}
    y: dict[tuple[int, int, int], float] = {}
    for record in records.found:
        number = record.get("trial")
        if not isinstance(number, int) or not 0 <= number < trial.total:
            continue
        cell = number // count
        place = (number % count, cell % trial.people, cell // trial.people)
        x[place], y[place] = (_read_number(record.get(key)) for key in ("x", "y"))
    return Scores(x, y if with_y else None)


def _read_number(value: Any) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
