"""A cascade of multi-block local binary patterns, asked about many windows in one go.

scikit-image ships the trained file and a class that reads it. That class walks over a picture one
window after the other, cannot be asked about a part of it, and merges its answers in quadratic
time. Here the same decisions are made for all windows of many pictures together: the first stages
densely, by comparing shifted maps of box sums; the others only for the few windows that are left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree

import numpy as np

from .packages import need

WINDOW = 24
"""Side of the cascade's window, in pixels."""
RING = ((0, 0), (0, 1), (0, 2), (1, 2), (2, 2), (2, 1), (2, 0), (1, 0))
"""Row and column of the eight cells around the middle one, highest bit of the pattern first."""
DENSE = 5
"""Stages that are evaluated everywhere. They leave about one window in 25."""
TOLERANCE = 1e-5
"""By how much a stage may miss its threshold, as in scikit-image."""


class Stump(NamedTuple):
    """One question: the pattern of 3 x 3 cells at a place in the window."""

    x: int
    y: int
    width: int
    """Of one cell, in pixels."""
    height: int
    votes: np.ndarray
    """(256,) float32: what each pattern adds to the stage."""


class Stage(NamedTuple):
    """A window goes on when its votes reach the threshold."""

    stumps: tuple[Stump, ...]
    threshold: float


class Hits(NamedTuple):
    """Windows that pass the whole cascade: their upper left corners."""

    stack: np.ndarray
    """(N,) index into the stacks that were given."""
    picture: np.ndarray
    """(N,) index into that stack."""
    x: np.ndarray
    y: np.ndarray


class Front(NamedTuple):
    """A dense stage in bytes: each stump gives one bit, and the bits together tell who passes."""

    stumps: tuple[tuple[Stump, np.ndarray], ...]
    passes: np.ndarray


