"""The figures for people to read: on the console, as CSV, as JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ...model_patches.evaluate.statistics import Figure
from .figures import SHARES, TABLE, Claim, Measured, claims, figure, summary
from .prompts import Prompt
from .rows import Row, Settings, as_json

Figures = Mapping[str, Mapping[str, Figure | None]]
"""Row key -> metric -> figure; None where nothing was measured."""


@dataclass(frozen=True)
class Study:
    """What was evaluated, and every measure."""

    rows: tuple[Row, ...]
    prompts: tuple[Prompt, ...]
    people: tuple[int, ...]
    split: str
    settings: Settings
    knobs: Mapping[str, float]
    weights: Mapping[str, str]
    """File of the small world -> SHA-256."""
    measured: Measured = field(default_factory=dict)

    @property
    def figures(self) -> Figures:
        return summary(self.measured)

    @property
    def claims(self) -> list[Claim]:
        return claims(self.measured)


def format_figure(metric: str, found: Figure | None) -> str:
    """A mean and half of its interval: "87 ±3 %", "0.62 ±0.03", "11.2 ±0.8°"."""
    if found is None or math.isnan(found.mean):
        return "-"
    half = (found.high - found.low) / 2
    if metric in SHARES:
        digits = 1 if metric == "disruption" else 0
        return f"{100 * found.mean:.{digits}f} ±{100 * half:.{digits}f} %"
    if metric.endswith("pose_error"):
        return f"{found.mean:.1f} ±{half:.1f}°"
    return f"{found.mean:.2f} ±{half:.2f}"


def table(study: Study) -> str:
    """Rows against metrics, with half of the 95 % interval, and the claims below."""
    figures = study.figures
    cells = [["", *TABLE.values()]]
    for row in study.rows:
        cells.append([row.title, *(format_figure(m, figures[row.key][m]) for m in TABLE)])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [_line(line, widths) for line in cells]
    lines.insert(1, "  ".join("-" * width for width in widths))
    people, prompts = len(study.people), len(study.prompts)
    head = f"{people} {study.split} people x {prompts} prompts, 95 % intervals over people"
    return "\n".join([head, "", *lines, "", *map(claim_line, study.claims)])


def _line(cells: Sequence[str], widths: Sequence[int]) -> str:
    first, *rest = (
        cell.ljust(width) if index == 0 else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    return "  ".join([first, *rest]).rstrip()


def claim_line(claim: Claim) -> str:
    """One aim and what was found, for example "yes  rigid VFA ...: 0.71 (0.69 to 0.73), ..."."""
    verdict = {True: "yes", False: "NO ", None: "-  "}[claim.holds]
    aim = f"aim {'at least' if claim.above else 'at most'} {claim.aim:.2f}"
    if claim.holds is None:
        return f"{verdict}  {claim.text}: not measured ({aim})"
    ends = f"{claim.found.low:.2f} to {claim.found.high:.2f}"
    return f"{verdict}  {claim.text}: {claim.found.mean:.2f} ({ends}), {aim}"


def as_csv(figures: Figures) -> str:
    """One line per row and metric."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["row", "metric", "mean", "low", "high", "pictures"])
    for row, metrics in figures.items():
        for metric, found in metrics.items():
            if found is not None:
                ends = (f"{value:.5f}" for value in (found.mean, found.low, found.high))
                writer.writerow([row, metric, *ends, found.count])
    return text.getvalue()


def as_run(study: Study) -> dict[str, Any]:
    """Who is painted, by what and how, as JSON values."""
    return {
        "split": study.split,
        "people": {"first": study.people[0], "count": len(study.people)},
        "settings": as_json(study.settings),
        "knobs": dict(study.knobs),
        "weights": dict(study.weights),
        "prompts": [asdict(prompt) for prompt in study.prompts],
    }


def as_document(study: Study) -> dict[str, Any]:
    """Everything as JSON values; per prompt the means only."""
    return {
        **as_run(study),
        "rows": {
            row.key: {
                "title": row.title,
                "figures": {m: as_figure(f) for m, f in study.figures[row.key].items()},
                "by prompt": _by_prompt(study, row),
            }
            for row in study.rows
        },
        "claims": as_claims(study.claims),
    }


def figures_of(document: Mapping[str, Any]) -> Figures:
    """Of a document by `as_document`."""
    return {
        key: {metric: found and Figure(**found) for metric, found in row["figures"].items()}
        for key, row in document["rows"].items()
    }


def as_claims(found: Sequence[Claim]) -> list[dict[str, Any]]:
    """Aims as JSON values."""
    return [
        {
            "claim": claim.text,
            "aim": claim.aim,
            "at least": claim.above,
            "found": as_figure(claim.found),
            "holds": claim.holds,
        }
        for claim in found
    ]


def to_json(study: Study) -> str:
    return json.dumps(as_document(study), indent=1, ensure_ascii=False) + "\n"


def _by_prompt(study: Study, row: Row) -> dict[str, dict[str, float]]:
    found: dict[str, dict[str, float]] = {}
    for index, prompt in enumerate(study.prompts):
        columns = {m: v[:, index : index + 1] for m, v in study.measured[row.key].items()}
        figures = {metric: figure(values) for metric, values in columns.items()}
        found[prompt.id] = {m: round(f.mean, 4) for m, f in figures.items() if f is not None}
    return found


def as_figure(found: Figure | None) -> dict[str, float] | None:
    """Without what JSON does not know: NaN, and the quotient of a mean and 0."""
    if found is None or not math.isfinite(found.mean):
        return None
    return {k: round(v, 5) for k, v in asdict(found).items() if math.isfinite(v)}
