"""The figures of the suite editid as a table for people. It is made of the suite's document alone,
so that a page which quotes it can be held against the file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...model_patches.evaluate.statistics import Figure
from .figures import TRAINED
from .report import format_figure

HEAD = (
    "", "FaceSim", "edit obeyed", "edits gained", "FaceSim gained", "FaceSim, training's judge",
    "edit obeyed, training's judge", "edits gained, training's judge",
    "FaceSim gained, training's judge",
)  # fmt: skip
GAINS = {"edits": 100.0, "similarity": 1.0}
"""Name -> what a gain is multiplied by to be shown: edits in points."""


def as_markdown(document: Mapping[str, Any]) -> str:
    """A line for each row: the line of constant weights first, then what is held against it. Bold:
    a gain that meets the aim."""
    beaten = document["beats_line"]
    keys = [point["row"] for point in document["line"]] + list(beaten)
    lines = [HEAD, ("---",) * len(HEAD)]
    for key in keys:
        told = document["rows"][key]
        cells = [told["title"]]
        for prefix in ("", TRAINED):
            cells += [_measure(told["figures"], prefix + one) for one in ("similarity", "edit")]
            cells += [_gain(beaten.get(key), document["aim"], prefix, one) for one in GAINS]
        lines.append(tuple(cells))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _measure(figures: Mapping[str, Any], metric: str) -> str:
    found = figures[metric]
    return format_figure(metric, found and Figure(**found))


def _gain(beaten: Mapping[str, Any] | None, aim: float, prefix: str, name: str) -> str:
    """ "+3 (1 to 5)", "-0.02 (-0.04 to 0.01)"; "" for the line's own rows, "-" beyond its end."""
    if beaten is None:
        return ""
    found = beaten[prefix + name]
    if found is None:
        return "-"
    digits = 0 if name == "edits" else 2
    mean, low, high = (GAINS[name] * found[end] for end in ("mean", "low", "high"))
    text = f"{mean:+.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
    return f"**{text}**" if found["mean"] >= aim and found["low"] > 0 else text
