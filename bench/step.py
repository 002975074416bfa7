"""The clock of one step, and steps of several configurations in turn, in one process."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import comfy.patcher_extension
import torch
from comfy.model_patcher import ModelPatcher

from .clock import now
from .inside import watch_sites
from .plan import Allowance, Row


@dataclass(frozen=True, eq=False)
class Configuration:
    """A patched model and how to sample one step with it."""

    model: ModelPatcher
    sample: Callable[[ModelPatcher], object]
    """Takes a model in place of its own: the same one, watched."""

    def seconds(self) -> float:
        """Of the model's call in one step, the wrappers of its patches included."""
        times: list[float] = []

        def time_call(executor, *args, **kwargs):
            started = now()
            out = executor(*args, **kwargs)
            times.append(now() - started)
            return out

        watched = self.model.clone()
        kind = comfy.patcher_extension.WrappersMP.APPLY_MODEL
        ours = watched.wrappers.pop(kind, {})
        watched.add_wrapper_with_key(kind, "bench", time_call)
        for key, wrappers in ours.items():
            for wrapper in wrappers:
                watched.add_wrapper_with_key(kind, key, wrapper)
        self.sample(watched)
        return times[0]


@dataclass
class Times:
    """Seconds of one configuration, a value per round."""

    step: list[float] = field(default_factory=list)
    inside: list[float] = field(default_factory=list)
    syncs: int = 0


def measure(
    configurations: Mapping[str, Configuration], allowance: Allowance, rounds: int
) -> dict[str, Times]:
    """Every configuration in every round, in turn."""
    times = {name: Times() for name in configurations}
    for _ in allowance.rounds(rounds):
        for name, one in configurations.items():
            # On a GPU, looking inside makes it wait: a step's time is then taken from another one.
            unwatched = one.seconds() if torch.cuda.is_available() else None
            with watch_sites() as inside:
                watched = one.seconds()
            times[name].step.append(unwatched or watched)
            times[name].inside.append(sum(inside.times))
            times[name].syncs = inside.syncs
    return times


def rows(
    configurations: Mapping[str, Configuration], times: Mapping[str, Times], shape: Row
) -> list[Row]:
    """Medians, as shares of the first configuration's step, which is the unpatched one."""
    base = statistics.median(next(iter(times.values())).step)
    return [_row(name, one, times[name], base, shape) for name, one in configurations.items()]


def _row(name: str, one: Configuration, times: Times, base: float, shape: Row) -> Row:
    step, inside = statistics.median(times.step), statistics.median(times.inside)
    return {
        "configuration": name,
        **shape,
        "rounds": len(times.step),
        "step s": step,
        "vs unpatched %": 100 * (step / base - 1),
        "inside anchors %": 100 * inside / base,
        "adapter MB": sum(m.model_size() for m in set(one.model.model_patches_models())) / 1e6,
        "syncs inside anchors": times.syncs,
    }
