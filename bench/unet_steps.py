"""A section that measures steps of a UNet: at its own size, or at a smaller one to save time."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable

import torch
from comfy.model_patcher import ModelPatcher

from . import step, unet
from .flux import NAMES
from .plan import Allowance, Plan, Row, choose
from .step import Configuration
from .unet import Kind, Size

Configure = Callable[[ModelPatcher, Size], dict[str, Configuration]]
"""(model, size) -> configurations by name, the unpatched one first."""

SMALLEST = 256
"""Pixels of a side: below, overheads outweigh the arithmetic."""


def sizes(kind: Kind) -> tuple[Size, ...]:
    """What may be measured: on a GPU only the size that the model was made for."""
    parts = (1,) if torch.cuda.is_available() else (1, 2, 4)
    return tuple(Size(side) for part in parts if (side := kind.side // part) >= SMALLEST)


def plan_steps(kind: Kind, configure: Configure, options: Namespace, allowance: Allowance) -> Plan:
    model = unet.open_unet(kind, options.dtype)
    tried_size = Size(SMALLEST)
    prompts = unet.prompt(kind, 1), unet.prompt(kind, 2)
    plain = Configuration(model, lambda m: unet.sample_step(m, tried_size, *prompts))
    plain.seconds()  # moves the weights
    tried = plain.seconds()
    count = len(configure(model, tried_size))

    def cost(size: Size) -> float:
        steps = count * (2 if torch.cuda.is_available() else 1)
        return tried * size.work / tried_size.work * steps

    size, rounds = choose(sizes(kind), cost, allowance.left(), options.rounds)
    configurations = configure(model, size)
    small = configure(model, tried_size)
    for one in small.values():  # folds
        one.seconds()
    shape = {**size.columns(), "dtype": NAMES[options.dtype]}

    def measure() -> list[Row]:
        times = step.measure(configurations, allowance, rounds)
        return step.rows(configurations, times, shape)

    what = f"{rounds} rounds of {count} configurations, {kind.name} at {size}, {shape['dtype']}"
    return Plan(rounds * cost(size), what, measure)
