"""Seconds of a piece of work, with what it started on a GPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable

import torch


def now() -> float:
    """Seconds, once the GPU has done all it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds_of(run: Callable[[], object]) -> float:
    started = now()
    run()
    return now() - started


def median_seconds(run: Callable[[], object], rounds: Iterable[int]) -> float:
    return statistics.median([seconds_of(run) for _ in rounds])
