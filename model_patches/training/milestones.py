"""What a training writes and says on its way."""

from __future__ import annotations

import sys
from collections.abc import Callable

from . import distributed
from .loop import Milestone, Training


def every(steps: int, write: Callable[[int], None]) -> Milestone:
    """Write the averaged weights after each so many steps, in the first process while the others
    wait. 0: never. The last step's are left to the caller."""

    def milestone(run: Training) -> None:
        if not steps or run.step % steps or run.step == run.recipe.steps:
            return

        def write_averages() -> None:
            with run.averaged():
                write(run.step)

        distributed.by_first(write_averages)

    return milestone


def say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