@dataclass(frozen=True)
class LbpCascade:
    """The trained stages."""

    stages: tuple[Stage, ...] = field(repr=False)
    fronts: tuple[Front, ...] = field(repr=False)

    def find(self, stacks: Sequence[np.ndarray], step: int = 1) -> Hits:
        """Which windows of (N, H, W) uint8 stacks pass; pictures of one stack have one size.

        step: distance of the windows in pixels. Pictures smaller than the window have none.
        """
        places, sums = [], []
        start = 0
        for index, stack in enumerate(stacks):
            if min(stack.shape[1:]) < WINDOW:
                continue
            integral = _integrate(stack)
            picture, y, x = np.nonzero(self._pass_fronts(integral, step))
            row = integral.shape[2]
            corner = start + (picture * integral.shape[1] + y * step) * row + x * step
            places.append(np.stack([np.full_like(y, index), picture, y * step, x * step,
                                    corner, np.full_like(y, row)]))  # fmt: skip
            sums.append(integral.reshape(-1))
            start += integral.size
        if not places:
            return Hits(*np.zeros((4, 0), np.int64))
        found = self._pass_rest(np.concatenate(sums), np.concatenate(places, axis=1))
        return Hits(found[0], found[1], found[3], found[2])

    def _pass_fronts(self, integral: np.ndarray, step: int) -> np.ndarray:
        """(N, H, W) integrals -> (N, rows, columns) uint8, 1 for windows that pass DENSE stages."""
        cv2 = need("cv2")
        count, rows, columns = (
            integral.shape[0],
            *(-(-(side - WINDOW) // step) for side in integral.shape[1:]),
        )
        passed = np.ones((count * rows, columns), np.uint8)
        for stumps, passes in self.fronts:
            bits = np.zeros_like(passed)
            for stump, table in stumps:
                code = _dense_patterns(integral, stump, (rows, columns), step)
                bits = cv2.bitwise_or(bits, cv2.LUT(code.reshape(bits.shape), table))
            passed = cv2.bitwise_and(passed, cv2.LUT(bits, passes))
        return passed.reshape(count, rows, columns)

    def _pass_rest(self, sums: np.ndarray, places: np.ndarray) -> np.ndarray:
        """The columns of `places` that also pass the later stages; rows 4 and 5 lead to `sums`."""
        for stage in self.stages[len(self.fronts) :]:
            votes = np.zeros(places.shape[1], np.float32)
            for stump in stage.stumps:
                votes += stump.votes[_sparse_patterns(sums, places[4], places[5], stump)]
            places = places[:, votes >= stage.threshold]
            if not places.shape[1]:
                break
        return places


def read_cascade(path: Path) -> LbpCascade:
    """Read OpenCV's XML format for cascades of local binary patterns."""
    root = ElementTree.parse(path)
    cells = [
        tuple(int(value) for value in rect.findtext("rect", "").split())
        for rect in root.iterfind(".//features/_")
    ]
    stages = tuple(_read_stage(stage, cells) for stage in root.iterfind(".//stages/_"))
    return LbpCascade(stages, tuple(_make_front(stage) for stage in stages[:DENSE]))


def _read_stage(stage: ElementTree.Element, cells: Sequence[tuple[int, ...]]) -> Stage:
    stumps = []
    for stump in stage.iterfind("weakClassifiers/_"):
        _, _, feature, *words = (int(word) for word in stump.findtext("internalNodes", "").split())
        below, above = (float(word) for word in stump.findtext("leafValues", "").split())
        bits = np.array(words, np.int64)[:, None] >> np.arange(32) & 1
        votes = np.where(bits.reshape(-1), below, above).astype(np.float32)
        stumps.append(Stump(*cells[feature], votes))
    return Stage(tuple(stumps), float(stage.findtext("stageThreshold", "")) - TOLERANCE)


def _make_front(stage: Stage) -> Front:
    stumps = tuple(
        (stump, ((stump.votes == stump.votes.max()) << place).astype(np.uint8))
        for place, stump in enumerate(stage.stumps)
    )
    passes = np.zeros(256, np.uint8)
    for bits in range(1 << len(stumps)):
        votes = [
            stump.votes.max() if bits >> place & 1 else stump.votes.min()
            for place, stump in enumerate(stage.stumps)
        ]
        passes[bits] = sum(votes, np.float32()) >= stage.threshold
    return Front(stumps, passes)


def _integrate(stack: np.ndarray) -> np.ndarray:
    """(N, H, W) uint8 -> (N, H + 1, W + 1) int32 sums of all pixels above and to the left."""
    count, height, width = stack.shape
    integral = np.zeros((count, height + 1, width + 1), np.int32)
    inner = integral[:, 1:, 1:]
    np.cumsum(stack, axis=1, dtype=np.int32, out=inner)
    np.cumsum(inner, axis=2, out=inner)
    return integral


def _dense_patterns(
    integral: np.ndarray, stump: Stump, size: tuple[int, int], step: int
) -> np.ndarray:
    """(N, rows, columns) uint8: the stump's pattern in every window."""
    x, y, width, height, _ = stump
    sums = integral[:, height:, width:] - integral[:, :-height, width:]
    sums -= integral[:, height:, :-width]
    sums += integral[:, :-height, :-width]
    sums = sums.astype(np.int16)  # at most 64 pixels of 255

    def cell(row: int, column: int) -> np.ndarray:
        top, left = y + row * height, x + column * width
        bottom, right = top + (size[0] - 1) * step + 1, left + (size[1] - 1) * step + 1
        return sums[:, top:bottom:step, left:right:step]

    middle = cell(1, 1)
    code = np.zeros(middle.shape, np.uint8)
    bit = np.empty(middle.shape, bool)
    for row, column in RING:
        np.greater_equal(cell(row, column), middle, out=bit)
        code += code
        code |= bit.view(np.uint8)
    return code


def _sparse_patterns(
    sums: np.ndarray, corner: np.ndarray, row: np.ndarray, stump: Stump
) -> np.ndarray:
    """(N,) uint8: the stump's pattern in the windows whose corners lie at `corner` in `sums`.

    row: how far one line of the integral is from the next.
    """
    x, y, width, height, _ = stump
    grid = [
        [np.take(sums, corner + row * (y + i * height) + (x + j * width)) for j in range(4)]
        for i in range(4)
    ]
    strips = [[low - high for high, low in zip(*grid[i : i + 2], strict=True)] for i in range(3)]
    cells = [[strip[j + 1] - strip[j] for j in range(3)] for strip in strips]
    code = np.zeros(len(corner), np.uint8)
    for i, j in RING:
        code += code
        code |= (cells[i][j] >= cells[1][1]).view(np.uint8)
    return code
