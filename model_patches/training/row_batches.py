"""Rows of a step as batches on the device, and the mean loss over them.

Rows are drawn for the whole step, whatever the number of processes, which then share them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

from ..adapters.ip_tokens import Features
from . import distributed
from .loop import Loss
from .parts import accumulate, divide

QUARTERS = 4
Shown = dict[str, Tensor]


class Drawn(Protocol):
    """One row of a step."""

    @property
    def level(self) -> float:
        """Place among the base's noise levels, in [0, 1)."""
        ...

    @property
    def noise(self) -> int:
        """Seed of its noise."""
        ...


One = TypeVar("One", bound=Drawn)


@dataclass(frozen=True, eq=False)
class Loaded:
    """The features of a row, without the rows' dimension. CPU float32."""

    latent: Tensor
    features: Features
    """What the adapter reads of the reference."""
    caption: Mapping[str, Tensor]
    """text (T, c) and pooled (P,)."""


@dataclass(frozen=True, eq=False)
class Batch(Generic[One]):
    """Rows of a step whose tensors have the same sizes, on the device."""

    drawn: list[One]
    latents: Tensor
    noise: Tensor
    features: Features
    text: Tensor
    pooled: Tensor


Errors = Callable[[Batch[One]], tuple[Tensor, Shown]]
"""(B,) squared errors of rows, and numbers for the log, means over the batch."""


def join_rows(
    drawn: Sequence[One], loaded: Sequence[Loaded], device: torch.device, part: int = 0
) -> list[Batch[One]]:
    """Rows of the same sizes together, at most `part` of them; 0: any number."""
    sizes = [(row.latent.shape, row.caption["text"].shape) for row in loaded]
    return [
        _join([drawn[n] for n in numbers], [loaded[n] for n in numbers], device)
        for numbers in divide(sizes, part or len(drawn))
    ]


def _join(drawn: list[One], loaded: list[Loaded], device: torch.device) -> Batch[One]:
    def stack(tensors: Sequence[Tensor]) -> Tensor:
        return torch.stack(list(tensors)).to(device)

    return Batch(
        drawn,
        stack([row.latent for row in loaded]),
        stack(
            [seeded_noise(row.latent, one.noise) for one, row in zip(drawn, loaded, strict=True)]
        ),
        {name: stack([row.features[name] for row in loaded]) for name in loaded[0].features},
        stack([row.caption["text"] for row in loaded]),
        stack([row.caption["pooled"] for row in loaded]),
    )


def seeded_noise(like: Tensor, seed: int) -> Tensor:
    """Noise of that shape, on the CPU."""
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed))


def make_row_loss(
    draw: Callable[[int], Sequence[One]],
    load: Callable[[list[One]], list[Batch[One]]],
    errors_of: Errors[One],
    show: Callable[[Tensor, list[One]], Shown],
    describe: Callable[[One], str],
    rows: int,
    device: torch.device,
) -> Loss:
    """The mean error over the rows of a step.

    draw: the step's rows, of all processes; show: errors and their rows -> numbers for the log;
    describe: where a row is, for messages; rows: of a step. Raises ValueError where they cannot be
    shared by the processes.
    """
    mine = distributed.share(rows)

    def loss(step: int, _: np.random.Generator) -> tuple[Tensor, Shown]:
        first = distributed.rank() * mine
        batches = load(list(draw(step)[first : first + mine]))
        found: list[Tensor] = []
        sizes: list[Shown] = []

        def loss_of(batch: Batch[One]) -> Tensor:
            errors, size = errors_of(batch)
            check_finite(errors, batch.drawn, describe)
            found.append(errors.detach())
            sizes.append({name: len(errors) * value for name, value in size.items()})
            return errors.sum()

        value = accumulate(batches, loss_of, mine, device)
        shown = show(torch.cat(found), [one for batch in batches for one in batch.drawn])
        means = {name: torch.stack([one[name] for one in sizes]).sum() / mine for name in sizes[0]}
        return value, {**shown, **means}

    return loss


def check_finite(errors: Tensor, drawn: Sequence[One], describe: Callable[[One], str]) -> None:
    """Raise FloatingPointError, which names the row, where an error is not finite."""
    for error, one in zip(errors.tolist(), drawn, strict=True):
        if not math.isfinite(error):
            raise FloatingPointError(
                f"the loss of the row of {describe(one)} is {error} at noise level "
                f"{one.level:.3f}. Look at that picture, or lower the rate."
            )


def by_quarter(errors: Tensor, drawn: Sequence[Drawn]) -> Shown:
    """Means by quarter of the noise levels; NaN where the step has none."""
    quarter = torch.tensor([int(one.level * QUARTERS) for one in drawn], device=errors.device)
    return {f"quarter {n + 1}": errors[quarter == n].mean() for n in range(QUARTERS)}


def root_mean_square(tensor: Tensor) -> Tensor:
    """How large its numbers are, without gradients."""
    return tensor.detach().float().square().mean().sqrt()
