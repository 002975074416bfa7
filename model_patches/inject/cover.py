"""What a region and a gate make of one prompt's rows: covered tokens and their factors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from .call import Call, PromptRows
from .region import EVERYWHERE, Coverage, Region

T = TypeVar("T")


def cover_tokens(
    call: Call, prompt: PromptRows, region: Region | None, cell: int, label: str
) -> Coverage | None:
    """Image tokens that `region` reaches where a token is `cell` latent pixels a side.

    None: no token at all. Worked out once per run, area and grid. label: the node, for messages.
    Raises ValueError on tiles that another node made, whose place in the picture is unknown.
    """
    if region is None:
        return EVERYWHERE

    def cover(*facts: Any) -> Coverage | None:
        coverage = region.cover(*facts)
        return coverage and coverage.to(call.device, call.dtype)

    return _once_per_run("cover", call, prompt, region, cell, label, cover)


def token_weights(call: Call, prompt: PromptRows, region: Region, cell: int, label: str) -> Tensor:
    """(1 or batch, tokens) weights of all image tokens, in float32 on the call's device.

    As `cover_tokens`, for kernels that read every token.
    """

    def weigh(*facts: Any) -> Tensor:
        return region.token_weights(*facts).to(call.device)

    return _once_per_run("weights", call, prompt, region, cell, label, weigh)


def _once_per_run(
    name: str,
    call: Call,
    prompt: PromptRows,
    region: Region,
    cell: int,
    label: str,
    make: Callable[..., T],
) -> T:
    """What `make` makes of a grid, the latent's size, an area and the batch; kept for the run."""
    key = (name, region, cell, prompt.area, call.latent_size, call.batch)
    if key not in call.run.cache:
        check_tiles(call, prompt, f"{label} has a mask", "Disconnect the mask")
        size = call.run.latent_size or call.latent_size
        call.run.cache[key] = make(call.grid(cell), size, prompt.area, call.batch)
    return call.run.cache[key]


def token_factor(call: Call, weights: Sequence[float], coverage: Coverage) -> float | Tensor:
    """One factor for every row and token when there is one, else a (rows or 1, tokens or 1).

    weights: one per row.
    """
    if len(set(weights)) == 1:
        return weights[0] if coverage.weights is None else coverage.weights * weights[0]
    per_row = torch.tensor(weights, device=call.device, dtype=call.dtype).unsqueeze(1)
    return per_row if coverage.weights is None else coverage.weights * per_row


def spread_tokens(call: Call, coverage: Coverage, cell: int) -> Coverage:
    """The same as weights of all tokens, 0 where none are covered, for kernels that read them all.

    Once per run and coverage.
    """
    if coverage.index is None:
        return coverage
    key = ("spread", coverage)
    if key not in call.run.cache:
        covered = coverage.index
        weights = coverage.weights
        if weights is None:
            weights = torch.ones(1, len(covered), device=call.device, dtype=call.dtype)
        whole = weights.new_zeros(len(weights), call.grid(cell).tokens)
        call.run.cache[key] = Coverage(None, whole.index_copy(1, covered, weights))
    return call.run.cache[key]


def check_tiles(call: Call, prompt: PromptRows, reader: str, remedy: str) -> None:
    """Raise ValueError where tiling nodes do not say where in the picture a tile is.

    reader: who needs the place and what for; remedy: how to do without. Both for the message.
    """
    whole = call.run.latent_size
    if prompt.area is None and whole not in (None, call.latent_size):
        raise ValueError(
            f"{reader} for a latent of {whole[0]}x{whole[1]}, but another node runs the "
            f"model on tiles of {call.latent_size[0]}x{call.latent_size[1]} without saying where. "
            f"{remedy}, or remove the tiling node."
        )
