"""Which face of a predicted picture is a person's, from one evaluation to the next."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from ...face.boxes import Detection
from ...face.choose import IN_MASK, LARGEST, FaceChoice, rank

MOST_AGE = 4
"""Evaluations for which a face that is not found any more is still taken to be where it was."""


def choose_points(
    found: list[Detection], size: tuple[int, int], mask: Tensor | None
) -> np.ndarray | None:
    """The five points of the person's face: in a mask (h, w) the one that lies in it most, without
    one the largest. None where there is none. size (width, height) of the picture."""
    order = LARGEST if mask is None else IN_MASK
    ranked = rank(found, FaceChoice(order), size, mask=mask)
    return found[ranked[0]].points if ranked else None


@dataclass
class Places:
    """Where a person's face was last, in each picture of a batch."""

    seen: dict[int, tuple[np.ndarray, int]] = field(default_factory=dict)
    """Picture -> points (5, 2), and the evaluation of that."""

    def follow(self, picture: int, points: np.ndarray | None, evaluation: int) -> np.ndarray | None:
        """The points, or the last ones while they are young enough."""
        if points is not None:
            self.seen[picture] = points, evaluation
            return points
        last, when = self.seen.get(picture, (None, 0))
        return last if evaluation - when < MOST_AGE else None
