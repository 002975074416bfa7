"""One document of the suite editid from two runs that painted different rows.

A gain compares a way with the line of constant weights on the same people, so that each run paints
the line. What both runs painted must agree: only then can their rows stand side by side.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .editid_suite import WAYS, line

Document = Mapping[str, Any]
"""By editid_suite.to_json."""
SAME = ("split", "people", "settings", "knobs", "prompts")
"""Keys of report.as_run that both runs must agree on."""
BY_NAME = ("weights", "adapters")
"""Keys whose entries must agree where both runs have them."""
KEPT = ("rows", "beats_line", *BY_NAME)
"""Keys of which the earlier run's other entries are kept."""


def read_earlier(path: Path) -> Document:
    """Raises ValueError where a file is no document of the suite editid."""
    try:
        found = json.loads(path.expanduser().read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"--join {path}: {error}. Name the editid.json of a run.") from error
    expected = {"aim", "line", *SAME, *KEPT}
    if not isinstance(found, dict) or expected - found.keys():
        missing = ", ".join(sorted(expected.difference(found)))
        raise ValueError(
            f"--join {path} is no document of the suite editid, which has {missing}, too. Name the "
            "editid.json of a run."
        )
    return found


def check_run(earlier: Document, run: Mapping[str, Any]) -> None:
    """Before anything is painted. run: by report.as_run. Raises ValueError where the earlier run
    had other people, prompts, settings or files."""
    run = _as_read(run)
    for key in SAME:
        _agree(key, earlier[key], run[key])
    _agree_by_name("weights", earlier, run)


def join(earlier: Document, later: Document) -> dict[str, Any]:
    """`later`, and the rows that only `earlier` has, in the order of the suite.

    Raises ValueError as `check_run`, and where a row of both has another figure.
    """
    later = _as_read(later)
    check_run(earlier, later)
    _agree("aim", earlier["aim"], later["aim"])
    _agree_by_name("adapters", earlier, later)
    for key in earlier["rows"].keys() & later["rows"].keys():
        figures = earlier["rows"][key]["figures"], later["rows"][key]["figures"]
        for metric in figures[0].keys() | figures[1].keys():
            _agree(f"{metric} of the row {key}", *(one.get(metric) for one in figures))
    joined = {key: {**earlier[key], **later[key]} for key in KEPT}
    for key in ("rows", "beats_line"):
        joined[key] = {name: joined[key][name] for name in _in_order(joined[key])}
    return {**later, **joined}


def _in_order(keys: Iterable[str]) -> list[str]:
    """The line first, then the suite's own ways, then others as they came."""
    places = {row.key: place for place, row in enumerate((*line().rows, *WAYS))}
    return sorted(keys, key=lambda key: places.get(key, len(places)))


def _as_read(document: Mapping[str, Any]) -> dict[str, Any]:
    """As it would come back from a file: tuples are lists there."""
    return json.loads(json.dumps(document))


def _agree_by_name(key: str, earlier: Document, later: Document) -> None:
    for name in earlier[key].keys() & later[key].keys():
        _agree(f"{name} of {key}", earlier[key][name], later[key][name])


def _agree(what: str, earlier: object, later: object) -> None:
    if earlier != later:
        raise ValueError(
            f"{what} is {earlier} in the earlier run and {later} in this one; rows of both can "
            "only stand beside one line where they agree. Repeat the earlier run's options and "
            "files, or paint all rows in one run, without --join."
        )
