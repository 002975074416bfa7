"""A step's rows, worked through in parts: less memory, and the same gradients."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from typing import TypeVar

import torch
from torch import Tensor

Part = TypeVar("Part")


def divide(sizes: Sequence[Hashable], most: int) -> list[list[int]]:
    """Places of rows whose tensors have the same sizes together, at most `most` of them."""
    groups: dict[Hashable, list[int]] = {}
    for number, size in enumerate(sizes):
        groups.setdefault(size, []).append(number)
    return [
        numbers[start : start + most]
        for numbers in groups.values()
        for start in range(0, len(numbers), most)
    ]


def accumulate(
    parts: Sequence[Part], loss_of: Callable[[Part], Tensor], rows: int, device: torch.device
) -> Tensor:
    """The mean loss over so many rows. loss_of: the sum over a part's rows.

    The gradients of all parts but the last are added up here; the caller's `backward` adds those of
    the last.
    """
    finished = torch.zeros((), device=device)
    for number, part in enumerate(parts, 1):
        loss = loss_of(part) / rows
        if number < len(parts):
            loss.backward()
            loss = loss.detach()
        finished = finished + loss
    return finished
