"""The line of constant weights and everything that is held against it, by both judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .editid_suite import MEASURES, MERGES
from .figures import TRAINED
from .report import Figures, figures_of
from .rows import Row, row_of
from .suite import INK, PAPER, clear_panel

CONSTANT = "#c8553d"
KINDS = {
    "EditID preset": ("#7a5ea8", "o"),
    "query control": ("#2f6f9f", "s"),
    "feature mix": ("#1f8a5b", "D"),
    "guidance": ("#c2549b", "^"),
    "FlexIP": ("#e0913a", "*"),
    "merge": ("#6b717b", "P"),
    "ablation": ("#b58a2b", "v"),
    "other": ("#22252b", "X"),
}
"""Kind of a row -> colour and mark."""
ANCHORS = {
    "editid": "EditID preset", "queried": "query control", "mixed": "feature mix",
    "guided": "guidance", "id_cfg": "guidance", "flexip": "FlexIP",
}  # fmt: skip
JUDGES = {"": "the independent judge", TRAINED: "training's judge, which guidance has seen"}
SIZE = (13.2, 6.4)
MARGIN = 0.05
"""FaceSim below the lowest point that is shown."""


def kind_of(row: Row) -> str:
    if row.anchor == "adapter":
        return "merge" if row.adapter in MERGES else "ablation"
    return ANCHORS.get(row.anchor, "other")


def plot(document: Mapping[str, Any], path: Path) -> None:
    """Write a document by editid_suite.to_json as PNG. Each row has a number, which a
    list beside the panels names.

    Raises ModuleNotFoundError without matplotlib, which facexlib brings along.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Sheet

    sheet = Sheet(figsize=SIZE, dpi=140, facecolor=PAPER, layout="constrained")
    *panels, names = sheet.subplots(1, 3, width_ratios=(1, 1, 0.62))
    figures, rows = figures_of(document), [row_of(key) for key in document["beats_line"]]
    points = [row_of(point["row"]) for point in document["line"]]
    for panel, (prefix, judge) in zip(panels, JUDGES.items(), strict=True):
        _line(panel, figures, points, prefix)
        for number, row in enumerate(rows, 1):
            _point(panel, figures[row.key], prefix, number, row)
        panel.set_ylim(bottom=_lowest(figures, (*points[1:], *rows), prefix) - MARGIN)
        clear_panel(panel, "share of the edits obeyed", "FaceSim to the reference photo")
        panel.set_title(f"By {judge}", color=INK, fontsize=10, loc="left")
    _list(names, rows)
    people, prompts = document["people"]["count"], len(document["prompts"])
    sheet.suptitle(
        f"Against the line of constant weights: {people} {document['split']} people x "
        f"{prompts} prompts, bars: 95 % intervals over people; the upper right is best",
        x=0.01, ha="left", color=INK, fontsize=11,
    )  # fmt: skip
    FigureCanvasAgg(sheet).print_png(str(path))


def _lowest(figures: Figures, shown: Sequence[Row], prefix: str) -> float:
    """FaceSim of the lowest point. The prompt alone is not among them, since it keeps nothing of
    the person: the line comes from there."""
    return min(figures[row.key][f"{prefix}similarity"].low for row in shown)


def _line(panel: Any, figures: Figures, points: Sequence[Row], prefix: str) -> None:
    kept, obeyed = ([figures[row.key][prefix + one] for row in points] for one in MEASURES)
    xs, ys = ([one.mean for one in some] for some in (obeyed, kept))
    panel.plot(xs, ys, "o-", ms=4, color=CONSTANT, lw=1.4)
    for row, x, y in list(zip(points, xs, ys, strict=True))[1:]:
        panel.annotate(
            f"{row.weight:g}", (x, y), (-5, -9), textcoords="offset points", fontsize=7,
            color=CONSTANT, ha="right",
        )  # fmt: skip


def _point(panel: Any, measured: Any, prefix: str, number: int, row: Row) -> None:
    y, x = (measured[prefix + one] for one in MEASURES)
    shade, mark = KINDS[kind_of(row)]
    spread = [[x.mean - x.low], [x.high - x.mean]]
    height = [[y.mean - y.low], [y.high - y.mean]]
    panel.errorbar(x.mean, y.mean, xerr=spread, yerr=height, color=shade, lw=0.8, alpha=0.35)
    panel.plot([x.mean], [y.mean], mark, ms=6, color=shade, mec=PAPER, mew=0.8, zorder=3)
    panel.annotate(
        str(number), (x.mean, y.mean), (5, 4), textcoords="offset points", fontsize=7, color=shade
    )


def _list(panel: Any, rows: Sequence[Row]) -> None:
    panel.axis("off")
    step = 1 / (len(rows) + 2)
    panel.text(0, 1 - step / 2, "line: rigid VFA, its weight beside it", fontsize=8, color=CONSTANT)
    for number, row in enumerate(rows, 1):
        shade, mark = KINDS[kind_of(row)]
        y = 1 - step * (number + 0.5)
        panel.plot([0.02], [y], mark, ms=5, color=shade)
        panel.text(0.07, y, f"{number}  {row.title}", fontsize=8, color=INK, va="center")
    panel.set_xlim(0, 1)
    panel.set_ylim(0, 1)
