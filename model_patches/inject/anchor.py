"""What an anchor of the Visual Feature Anchor is, whatever kind of model it is on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from ..gates.gate import Gate
from .call import Call, PromptRows
from .region import Region

VFA = "vfa"
LABEL = "Apply VFA"

Negative = Literal["unconditional", "same", "none"]
NEGATIVES: tuple[Negative, ...] = ("unconditional", "same", "none")
"""What rows of the negative prompt get: the encoder's answer to nobody, the same identity, or
nothing."""


@dataclass(frozen=True, eq=False)
class Anchor:
    """Where, when and how strongly one identity works."""

    weight: float
    gate: Gate
    region: Region | None
    negative: Negative
    order: str
    """Digest of all of it and of the tokens."""

    def prompts(self, call: Call) -> Iterator[tuple[PromptRows, slice, Sequence[float]]]:
        """Each prompt with its rows and their weights; nothing while the gate is closed."""
        weights = [self.gate.weight(moment, self.weight) for moment in call.moments]
        if any(weights):
            for number, prompt in enumerate(call.prompts):
                rows = call.rows_of(number)
                yield prompt, rows, weights[rows]
