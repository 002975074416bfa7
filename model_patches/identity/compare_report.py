"""A comparison as a table, as text, as single numbers and as a chart."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence

from torch import Tensor

from ..evaluate.charts import Panel, draw_panels
from ..evaluate.modes import COMPAT
from ..evaluate.outcomes import Outcome, Summary, share_of_base, summarise
from .compare import (
    COPY_PASTE,
    FROM_PLAIN,
    GAIN,
    LIKENESS,
    MEASURES,
    OUTSIDE,
    PLAIN_LIKENESS,
    Comparison,
    Row,
)
from .compare_faces import CHANGES, EXPRESSION, LANDMARKS, POSE
from .compare_prompt import CLIP_PLAIN, PLAIN_PROMPT, PROMPT, SENTENCES

AXES = ("yaw", "pitch", "roll")
COLUMNS = ("picture", "person", "faces", *MEASURES, *(f"{axis}_change" for axis in AXES), "status")
"""Of the table, in order. A measure that is left out has an empty column."""
CHARTED = (LIKENESS, POSE, LANDMARKS, EXPRESSION, OUTSIDE, COPY_PASTE, PROMPT)
SHOWN = (
    PLAIN_LIKENESS, GAIN, *CHANGES, FROM_PLAIN, OUTSIDE, COPY_PASTE, PROMPT, SENTENCES,
    PLAIN_PROMPT, CLIP_PLAIN,
)  # fmt: skip
"""In the report, after the likeness."""
FOUND, FAILED = "found", "no face"
CSV_DIGITS, DIGITS = 6, 3


def summarise_measure(comparison: Comparison, measure: str) -> Summary | None:
    """Over all pictures and people; None where the measure is left out."""
    rows = [row for row in comparison.rows if measure in row.values]
    if not rows:
        return None
    return summarise([row.values[measure] for row in rows], [row.person for row in rows])


def mean_of(comparison: Comparison, measure: str) -> float:
    """Mean over people of what could be measured; NaN where nothing was, never 0.

    compat: over all values alike, as IBench does.
    """
    found = summarise_measure(comparison, measure)
    if found is None:
        return math.nan
    return found.flat if comparison.mode == COMPAT else found.macro.mean


def strict_likeness(comparison: Comparison) -> float:
    """Mean likeness in which a picture without the person counts 0; compat leaves it out."""
    if comparison.mode == COMPAT:
        return mean_of(comparison, LIKENESS)
    found = summarise_measure(comparison, LIKENESS)
    return math.nan if found is None else found.strict.mean


def detection_rate(comparison: Comparison) -> float:
    """In which share of the pictures the people were found, 0 to 1."""
    found = summarise_measure(comparison, LIKENESS)
    return math.nan if found is None else found.rate


def numbers_of(comparison: Comparison) -> dict[str, float]:
    """The node's single numbers, by their names."""
    return {
        "likeness": strict_likeness(comparison),
        "likeness_found": mean_of(comparison, LIKENESS),
        "detection_rate": detection_rate(comparison),
        "gain": mean_of(comparison, GAIN),
        "pose_change": mean_of(comparison, POSE),
        "landmark_change": mean_of(comparison, LANDMARKS),
        "expression_change": mean_of(comparison, EXPRESSION),
        "change_outside": mean_of(comparison, OUTSIDE),
        "copy_paste": mean_of(comparison, COPY_PASTE),
        "prompt_alignment": mean_of(comparison, PROMPT),
    }


