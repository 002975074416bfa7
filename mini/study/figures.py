"""Means with confidence intervals, and the claims that they are held against.

The twelve pictures of one person are not independent, so whole people are drawn again: a
percentile bootstrap over people, the same draws for every row, so that differences are paired.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ...model_patches.evaluate.statistics import (
    Figure,
    Values,
    draw_people,
    flat_figure,
    formula_figure,
)
from .rows import ALONE, WHOLE, rigid_row

DRAWS, SEED = 2000, 0

TRAINED = "trained_"
"""Before a metric's key: by the networks that adapter and projector were trained against."""
TABLE = {
    "similarity": "FaceSim",
    "trained_similarity": "FaceSim, trained against",
    "detected": "face found",
    "expression": "expression",
    "pose": "pose",
    "pose_error": "pose error",
    "style": "style",
    "edit": "edit obeyed",
    "trained_edit": "edit obeyed, training's judge",
    "disruption": "disruption",
}
"""Key -> title of what a table shows. FaceSim counts a picture without a face as 0; pose error in
degrees, over pictures with a face; edit obeyed: all that the prompt asks; disruption: outside of
the face, against the same seed without a person. Without `trained_` the independent judge says it.
"""
METRICS = TABLE | {
    f"{TRAINED}{name}": f"{TABLE[name]}, training's judge"
    for name in ("expression", "pose", "pose_error", "style")
}
"""All that is measured; files hold all of it."""
_RATES = ("expression", "pose", "style", "edit")
SHARES = ("detected", "disruption", *_RATES, *(TRAINED + name for name in _RATES))
"""Shown as percentages."""


def draws(people: int) -> np.ndarray:
    """(DRAWS, people) how often each person is in each draw."""
    return draw_people(people, DRAWS, SEED)


def figure(values: Values, weights: np.ndarray | None = None) -> Figure | None:
    """None when the metric says nothing about any picture."""
    return flat_figure(values, draws(len(values)) if weights is None else weights)


Measured = Mapping[str, Mapping[str, Values]]
"""Row key -> metric -> values."""


def summary(measured: Measured) -> dict[str, dict[str, Figure | None]]:
    """Row key -> metric -> figure."""
    people = len(next(iter(next(iter(measured.values())).values())))
    weights = draws(people)
    return {
        row: {metric: figure(values, weights) for metric, values in metrics.items()}
        for row, metrics in measured.items()
    }


@dataclass(frozen=True)
class Claim:
    """What the pack's paper says or this world aims at, and what was found."""

    text: str
    found: Figure | None
    """None when a row or the independent judge is missing."""
    aim: float
    above: bool
    """Whether the aim is a lower bound."""

    @property
    def holds(self) -> bool | None:
        if self.found is None or np.isnan(self.found.mean):
            return None
        return self.found.mean >= self.aim if self.above else self.found.mean <= self.aim


def claims(measured: Measured) -> list[Claim]:
    """The aims of the small world, in the order of their story, by the independent judge."""
    alone, fixed, whole = ALONE.key, rigid_row(1.0).key, WHOLE.key
    weights = draws(len(next(iter(next(iter(measured.values())).values()))))

    def ratio(formula: Callable[[Callable], np.ndarray]) -> Figure | None:
        try:
            return formula_figure(
                lambda mean: formula(lambda row, metric: mean(measured[row][metric])), weights
            )
        except KeyError:  # a row was not asked for
            return None

    def edit(row: str) -> Callable[[Callable], np.ndarray]:
        return lambda mean: mean(row, "edit")

    def similar(row: str) -> Callable[[Callable], np.ndarray]:
        return lambda mean: mean(row, "similarity")

    def drop(mean: Callable) -> np.ndarray:
        return edit(alone)(mean) - edit(fixed)(mean)

    def won_back(mean: Callable) -> np.ndarray:
        return (edit(whole)(mean) - edit(fixed)(mean)) / drop(mean)

    def lost(mean: Callable) -> np.ndarray:
        return 1 - similar(whole)(mean) / similar(fixed)(mean)

    return [
        Claim("prompt alone: the expression that was asked for",
              ratio(lambda mean: mean(alone, "expression")), 0.85, True),
        Claim("prompt alone: the style that was asked for",
              ratio(lambda mean: mean(alone, "style")), 0.85, True),
        Claim("prompt alone: FaceSim to a stranger", ratio(similar(alone)), 0.15, False),
        Claim("rigid VFA keeps the person: FaceSim", ratio(similar(fixed)), 0.60, True),
        Claim("rigid VFA costs obedience: edits lost", ratio(drop), 0.10, True),
        Claim("SIP + VFA + CAG wins back this share of them", ratio(won_back), 2 / 3, True),
        Claim("SIP + VFA + CAG loses this share of FaceSim", ratio(lost), 0.10, False),
    ]  # fmt: skip


def metrics_of(rows: Sequence[dict[str, float | None]], people: int) -> dict[str, Values]:
    """Measures of people x prompts pictures, person by person -> metric -> (people, prompts)."""
    return {
        metric: np.array(
            [np.nan if row[metric] is None else float(row[metric]) for row in rows]
        ).reshape(people, -1)
        for metric in METRICS
    }
