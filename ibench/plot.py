"""The trade-off as a picture: the person kept, against what the prompt gets. SVG, no libraries."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from ..model_patches.evaluate.charts import nice_ticks
from ..model_patches.evaluate.outcomes import share_of_base
from ..model_patches.evaluate.ranks import pareto_front
from ..model_patches.evaluate.statistics import Figure
from .columns import COLUMNS, Column
from .rows import RIGID, Row
from .table import Result

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 860, 600, 84, 36, 86, 62
INK, FAINT, PAPER = "#22252b", "#8a9099", "#fbfaf7"
PLAIN, FIXED, FLEXID, PRESET, OTHER = "#8a9099", "#c8553d", "#1f8a5b", "#7a5ea8", "#2f6f9f"
LETTER = 6.6
"""Pixels that a letter of a label takes about."""
CHANGES = ("pose", "landmarks", "expression")
IBENCH = "IBench"
Place = Callable[[float, float], tuple[float, float]]
"""Values -> pixels."""
Spot = tuple[float, float, float, float]
"""x0, y0, x1, y1 of what is drawn already."""


@dataclass(frozen=True)
class Point:
    """One row, or one method of a paper."""

    title: str
    x: Figure
    y: Figure
    colour: str
    weight: float | None = None
    """Of rigid VFA: these are joined by a line."""
    published: bool = False


def find_points(result: Result) -> tuple[list[Point], str]:
    """Points, and what is shown across: prompt alignment, else the freedom of pose and expression.

    Published methods are among them where both of their figures are of the same kinds.
    """
    aligned = _column("prompt")
    by_prompt = any(result.shown(row.key, aligned) for row in result.rows)
    points = []
    for row in result.rows:
        x = result.shown(row.key, aligned) if by_prompt else measure_freedom(result, row)
        y = result.shown(row.key, _column("likeness"))
        if x is not None and y is not None and math.isfinite(x.mean + y.mean):
            points.append(Point(row.title, x, y, _colour(row.key), _weight(row.key)))
    if not by_prompt:
        return points, "freedom: change against the photo, as a share of the plain model's, %"
    return points + _list_published(result), "prompt obeyed: CLIP's cosine of picture and prompt"


def _list_published(result: Result) -> list[Point]:
    found = []
    for anchor in result.anchors:
        if IBENCH not in anchor.data or {"ClipT", "FaceSim"} - set(anchor.columns):
            continue
        for method, values in anchor.methods.items():
            x, y = (values[anchor.columns.index(name)] for name in ("ClipT", "FaceSim"))
            if x is not None and y is not None:
                title = f"{method}, {anchor.paper}"
                found.append(Point(title, _exact(x), _exact(y), FAINT, published=True))
    return found


def _exact(value: float) -> Figure:
    return Figure(value, math.nan, math.nan, 0)


def _column(key: str) -> Column:
    return next(one for one in COLUMNS if one.key == key)


def measure_freedom(result: Result, row: Row) -> Figure | None:
    """Mean share, in percent, of the plain model's own changes: 100 edits as freely as it does.

    The plain model itself is 100. None where nothing can be compared with it.
    """
    if row.alone:
        return _exact(100.0)
    shares = []
    for name in CHANGES:
        both = [
            (one.values[name].value, one.values[f"plain_{name}"].value)
            for one in result.of_row(row.key)
            if name in one.values
            and f"plain_{name}" in one.values
            and one.values[name].ok
            and one.values[f"plain_{name}"].ok
        ]
        if both:
            mine, base = (sum(values) / len(both) for values in zip(*both, strict=True))
            shares.append(share_of_base(mine, base))
    shares = [100 * one for one in shares if math.isfinite(one)]
    return _exact(sum(shares) / len(shares)) if shares else None


def _weight(key: str) -> float | None:
    found = RIGID.fullmatch(key)
    return float(found[1]) if found else None


def _colour(key: str) -> str:
    if key == "alone":
        return PLAIN
    if RIGID.fullmatch(key):
        return FIXED
    if key.startswith("flexid"):
        return FLEXID
    return PRESET if key.startswith("editid-") else OTHER


def draw_plot(result: Result) -> str | None:
    """An SVG; None where fewer than two points can be placed."""
    points, across = find_points(result)
    if sum(not one.published for one in points) < 2:
        return None
    spans = _span([one.x for one in points]), _span([one.y for one in points])

    def place(x: float, y: float) -> tuple[float, float]:
        (x0, x1), (y0, y1) = spans
        return (
            LEFT + (x - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT),
            HEIGHT - BOTTOM - (y - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM),
        )

    own = {one.title: (one.x.mean, one.y.mean) for one in points if not one.published}
    best = set(pareto_front(own))
    parts = [*_frame(spans, across, place), *_words(result, points), *_line(points, place)]
    taken = [_spot(*place(one.x.mean, one.y.mean)) for one in points]
    for point in points:
        parts += _mark(point, place, point.title in best and not point.published)
    for point in points:
        parts.append(_label(point, place, taken))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
    head += 'font-family="system-ui, sans-serif" font-size="12">'
    back = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{PAPER}"/>'
    return "\n".join([head, back, *parts, "</svg>"]) + "\n"


def _span(figures: Sequence[Figure]) -> tuple[float, float]:
    ends = [v for one in figures for v in (one.mean, one.low, one.high) if math.isfinite(v)]
    low, high = min(ends), max(ends)
    air = 0.12 * (high - low) or 0.1 * abs(high) or 1.0
    return low - air, high + air


def _frame(spans: Sequence[tuple[float, float]], across: str, place: Place) -> list[str]:
    (x0, x1), (y0, y1) = spans
    parts = []
    for tick in nice_ticks(x0, x1, 6):
        x, bottom = place(tick, y0)
        parts += [_rule(x, TOP, x, bottom), _text(x, bottom + 18, f"{tick:g}", "middle")]
    for tick in nice_ticks(y0, y1, 6):
        left, y = place(x0, tick)
        parts += [_rule(left, y, WIDTH - RIGHT, y), _text(left - 8, y + 4, f"{tick:g}", "end")]
    kept = "person kept: likeness to the photo"
    parts.append(_text(WIDTH - RIGHT, HEIGHT - 18, f"{across} →", "end", 13))
    parts.append(_text(LEFT, TOP - 12, f"↑ {kept}", "start", 13))
    return parts


def _words(result: Result, points: Sequence[Point]) -> list[str]:
    title = f"{result.people} people of {result.source}"
    hollow = "; hollow: published by the papers, on their own data" if any(
        one.published for one in points
    ) else ""  # fmt: skip
    note = f"bars: 95 % of people; ringed: nothing here beats it in both{hollow}"
    return [_text(LEFT, 30, title, "start", 17), _text(LEFT, 52, note, "start", 12, FAINT)]


def _line(points: Sequence[Point], place: Place) -> list[str]:
    fixed = sorted((p for p in points if p.weight is not None), key=lambda p: p.weight)
    if len(fixed) < 2:
        return []
    spots = " ".join("{:.1f},{:.1f}".format(*place(p.x.mean, p.y.mean)) for p in fixed)
    return [f'<polyline points="{spots}" fill="none" stroke="{FIXED}" opacity="0.55"/>']


def _mark(point: Point, place: Place, best: bool) -> list[str]:
    x, y = place(point.x.mean, point.y.mean)
    fill = PAPER if point.published else point.colour
    parts = []
    for low, high, ends in (
        (point.x.low, point.x.high, lambda v: place(v, point.y.mean)),
        (point.y.low, point.y.high, lambda v: place(point.x.mean, v)),
    ):
        if math.isfinite(low + high):
            (ax, ay), (bx, by) = ends(low), ends(high)
            parts.append(_rule(ax, ay, bx, by, point.colour))
    if best:
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="11" fill="none" stroke="{INK}"/>')
    parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{fill}" stroke="{point.colour}"/>')
    return parts


def _label(point: Point, place: Place, taken: list[Spot]) -> str:
    """Beside its point, where it hides no other one; at worst to the right."""
    x, y = place(point.x.mean, point.y.mean)
    room = LETTER * len(point.title)
    choices = [
        (x + 14, y + dy, "start") if side > 0 else (x - 14, y + dy, "end")
        for dy in (4, -12, 20, -26, 34, -40, 48)
        for side in (1, -1)
    ]

    def box(choice: tuple[float, float, str]) -> Spot:
        left = choice[0] if choice[2] == "start" else choice[0] - room
        return left, choice[1] - 11, left + room, choice[1] + 3

    free = (one for one in choices if _is_free(box(one), taken))
    chosen = next(free, choices[0])
    taken.append(box(chosen))
    return _text(*chosen[:2], point.title, chosen[2], 12, point.colour)


def _is_free(box: Spot, taken: Sequence[Spot]) -> bool:
    x0, y0, x1, y1 = box
    inside = x0 >= 4 and x1 <= WIDTH - 4 and y0 >= TOP and y1 <= HEIGHT - BOTTOM
    return inside and not any(
        x0 < other[2] and other[0] < x1 and y0 < other[3] and other[1] < y1 for other in taken
    )


def _spot(x: float, y: float) -> Spot:
    return x - 9, y - 9, x + 9, y + 9


def _rule(x0: float, y0: float, x1: float, y1: float, colour: str = "#e4e1da") -> str:
    ends = f'x1="{x0:.1f}" y1="{y0:.1f}" x2="{x1:.1f}" y2="{y1:.1f}"'
    return f'<line {ends} stroke="{colour}"/>'


def _text(
    x: float, y: float, text: str, anchor: str = "start", size: int = 12, colour: str = INK
) -> str:
    where = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}" fill="{colour}"'
    return f"<text {where}>{escape(text)}</text>"
