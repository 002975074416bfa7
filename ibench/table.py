"""What the pictures of each row say together, beside figures that papers have published."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from ..model_patches.evaluate.expression import histogram
from ..model_patches.evaluate.modes import COMPAT, Mode
from ..model_patches.evaluate.outcomes import Outcome, Summary, paired_difference, summarise
from ..model_patches.evaluate.ranks import mean_ranks
from ..model_patches.evaluate.statistics import Figure
from .anchors import Anchor
from .columns import COLUMNS, MEAN_RANK, Column
from .looks import CLASS
from .measure import Measured
from .rows import Row

SCHEMA = 1
FEWEST_RANKED = 3
"""Rows of which ranks say something."""


@dataclass(frozen=True)
class Result:
    """A finished benchmark."""

    source: str
    """Name of the data."""
    mode: Mode
    rows: tuple[Row, ...]
    measured: tuple[Measured, ...]
    settings: Mapping[str, Mapping[str, Any]]
    """Row -> steps, cfg, size and the like, of its graph."""
    files: Mapping[str, Mapping[str, str]]
    """Row -> model file -> size and digest of its ends."""
    judges: Mapping[str, str]
    sets: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Row -> what only all pictures together say, such as FID."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Rows and measures -> why."""
    notes: tuple[str, ...] = ()
    anchors: tuple[Anchor, ...] = ()

    @property
    def people(self) -> int:
        return len({one.person for one in self.measured})

    def of_row(self, key: str) -> list[Measured]:
        return [one for one in self.measured if one.row == key]

    def summary(self, row: str, measure: str) -> Summary | None:
        """None where the measure is left out."""
        mine = [one for one in self.of_row(row) if measure in one.values]
        if not mine:
            return None
        return summarise([one.values[measure] for one in mine], [one.person for one in mine])

    def shown(self, row: str, column: Column) -> Figure | None:
        """What a table shows: likeness with failures as 0; compat: the flat mean."""
        if column.of_set:
            own = self.sets.get(row, {}).get(column.key)
            value = self.mean_ranks.get(row) if column.key == MEAN_RANK else own
            return None if value is None else Figure(value, math.nan, math.nan, 0)
        found = self.summary(row, column.key)
        if found is None:
            return None
        if self.mode == COMPAT:
            return Figure(found.flat, math.nan, math.nan, found.macro.count)
        return found.strict if column.strict else found.macro

    @cached_property
    def ranked(self) -> dict[Column, dict[str, float]]:
        """Column of the mean rank -> row with a person -> figure, of which more is better: the
        ranked columns that all of these rows have. Empty for fewer than three."""
        rows = [row.key for row in self.rows if not row.alone]
        if len(rows) < FEWEST_RANKED:
            return {}
        found = {}
        for column in (one for one in COLUMNS if one.ranked):
            figures = {key: self.shown(key, column) for key in rows}
            sign = -1 if column.better == "lower" else 1
            values = {key: sign * one.mean for key, one in figures.items() if one is not None}
            if len(values) == len(rows) and all(map(math.isfinite, values.values())):
                found[column] = values
        return found

    @cached_property
    def mean_ranks(self) -> dict[str, float]:
        """Row -> mean rank over the ranked columns, 1 is best (FlexIP's mRank). Ties share their
        rank; compat: the later row gets the better one, as in FlexIP's table."""
        if not self.ranked:
            return {}
        columns = list(self.ranked.values())
        table = {row: [values[row] for values in columns] for row in columns[0]}
        return mean_ranks(table, "ordinal" if self.mode == COMPAT else "average")

    def columns(self) -> list[Column]:
        """Those that some row has."""
        return [one for one in COLUMNS if any(self.shown(row.key, one) for row in self.rows)]

    def difference(self, row: str, other: str, measure: str) -> Figure:
        """Mean of `row` minus `other` on the pictures that both could measure."""
        one, two = (
            {m.pair: m.values.get(measure, Outcome(math.nan, "left_out")) for m in self.of_row(key)}
            for key in (row, other)
        )
        return paired_difference(one, two, lambda pair: pair[0])


