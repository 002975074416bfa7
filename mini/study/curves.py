"""Rows in an order, such as one number from its lowest to its highest value: a curve of identity
kept against edits obeyed, and where a point lies beside it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ...model_patches.evaluate.sliders import Course, course_means, read_at
from ...model_patches.evaluate.statistics import SHARE, Figure, interval_of
from .report import Study
from .rows import Row


@dataclass(frozen=True)
class Curve:
    """Rows in their order."""

    rows: tuple[Row, ...]

    def stack(self, study: Study, metric: str) -> np.ndarray:
        """(points, people, prompts)."""
        return np.stack([study.measured[row.key][metric] for row in self.rows])

    def means(self, study: Study, metric: str, people: np.ndarray) -> np.ndarray:
        """(1 + draws, points): over all people, then over each draw of `people`."""
        return course_means(self.stack(study, metric), people)

    def course(self, study: Study) -> Course:
        """What is kept of the person, and what that costs."""
        return Course(self.stack(study, "similarity"), self.stack(study, "edit"))


def meet_or_end(across: np.ndarray, up: np.ndarray, wanted: float) -> float:
    """As `read_at`; beyond the largest `across`, `up` at that point."""
    best = int(np.argmax(across))
    return float(up[best]) if wanted > across[best] else read_at(across, up, wanted)


def figure_of(samples: np.ndarray, count: int) -> Figure | None:
    """Of the value over all people and those of the draws (1 + draws,), which stand on `count`
    pictures. None where it is undefined, or in more draws than an interval leaves out at one end.
    """
    undefined = ~np.isfinite(samples)
    if undefined[0] or undefined[1:].mean() > (1 - SHARE) / 2:
        return None
    return Figure(float(samples[0]), *interval_of(samples[1:]), count)
