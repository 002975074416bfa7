"""Training pictures with their faces, singles and groups alike, and batches made ahead of time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from .data import Groups, Portraits

Batch = TypeVar("Batch")


class Pictures:
    """Singles first, then groups: one picture and its faces by number."""

    def __init__(self, work: Path) -> None:
        self.singles, self.groups = Portraits(work), Groups(work)

    def __len__(self) -> int:
        return len(self.singles) + len(self.groups)

    def draw(self, rng: np.random.Generator, group_share: float) -> int:
        """A random number, of a group with that probability."""
        first = len(self.singles)
        if len(self.groups) and rng.random() < group_share:
            return first + int(rng.integers(len(self.groups)))
        return int(rng.integers(first))

    def __getitem__(self, number: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(128, 128, 3) uint8, boxes (F, 4) and points (F, 5, 2) in pixels."""
        if number < len(self.singles):
            here = slice(number, number + 1)
            singles = self.singles
            return np.array(singles.images[number]), singles.box[here], singles.points[here]
        index = number - len(self.singles)
        count = int(self.groups.count[index])
        groups = self.groups
        boxes, points = groups.box[index, :count], groups.points[index, :count]
        return np.array(groups.images[index]), boxes, points


class Ahead(Generic[Batch]):
    """Makes the next step's batch while the present one is learnt.

    A batch depends on the seed and the step alone, so neither the thread nor a resumed run
    changes it.
    """

    def __init__(self, make: Callable[[np.random.Generator], Batch], seed: int, last: int) -> None:
        self.make, self.seed, self.last = make, seed, last
        self.pool = ThreadPoolExecutor(1, "batches")
        self.waiting: dict[int, Future] = {}

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.shutdown(cancel_futures=True)

    def __call__(self, step: int) -> Batch:
        batch = self.waiting.pop(step, None) or self._start(step)
        if step + 1 < self.last:
            self.waiting = {step + 1: self._start(step + 1)}
        return batch.result()

    def _start(self, step: int) -> Future:
        return self.pool.submit(self.make, np.random.default_rng((self.seed, step)))


def to_input(pictures: np.ndarray, divisor: float, device: torch.device) -> Tensor:
    """(N, H, W, 3) uint8 RGB -> (N, 3, H, W), (x - 127.5) / divisor, as insightface feeds it."""
    pixels = torch.from_numpy(pictures).to(device).permute(0, 3, 1, 2)
    return (pixels.float() - 127.5) / divisor