def write_csv(result: Result) -> str:
    """A line for each picture. What failed or was left out is empty, and `status` says why."""
    measures = list(dict.fromkeys(name for one in result.measured for name in one.values))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    head = ["schema=1", "row", "person", "prompt", "seed", "picture", "plain", "faces", "status"]
    writer.writerow([*head, *measures])
    for one in result.measured:
        failures = sorted({f"{n}: {o.reason}" for n, o in one.values.items() if o.reason})
        cells = [_cell(one.values.get(name)) for name in measures]
        plain = one.plain.name if one.plain else ""
        told = [
            one.row, one.person, one.prompt, one.seed, one.picture.name, plain, one.faces
        ]  # fmt: skip
        writer.writerow([SCHEMA, *told, "; ".join(failures), *cells])
    return text.getvalue()


def _cell(found: Outcome | None) -> str:
    return f"{found.value:.6g}" if found is not None and found.ok else ""


def write_json(result: Result) -> str:
    """All figures with their intervals, the paired differences to the first row, and anchors."""
    measures = list(dict.fromkeys(name for one in result.measured for name in one.values))
    content = {
        "schema": SCHEMA,
        "data": result.source,
        "mode": result.mode,
        "people": result.people,
        "ranked": [one.key for one in result.ranked],
        "judges": dict(result.judges),
        "rows": [_tell_row(result, row, measures) for row in result.rows],
        "left_out": dict(result.left_out),
        "notes": list(result.notes),
        "published": [asdict(one) for one in result.anchors],
    }
    return json.dumps(_finite(content), indent=1, ensure_ascii=False) + "\n"


def _tell_row(result: Result, row: Row, measures: Sequence[str]) -> dict[str, Any]:
    found = {name: result.summary(row.key, name) for name in measures}
    first = result.rows[0].key
    return {
        "row": row.key,
        "title": row.title,
        "pictures": len(result.of_row(row.key)),
        "settings": dict(result.settings.get(row.key, {})),
        "files": dict(result.files.get(row.key, {})),
        "measures": {name: _tell(one) for name, one in found.items() if one is not None},
        "sets": dict(result.sets.get(row.key, {})),
        "mean_rank": result.mean_ranks.get(row.key),
        "expressions": _count_expressions(result, row.key),
        "groups": _tell_groups(result, row.key, measures),
        f"minus {first}": {
            name: asdict(result.difference(row.key, first, name))
            for name, one in found.items()
            if one is not None and row.key != first
        },
    }


def _count_expressions(result: Result, row: str) -> dict[str, int]:
    """How often each was shown: one constant wrong expression changes "Another expression", too.

    Empty without the network.
    """
    mine = [one for one in result.of_row(row) if CLASS in one.values]
    return histogram([one.shown for one in mine]) if mine else {}


def _tell_groups(result: Result, row: str, measures: Sequence[str]) -> dict[str, Any]:
    """By what the prompts are marked with."""
    mine = result.of_row(row)
    names = list(dict.fromkeys(name for one in mine for name in (*one.attributes, *one.styles)))
    told = {}
    for name in names:
        group = [one for one in mine if name in (*one.attributes, *one.styles)]
        told[name] = {
            measure: _tell(
                summarise([one.values[measure] for one in group], [one.person for one in group])
            )
            for measure in measures
            if all(measure in one.values for one in group)
        }
    return told


def _tell(found: Summary) -> dict[str, Any]:
    return {
        "macro": asdict(found.macro),
        "flat": found.flat,
        "strict": asdict(found.strict),
        "total": found.total,
        "failures": found.failures,
    }


def _finite(value: Any) -> Any:
    """JSON has no NaN: null."""
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
