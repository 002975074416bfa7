"""The Identity value: a person, as the injections read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Identity:
    """One person, encoded. All tensors are CPU float32 unless said otherwise.

    `tokens` and `unconditional` are keyed by adapter family ("pulid_flux"), so one identity can
    feed several injections. `features` are the raw encoder outputs, one row per photo, from
    which another adapter or a fusion can start: "arcface" (P, 512) raw, "eva_pooled" (P, 768)
    unit norm, "eva_hidden" (P, 5, 577, 1024) float16.
    """

    tokens: Mapping[str, Tensor]
    """Family -> (1, N, D) identity tokens."""
    unconditional: Mapping[str, Tensor]
    """Family -> (1, N0, D): what the same encoder makes of no identity (all-zero input)."""
    features: Mapping[str, Tensor] = field(default_factory=dict)
    thumbnail: Tensor | None = None
    """(H, W, 3) uint8 RGB."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    """How it was made: encoder files, recogniser, detector, fusion, pack version."""

    @property
    def picture(self) -> Tensor:
        """The thumbnail as an image batch (1, H, W, 3) in [0, 1]; a grey square without one."""
        if self.thumbnail is None:
            return torch.full((1, 64, 64, 3), 0.5)
        return self.thumbnail[None].float() / 255
