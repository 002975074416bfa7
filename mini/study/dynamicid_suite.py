"""What the suite of DynamicID says: its two tables, and the aims that they are held against.

Source of the claims: DynamicID (arXiv 2503.06505), table 1 and its table for several people.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ...model_patches.evaluate.statistics import Figure, formula_figure
from .dynamicid_couples import TABLE as COUPLE_TABLE
from .dynamicid_couples import Pair
from .dynamicid_rows import (
    COUPLE,
    COUPLE_IMR,
    COUPLE_PLAIN,
    COUPLE_SAA,
    PLAIN,
    PLAIN_UNSAID,
    SAA_IMR,
    SAA_UNSAID,
    SCENES,
    TWO,
)
from .figures import Claim, Measured, draws, summary
from .report import Study, as_claims, as_document, as_figure, format_figure
from .rows import Row

ONE_TABLE = {
    "similarity": "FaceSim",
    "expression": "Expr",
    "pose": "Pose",
    "style": "style",
    "edit": "all that is asked",
}
"""Of one person. The last two stand in for CLIP-T: there is no CLIP for these drawings."""

Mean = Callable[[str, str], np.ndarray]
"""(row key, metric) -> the mean over all people, then over each draw of them."""


def claims(one: Measured, two: Measured) -> list[Claim]:
    """The aims of the small world, by the independent judge."""
    plain, edited = PLAIN.key, SAA_IMR.key
    silent = PLAIN_UNSAID.key, SAA_UNSAID.key
    pair, moved, crossed = COUPLE_SAA.key, COUPLE_IMR.key, COUPLE_PLAIN.key

    def gain(metric: str) -> Figure | None:
        return _figure(one, lambda mean: mean(edited, metric) / mean(plain, metric))

    def doubled(metric: str) -> Figure | None:
        """A difference: with silent words plain attention may obey nothing."""
        return _figure(one, lambda mean: mean(silent[1], metric) - 2 * mean(silent[0], metric))

    def lost(before: str = plain, after: str = edited) -> Figure | None:
        return _figure(one, lambda mean: 1 - mean(after, "similarity") / mean(before, "similarity"))

    def changed(mean: Mean) -> np.ndarray:
        return mean(pair, "disruption") / mean(crossed, "disruption")

    def of_pairs(row: str, metric: str) -> Figure | None:
        return _figure(two, lambda mean: mean(row, metric))

    return [
        Claim("IMR multiplies the expressions of plain attention by", gain("expression"), 2, True),
        Claim("IMR multiplies the poses of plain attention by", gain("pose"), 2, True),
        Claim("SAA + IMR loses this share of plain attention's FaceSim",
              lost(), 0.10, False),
        Claim("silent words: expressions of SAA + IMR, less twice those of plain attention",
              doubled("expression"), 0, True),
        Claim("silent words: poses of SAA + IMR, less twice those of plain attention",
              doubled("pose"), 0, True),
        Claim("silent words: SAA + IMR loses this share of plain attention's FaceSim",
              lost(*silent), 0.10, False),
        Claim("two people, SAA: likeness to the other", of_pairs(pair, "other"), 0.15, False),
        Claim("two people, SAA + IMR: likeness to the other", of_pairs(moved, "other"), 0.15,
              False),
        Claim("two people, SAA + IMR: own expression", of_pairs(moved, "expression"), 0.70, True),
        Claim("two people: SAA changes this share of the background that plain attention changes",
              _figure(two, changed), 0.5, False),
    ]  # fmt: skip


def _figure(measured: Measured, formula: Callable[[Mean], np.ndarray]) -> Figure | None:
    """None where a row was not measured, or by another judge alone."""
    people = len(next(iter(next(iter(measured.values())).values())))
    try:
        return formula_figure(
            lambda mean: formula(lambda row, metric: mean(measured[row][metric])), draws(people)
        )
    except KeyError:
        return None


def to_json(study: Study, two: Measured, pairs: tuple[Pair, ...]) -> dict[str, Any]:
    """The study's document; its claims are the suite's, and `couples` holds the second table."""
    figures = summary(two)
    return {
        **as_document(study),
        "claims": as_claims(claims(study.measured, two)),
        "couples": {
            "pairs": {"first": pairs[0], "count": len(pairs)},
            "scenes": [[half.text for half in scene.halves] for scene in SCENES],
            "size": [study.settings.side, 2 * study.settings.side],
            "rows": {
                short_key(row): {
                    "title": row.title,
                    "figures": {m: as_figure(f) for m, f in figures[row.key].items()},
                }
                for row in TWO
            },
        },
    }


def short_key(row: Row) -> str:
    """Of a row of couples, as the document names it."""
    return row.key.removeprefix(COUPLE)


def tables(study: Study, two: Measured) -> list[str]:
    """Both tables in Markdown."""
    return [
        _table(ONE_TABLE, {row.title: study.figures[row.key] for row in study.rows}),
        _table(COUPLE_TABLE, {row.title: summary(two)[row.key] for row in TWO}),
    ]


def _table(columns: Mapping[str, str], rows: Mapping[str, Mapping[str, Figure | None]]) -> str:
    lines = [["", *columns.values()], ["---"] * (len(columns) + 1)]
    for title, figures in rows.items():
        lines.append([title, *(format_figure(m, figures.get(m)) for m in columns)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
