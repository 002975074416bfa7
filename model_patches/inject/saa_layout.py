"""What the regions of people do to activation and scores, at one grid of image tokens.

Inside a region the activation is raised by beta, outside it is divided by beta + 1 (DynamicID,
equation 3), in the first steps; all along, a person is kept out of others' regions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .call import Call, PromptRows
from .cover import token_weights
from .region import Box, BoxRegion, Grid, Region
from .saa_activation import Layout


def corrected_layout(
    call: Call,
    prompt: PromptRows,
    regions: Sequence[Region | None],
    counts: Sequence[int],
    cell: int,
    beta: float,
    label: str,
) -> Layout:
    """Masks of any shape. regions and counts (tokens): one for each person.

    With M_i the person's mask and m the largest of all, equation 3 holds for m, and a person
    attends by max(M_i, 1 - m): people whose regions overlap share the overlap, everybody shares
    what is outside, and somebody is always there.
    """
    given = [
        None if one is None else token_weights(call, prompt, one, cell, label) for one in regions
    ]
    masks = [mask for mask in given if mask is not None]
    if not masks:
        return Layout()
    masks = torch.broadcast_tensors(*masks)
    most = torch.stack(masks).amax(0)
    allowed = [1.0 - most if mask is None else torch.maximum(mask, 1.0 - most) for mask in given]
    factor, raised = _raise_inside(most, beta)
    bias = _for_tokens(allowed, counts).log() if len(regions) > 1 else None
    return Layout(factor, raised, bias)


def published_layout(
    call: Call,
    prompt: PromptRows,
    regions: Sequence[Region | None],
    counts: Sequence[int],
    cell: int,
    beta: float,
    mix: float,
) -> Layout:
    """As the authors' code has it: boxes of whole tokens, rounded down at both sides.

    Only people with a box are kept out of others' boxes. A single box among several people keeps
    nobody out; the scores of its person are then multiplied by mix, the others' by 1 - mix.
    Raises ValueError in a call for a part of the picture, where the authors' code has no rule.
    """
    if all(one is None for one in regions):
        return Layout()
    if prompt.area is not None or call.run.latent_size not in (None, call.latent_size):
        raise ValueError(
            f"A call covers {call.latent_size[0]}x{call.latent_size[1]} latent pixels, a part of "
            "the picture, for which the published layout has no rule; expected the whole picture. "
            "Set mode to corrected, or remove the prompt's area or the tiling node."
        )
    grid = call.grid(cell)
    boxes = [cells_of(one.box, grid) if isinstance(one, BoxRegion) else None for one in regions]
    drawn = [box for box in boxes if box is not None]
    most = torch.stack(drawn).amax(0)
    factor, raised = (part.to(call.device) for part in _raise_inside(most, beta))
    bias = logits = None
    if len(drawn) > 1:
        allowed = [
            torch.ones_like(most) if box is None else torch.maximum(box, 1.0 - most)
            for box in boxes
        ]
        bias = _for_tokens(allowed, counts).log().to(call.device)
    elif len(regions) > 1:
        of_each = [1.0 - mix if box is None else mix for box in boxes]
        each = torch.tensor(of_each, device=call.device)
        logits = each.repeat_interleave(torch.tensor(counts, device=call.device))
    return Layout(factor, raised, bias, logits)


def cells_of(box: Box, grid: Grid) -> Tensor:
    """(1, tokens): 1 in the tokens of a box, 0 elsewhere. A small box may have none."""
    y_min, x_min, y_max, x_max = box
    cells = torch.zeros(grid.rows, grid.columns)
    rows = slice(int(y_min * grid.rows), int(y_max * grid.rows))
    columns = slice(int(x_min * grid.columns), int(x_max * grid.columns))
    cells[rows, columns] = 1.0
    return cells.reshape(1, -1)


def _raise_inside(most: Tensor, beta: float) -> tuple[Tensor, Tensor]:
    """Equation 3 as factor and summand of the activation: M(w + b) + (1 - M)w / (b + 1)."""
    return most + (1.0 - most) / (beta + 1.0), most * beta


def _for_tokens(of_people: Sequence[Tensor], counts: Sequence[int]) -> Tensor:
    """One (1 or R, L) for each person -> (1 or R, L, N), repeated for each person's tokens."""
    stacked = torch.stack(tuple(torch.broadcast_tensors(*of_people)), dim=-1)
    repeats = torch.tensor(counts, device=stacked.device)
    return stacked.repeat_interleave(repeats, dim=-1)
