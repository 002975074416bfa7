"""The result as one page: the table, the trade-off, what papers published, and the pictures."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from ..model_patches.evaluate.modes import COMPAT
from ..model_patches.evaluate.statistics import Figure
from .anchors import NOTE, Anchor
from .columns import Column
from .measure import Measured
from .plot import IBENCH, draw_plot
from .table import Result

MOST_PEOPLE, MOST_PROMPTS = 8, 6
"""On the page; the table of all pictures has every one."""
STYLE = """
:root { color-scheme: light dark; --faint: #6b6b6b; }
@media (prefers-color-scheme: dark) { :root { --faint: #a3a3a3; } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 82rem; padding: 0 1rem; }
h1 { font-size: 1.6rem; } h2 { margin-top: 2.2rem; font-size: 1.2rem; }
h1, p, li { overflow-wrap: anywhere; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .7rem; text-align: right; white-space: nowrap; }
th { vertical-align: bottom; border-bottom: 1px solid #888; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.wide th:first-child, .wide td:first-child { position: sticky; left: 0; background: Canvas; }
th small, td small { display: block; color: var(--faint); font-weight: normal; }
tr.theirs td { color: var(--faint); font-style: italic; }
.pictures td { text-align: center; vertical-align: top; white-space: normal; font-size: 12px; }
.pictures td:first-child { vertical-align: middle; }
.pictures th { max-width: 12rem; white-space: normal; text-align: center; font-size: 12px; }
.pictures img { width: 160px; height: auto; aspect-ratio: auto 1; display: block; margin: auto; }
.pictures img { border: 3px solid transparent; }
.pictures img.failed { border-color: #c81e1e; }
svg { width: 100%; min-width: 620px; max-width: 860px; height: auto; }
@media (max-width: 40rem) { .pictures img { width: 96px; } th, td { padding: .3rem .4rem; } }
"""


def write_page(result: Result, folder: Path, photos: dict[str, Path]) -> str:
    """HTML. folder: where it will lie; pictures are linked from there. photos: person -> photo."""
    plot = draw_plot(result)
    parts = [
        f"<h1>IBench: {escape(result.source)}</h1>",
        f"<p>{_introduce(result)}</p>",
        _make_table(result),
        f'<h2>Trade-off</h2><div class="wide">{plot}</div>' if plot else "",
        _list_left_out(result),
        _list("Notes", result.notes),
        _make_settings(result),
        _make_published(result.anchors),
        _make_pictures(result, folder, photos),
    ]
    body = "\n".join(part for part in parts if part)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>IBench: {escape(result.source)}</title><style>{STYLE}</style></head>\n"
        f"<body>\n{body}\n</body></html>\n"
    )


def _introduce(result: Result) -> str:
    prompts = len({one.prompt for one in result.measured})
    how = (
        "compat: IBench's arithmetic with its quirks; flat means, pictures without a face are left "
        "out"
        if result.mode == COMPAT
        else "means over people with 95 % intervals over people; a picture without the person "
        "counts 0 in the likeness of the face and in what the prompt asks for"
    )
    return escape(
        f"{result.people} people, {prompts} prompts, {len(result.rows)} rows, "
        f"{len(result.measured)} pictures. {how[0].upper()}{how[1:]}. Measured with "
        f"{', '.join(result.judges) or 'nothing'}."
    )


def _make_table(result: Result) -> str:
    columns = result.columns()
    head = "".join(f"<th>{escape(one.title)}<small>{_direct(one)}</small></th>" for one in columns)
    lines = [f"<tr><th></th>{head}</tr>"]
    for row in result.rows:
        cells = "".join(f"<td>{_show(result, row.key, one)}</td>" for one in columns)
        lines.append(f"<tr><td>{escape(row.title)}{_count(result, row.key)}</td>{cells}</tr>")
    lines += _line_up_published(result, columns)
    table = f'<h2>Figures</h2><div class="wide"><table>{"".join(lines)}</table></div>'
    if not result.ranked:
        return table
    names = ", ".join(one.title for one in result.ranked)
    return f"{table}<p>Mean rank, 1 is best: of the rows with a person, over {escape(names)}.</p>"


def _direct(column: Column) -> str:
    word = {"higher": "higher is better", "lower": "lower is better"}.get(column.better, "")
    return escape(" ".join(filter(None, [word, f"({column.theirs})" if column.theirs else ""])))


def _count(result: Result, row: str) -> str:
    found = result.summary(row, "likeness")
    if found is None:
        return ""
    return f"<small>face found in {found.macro.count} of {found.total}</small>"


def _show(result: Result, row: str, column: Column) -> str:
    figure = result.shown(row, column)
    return "" if figure is None else format_figure(figure, column.unit)


def format_figure(figure: Figure, unit: str = "") -> str:
    """ "0.712 <small>0.690 to 0.731</small>"; what could not be measured is a dash, never 0."""
    if not math.isfinite(figure.mean):
        return "–"
    text = f"{_digits(figure.mean)}{unit}"
    if not math.isfinite(figure.low):
        return text
    return f"{text}<small>{_digits(figure.low)} to {_digits(figure.high)}</small>"


def _digits(value: float) -> str:
    return f"{value:.1f}" if abs(value) >= 10 else f"{value:.3f}"


def _line_up_published(result: Result, columns: Sequence[Column]) -> list[str]:
    """IBench's published rows in the columns that mean the same."""
    lines = []
    for anchor in result.anchors:
        names = [one.theirs for one in columns]
        if IBENCH not in anchor.data or not set(names) & set(anchor.columns):
            continue
        for method, values in anchor.methods.items():
            own = dict(zip(anchor.columns, values, strict=True))
            cells = "".join(f"<td>{_tell_published(own.get(name))}</td>" for name in names)
            source = f"<small>published, {anchor.paper}</small>"
            lines.append(f'<tr class="theirs"><td>{escape(method)}{source}</td>{cells}</tr>')
    return lines


def _tell_published(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _list_left_out(result: Result) -> str:
    return _list("Left out", [f"{what}: {why}" for what, why in result.left_out.items()])


def _list(title: str, lines: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<h2>{title}</h2><ul>{items}</ul>" if lines else ""


def _make_settings(result: Result) -> str:
    """Rows that were painted alike share a line."""
    alike: dict[tuple[str, str], list[str]] = {}
    for key, made in result.settings.items():
        told = ", ".join(f"{name} {value}" for name, value in made.items())
        alike.setdefault((told, ", ".join(result.files.get(key, {}))), []).append(key)
    lines = [f"{', '.join(keys)}: {told}; {files}" for (told, files), keys in alike.items()]
    return _list("How the rows were painted", lines)


def _make_published(anchors: Sequence[Anchor]) -> str:
    parts = [f"<h2>Published figures</h2><p>{escape(NOTE)}</p>"]
    for anchor in anchors:
        head = "".join(f"<th>{escape(one)}</th>" for one in anchor.columns)
        lines = [f"<tr><th>{escape(f'{anchor.paper}, {anchor.table}')}</th>{head}</tr>"]
        for method, values in anchor.methods.items():
            cells = "".join(f"<td>{'–' if v is None else f'{v:.6g}'}</td>" for v in values)
            lines.append(f'<tr class="theirs"><td>{escape(method)}</td>{cells}</tr>')
        table = f'<div class="wide"><table>{"".join(lines)}</table></div>'
        parts.append(f"<p>{escape(anchor.data)}</p>{table}")
    return "\n".join(parts) if anchors else ""


def _make_pictures(result: Result, folder: Path, photos: dict[str, Path]) -> str:
    people = list(dict.fromkeys(one.person for one in result.measured))
    parts = [f"<h2>Pictures</h2><p>{escape(_say_shown(result, people))}</p>"]
    for person in people[:MOST_PEOPLE]:
        parts.append(f"<h3>{escape(person)}</h3>{_make_sheet(result, folder, person, photos)}")
    return "\n".join(parts)


def _say_shown(result: Result, people: Sequence[str]) -> str:
    frame = "A red frame: nobody was found."
    if len(people) <= MOST_PEOPLE and len({one.prompt for one in result.measured}) <= MOST_PROMPTS:
        return frame
    return (
        f"{frame} {min(MOST_PEOPLE, len(people))} of {len(people)} people with at most "
        f"{MOST_PROMPTS} prompts each; table.csv names all pictures."
    )


def _make_sheet(result: Result, folder: Path, person: str, photos: dict[str, Path]) -> str:
    """A person's pictures: rows down, prompts across."""
    mine = [one for one in result.measured if one.person == person]
    asked = list(dict.fromkeys(one.asked for one in mine))[:MOST_PROMPTS]
    photo = f'<img src="{_link(photos[person], folder)}" alt="photo">' if person in photos else ""
    head = "".join(f"<th>{escape(prompt)}</th>" for prompt, _ in asked)
    lines = [f"<tr><th>{photo}</th>{head}</tr>"]
    for row in result.rows:
        found = {one.asked: one for one in mine if one.row == row.key}
        if found:
            cells = "".join(_make_cell(found.get(each), folder) for each in asked)
            lines.append(f"<tr><td>{escape(row.title)}</td>{cells}</tr>")
    return f'<div class="wide"><table class="pictures">{"".join(lines)}</table></div>'


def _make_cell(one: Measured | None, folder: Path) -> str:
    if one is None:
        return "<td></td>"
    likeness = one.values["likeness"]
    caption = f"likeness {likeness.value:.2f}" if likeness.ok else "no face"
    mark = "" if likeness.ok else ' class="failed"'
    source = _link(one.picture, folder)
    return (
        f'<td><a href="{source}"><img{mark} loading="lazy" src="{source}" alt=""></a>{caption}</td>'
    )


def _link(path: Path, folder: Path) -> str:
    """Relative where both are on one disk, so that the folder can be moved."""
    try:
        return quote(Path(os.path.relpath(path, folder)).as_posix())
    except ValueError:  # other drives of Windows
        return path.resolve().as_uri()
