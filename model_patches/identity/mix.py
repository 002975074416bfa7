"""Which features of a photo an identity is made of: less of the photo's details, or of the person.

EditID (arXiv 2503.12526) chooses among the encoder's features and compresses local ones, and
publishes neither its choice nor code. These controls are definitions of our own on PuLID's encoder,
with its weights as they are. All run before sampling. Neutral at their defaults.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields, replace
from types import MappingProxyType

import torch
import torch.nn.functional as F
from torch import Tensor

from ..gates.numbers import check_number

LEVELS = 5
"""Levels of the vision tower that PuLID reads, from texture (0) to meaning (4)."""
GRID = 24
"""Patches a side of EVA02-CLIP-L/14 at 336 pixels."""
LARGEST_LOCAL = 10.0


@dataclass(frozen=True)
class FeatureMix:
    """What the encoder reads of each photo, and how far its answer goes."""

    layer_map: tuple[int, ...] = (0, 1, 2, 3, 4)
    """For each of the encoder's slots the level that it reads."""
    local_weight: tuple[float, ...] = (1.0,) * LEVELS
    """For each slot how much its local tokens count, in [0, LARGEST_LOCAL]; 0 leaves them out."""
    local_pool: int = GRID
    """Patches a side that are left after averaging; the tower's own number and more: all."""
    cls_only: bool = False
    """Whether only the class token of each level is left."""
    depth_shift: float = 0.0
    """s in h_i + s·(h_4 - h_i): 0 nothing, 1 the deepest level everywhere."""
    id_scale: float = 1.0
    """s in u + s·(id - u), where u are the tokens of nobody."""
    arcface_scale: float = 1.0
    """Factor on the recogniser's embedding."""

    def __post_init__(self) -> None:
        for name in ("layer_map", "local_weight"):
            count = len(getattr(self, name))
            if count != LEVELS:
                raise ValueError(
                    f"{name} has {count} numbers, expected {LEVELS}: one for each level that the "
                    "encoder reads. Correct the list."
                )
        for level in self.layer_map:
            check_number("a level of layer_map", level, 0, LEVELS - 1)
        for weight in self.local_weight:
            check_number("a weight of local_weight", weight, 0.0, LARGEST_LOCAL)
        check_number("local_pool", self.local_pool, 1, GRID)
        check_number("depth_shift", self.depth_shift, -1.0, 1.0)
        check_number("id_scale", self.id_scale, -1.0, 2.0)
        check_number("arcface_scale", self.arcface_scale, 0.0, 5.0)

    @property
    def is_neutral(self) -> bool:
        return self == FAITHFUL

    @property
    def encoder_facts(self) -> tuple:
        """All that changes what the encoder answers: it runs once for each such answer. Empty
        where nothing does."""
        mixed = replace(self, id_scale=1.0)
        return () if mixed.is_neutral else astuple(mixed)

    @property
    def weights(self) -> tuple[float, ...] | None:
        """Of local tokens, as the encoder takes them; None: all 1."""
        return None if set(self.local_weight) == {1.0} else self.local_weight

    @property
    def reads_local(self) -> bool:
        """Whether it treats local tokens otherwise than the class token."""
        return self.cls_only or self.local_pool < GRID or self.weights is not None

    def shape_levels(self, hidden: Tensor) -> Tensor:
        """hidden (P, levels, T, C) of P photos, class token first -> (P, levels, T', C).

        Raises ValueError for another number of levels.
        """
        if hidden.shape[1] != LEVELS:
            raise ValueError(
                f"The vision tower gives {hidden.shape[1]} levels; a feature mix names {LEVELS}. "
                "Disconnect mix."
            )
        deepest = hidden[:, -1:]
        if self.layer_map != FAITHFUL.layer_map:
            hidden = hidden[:, list(self.layer_map)]
        if self.depth_shift:
            hidden = hidden + self.depth_shift * (deepest - hidden)
        if self.cls_only:
            return hidden[:, :, :1]
        return pool_patches(hidden, self.local_pool)

    def scale_identity(self, tokens: Tensor, null: Tensor) -> Tensor:
        """Tokens (1, N, C) of a person, moved away from or towards those of nobody."""
        if self.id_scale == 1.0:
            return tokens
        return null + self.id_scale * (tokens - null)

    def describe(self) -> str:
        """What differs from PuLID's own encoding, in one line: for the user and the recipe."""
        changed = [
            f"{one.name} {_write(getattr(self, one.name))}"
            for one in fields(self)
            if getattr(self, one.name) != getattr(FAITHFUL, one.name)
        ]
        return "; ".join(changed) or "as PuLID encodes"


FAITHFUL = FeatureMix()
PRESETS: Mapping[str, FeatureMix] = MappingProxyType(
    {
        "faithful": FAITHFUL,
        "balanced": FeatureMix(local_pool=12, local_weight=(1.0, 1.0, 0.7, 0.7, 0.7)),
        "editable": FeatureMix(local_pool=6, local_weight=(0.5,) * LEVELS),
        "loose": FeatureMix(cls_only=True),
    }
)
"""From the photo as it is to the person alone. Starting points, not measured on real models."""


def pool_patches(hidden: Tensor, side: int) -> Tensor:
    """hidden (P, levels, 1 + S·S, C) -> (P, levels, 1 + side·side, C): a class token, and patches
    averaged over a coarser grid. Unchanged where the grid has no more than `side` a side."""
    photos, levels, tokens, width = hidden.shape
    grid = math.isqrt(tokens - 1)
    if side >= grid:
        return hidden
    square = hidden[:, :, 1:].reshape(photos * levels, grid, grid, width).permute(0, 3, 1, 2)
    pooled = F.adaptive_avg_pool2d(square, side).flatten(2).transpose(1, 2)
    return torch.cat((hidden[:, :, :1], pooled.unflatten(0, (photos, levels))), dim=2)


def parse_levels(text: str) -> tuple[int, ...]:
    """Read "0, 1, 2, 3, 4". Raises ValueError for anything but whole numbers."""
    pieces = [piece.strip() for piece in text.split(",")]
    if not all(piece.isdecimal() for piece in pieces):
        raise ValueError(
            f"layer_map is {text!r}, expected {LEVELS} whole numbers from 0 to {LEVELS - 1}, by "
            "commas: 0, 1, 2, 3, 4."
        )
    return tuple(int(piece[:9]) for piece in pieces)


def parse_local_weights(text: str) -> tuple[float, ...]:
    """Read "1, 1, 0.7, 0.7, 0.7", or one number for all. Raises ValueError for anything else."""
    try:
        weights = tuple(float(piece) for piece in text.split(","))
    except ValueError:
        raise ValueError(
            f"local_weight is {text!r}, expected one number of 0 or more, or {LEVELS} by commas: "
            "1, 1, 0.7, 0.7, 0.7."
        ) from None
    return weights * LEVELS if len(weights) == 1 else weights


def _write(value: object) -> str:
    if isinstance(value, bool):
        return "on"
    if isinstance(value, tuple):
        return ", ".join(f"{one:g}" for one in value)
    return f"{value:g}"
