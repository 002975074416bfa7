"""Identity kept against edit obeyed: one point per row, rigid weights joined by a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ...model_patches.evaluate.statistics import Figure
from .figures import TRAINED
from .report import Study
from .rows import Row

INK, FAINT, PAPER = "#22252b", "#9aa0aa", "#fbfaf7"
COLOURS = {
    "none": "#8a9099", "rigid": "#c8553d", "gated": "#2f6f9f", "editid": "#7a5ea8",
    "guided": "#c2549b", "flexip": "#1f8a5b", "plain": "#b58a2b",
}  # fmt: skip
WHOLE, SIP = "#1f8a5b", "#b58a2b"
PLACES = (
    ((-9, -15), "right"), ((9, 8), "left"), ((9, -15), "left"), ((-9, 8), "right"),
    ((9, 22), "left"), ((9, -29), "left"), ((-9, -29), "right"), ((-9, 22), "right"),
)  # fmt: skip
"""Where a title may stand: offset from its point, and the side of the title that is there."""
Point = tuple[Row, Figure, Figure]
NAMES = {"similarity": "identity kept: FaceSim to the reference photo", "edit": "edit obeyed, %"}


def plot(study: Study, path: Path) -> None:
    """Write the picture as PNG: full points by the independent judge, hollow ones by training's.

    Without the independent judge training's points are the full ones; without estimators, whose
    edit is unknown, faces found stand in. Raises ModuleNotFoundError without matplotlib, which
    facexlib brings along.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Sheet

    points, across = _points_of(study, "")
    others, _ = _points_of(study, TRAINED)
    if not points:
        points, across = _points_of(study, TRAINED)
        others = []
    sheet = Sheet(figsize=(8.4, 6.0), dpi=160, facecolor=PAPER)
    axes = sheet.add_axes((0.095, 0.115, 0.87, 0.755), facecolor=PAPER)
    _line(axes, others, "--")
    for row, x, y in others:
        axes.scatter(100 * x.mean, y.mean, s=34, color=PAPER, edgecolor=colour(row), zorder=3)
    _line(axes, points)
    for row, x, y in points:
        _point(axes, row, x, y)
    _frame(axes, NAMES.get(across, "face found, %"))
    _words(sheet, study, bool(others))
    canvas = FigureCanvasAgg(sheet)
    label(axes, points, canvas.get_renderer())
    canvas.print_png(str(path))


def _points_of(study: Study, prefix: str) -> tuple[list[Point], str]:
    """Row, place across and up by one judge; and what is shown across, without its prefix."""
    figures = study.figures
    known = any(figures[row.key][f"{prefix}edit"] for row in study.rows)
    across = f"{prefix}edit" if known else "detected"
    points = [
        (row, figures[row.key][across], figures[row.key][f"{prefix}similarity"])
        for row in study.rows
    ]
    shown = [point for point in points if point[1] and point[2]]
    return shown, across.removeprefix(prefix)


def colour(row: Row) -> str:
    if row.sip:
        return WHOLE if row.anchor == "gated" else SIP
    return COLOURS[row.anchor]


def _line(axes: Any, points: list[Point], style: str = "-") -> None:
    rigid = sorted((p for p in points if p[0].anchor == "rigid"), key=lambda p: p[0].weight)
    xs, ys = [100 * x.mean for _, x, _ in rigid], [y.mean for _, _, y in rigid]
    axes.plot(xs, ys, style, color=COLOURS["rigid"], lw=1.4, alpha=0.55, zorder=2)


def _point(axes: Any, row: Row, x: Figure, y: Figure) -> None:
    shade, place = colour(row), (100 * x.mean, y.mean)
    spread = [[100 * (x.mean - x.low)], [100 * (x.high - x.mean)]]
    height = [[y.mean - y.low], [y.high - y.mean]]
    axes.errorbar(*place, xerr=spread, yerr=height, color=shade, lw=1.1, alpha=0.6, zorder=3)
    size = 130 if _is_whole(row) else 70
    axes.scatter(*place, s=size, color=shade, edgecolor=PAPER, linewidth=1.4, zorder=4)


def _is_whole(row: Row) -> bool:
    return row.anchor == "gated" and row.sip


def label(axes: Any, points: list[Point], renderer: Any) -> None:
    """A title beside each point, in the first of PLACES where it hides no other title or point."""
    from matplotlib.transforms import Bbox

    spots = [axes.transData.transform((100 * x.mean, y.mean)) for _, x, y in points]
    taken = [Bbox.from_bounds(left - 8, low - 8, 16, 16) for left, low in spots]
    for row, x, y in points:
        title = axes.annotate(
            row.title, (100 * x.mean, y.mean), (0, 0), textcoords="offset points",
            color=colour(row), fontsize=9.5, zorder=5,
            fontweight="bold" if _is_whole(row) else "normal",
        )  # fmt: skip
        for offset, side in PLACES:
            title.set(position=offset, ha=side)
            box = title.get_window_extent(renderer)
            if not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)


def _frame(axes: Any, across: str) -> None:
    axes.grid(color="#e4e1da", lw=0.8, zorder=0)
    axes.margins(x=0.16, y=0.14)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        axes.spines[side].set_color(FAINT)
    axes.tick_params(colors=INK, labelsize=9, length=3, color=FAINT)
    axes.set_xlabel(f"{across}  →", color=INK, fontsize=10.5, loc="right")
    axes.set_ylabel(f"{NAMES['similarity']}  →", color=INK, fontsize=10.5, loc="top")


def _words(sheet: Any, study: Study, both: bool) -> None:
    people, prompts = len(study.people), len(study.prompts)
    hollow = "; hollow: by the networks of the training" if both else ""
    sheet.text(0.095, 0.945, "Who it is, and what was asked", fontsize=15, color=INK, weight="bold")
    sheet.text(
        0.095, 0.905,
        f"{people} {study.split} people × {prompts} prompts in FlexID's small world; bars: 95 % "
        f"intervals over people; the upper right is best{hollow}",
        fontsize=8.8, color="#5b616b",
    )  # fmt: skip