def write_table(comparison: Comparison) -> str:
    """CSV of COLUMNS, one line for each picture and person. What failed or is absent is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in comparison.rows:
        turns = [_number(value) for value in row.turns] if row.turns else [""] * len(AXES)
        writer.writerow(
            [
                row.picture + 1,
                row.person,
                row.faces,
                *(_cell(row, measure) for measure in MEASURES),
                *turns,
                FOUND if row.values[LIKENESS].ok else FAILED,
            ]
        )
    return text.getvalue()


def _cell(row: Row, measure: str) -> str:
    outcome = row.values.get(measure)
    return _number(outcome.value) if outcome is not None and outcome.ok else ""


def _number(value: float) -> str:
    return f"{value:.{CSV_DIGITS}g}"


def write_report(comparison: Comparison) -> str:
    """What the table says, in a few lines; what was left out comes last, with what it lacks."""
    found = summarise_measure(comparison, LIKENESS)
    if found is None:
        return ""
    pictures = len({row.picture for row in comparison.rows})
    lines = [
        f"{_count(pictures, 'picture')}, {_count(len(comparison.people), 'person', 'people')}: "
        f"found {found.macro.count} of {found.total} times ({found.rate:.0%})",
        _describe_likeness(comparison, found),
    ]
    for person in comparison.people if len(comparison.people) > 1 else ():
        mine = [row.values[LIKENESS] for row in comparison.rows if row.person == person]
        lines.append(f"  {person}: {_of_person(mine)}")
    lines += _list_measures(comparison)
    lines += [f"left out: {what} ({why})" for what, why in comparison.left_out.items()]
    return "\n".join(lines)


def _describe_likeness(comparison: Comparison, found: Summary) -> str:
    if comparison.mode == COMPAT:
        return f"likeness {_short(found.flat)} (compat: pictures without a face are left out)"
    return f"likeness {_short(found.strict.mean)}{_interval(found)}{_without_failures(found)}"


def _count(number: int, one: str, more: str = "") -> str:
    return f"{number} {one if number == 1 else more or one + 's'}"


def _short(value: float) -> str:
    return f"{value:.{DIGITS}g}"


def _interval(found: Summary) -> str:
    low, high = found.strict.low, found.strict.high
    return f" (95 % of people: {_short(low)} to {_short(high)})" if math.isfinite(low) else ""


def _without_failures(found: Summary) -> str:
    failures = found.total - found.macro.count
    if not failures:
        return ""
    if not found.macro.count:
        return ", as each picture without the person counts 0"
    return f", where {failures} without the person count 0; {_short(found.macro.mean)} where found"


def _of_person(mine: Sequence[Outcome]) -> str:
    seen = [one.value for one in mine if one.ok]
    mean = sum(seen) / len(mine)
    return f"likeness {_short(mean)}, found in {len(seen)} of {len(mine)}"


def _list_measures(comparison: Comparison) -> list[str]:
    lines = []
    for measure in SHOWN:
        found = summarise_measure(comparison, measure)
        if found is None:
            continue
        count = found.macro.count
        missing = "" if count == found.total else f", measured in {count} of {found.total}"
        value = _short(mean_of(comparison, measure)) if count else "not measured"
        lines.append(f"{MEASURES[measure]} {value}{_of_plain(comparison, measure)}{missing}")
    return lines


def _of_plain(comparison: Comparison, measure: str) -> str:
    """A change as a share of the plain pictures' own, where both could be measured.

    It says whether the identity holds the head still.
    """
    rows = [
        row
        for row in comparison.rows
        if measure in CHANGES
        and f"plain_{measure}" in row.values
        and row.values[measure].ok
        and row.values[f"plain_{measure}"].ok
    ]
    if not rows:
        return ""
    people = [row.person for row in rows]
    mine, base = (
        summarise([row.values[key] for row in rows], people).macro.mean
        for key in (measure, f"plain_{measure}")
    )
    share = share_of_base(mine, base)
    return f", {share:.0%} of the plain pictures' {_short(base)}" if math.isfinite(share) else ""


def draw_chart(comparison: Comparison) -> Tensor:
    """(1, h, w, 3): one panel for each measure, one bar for each picture and person.

    The plain pictures' values are thin lines over the bars. A failure is a red cross.
    """
    panels = []
    for measure in CHARTED:
        rows = [row for row in comparison.rows if measure in row.values]
        if not rows:
            continue
        plain = [_value(row, f"plain_{measure}") for row in rows]
        panels.append(
            Panel(
                MEASURES[measure],
                tuple(_value(row, measure) for row in rows),
                tuple(comparison.people.index(row.person) for row in rows),
                tuple(str(row.picture + 1) for row in rows),
                tuple(plain) if any(map(math.isfinite, plain)) else (),
            )
        )
    names = tuple(
        name if name.isascii() else f"person {number}"
        for number, name in enumerate(comparison.people, 1)
    )
    return draw_panels(panels, names, "plain picture")


def _value(row: Row, measure: str) -> float:
    return row.values[measure].value if measure in row.values else math.nan
