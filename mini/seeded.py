"""Weights from one seed: every tensor depends on the seed and its own name only."""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor


class Seeded:
    """Draws named tensors. Adding one tensor to a model leaves all others as they were."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def normal(self, name: str, *shape: int, std: float = 1.0) -> Tensor:
        digest = hashlib.sha256(f"{self.seed}/{name}".encode()).digest()
        generator = torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
        return torch.randn(*shape, generator=generator) * std

    def linear(self, name: str, rows: int, columns: int, gain: float = 1.0) -> Tensor:
        """(rows, columns) that keeps the variance of its input times `gain` squared."""
        return self.normal(name, rows, columns, std=gain / math.sqrt(columns))

    def conv(self, name: str, rows: int, columns: int, gain: float = 1.0) -> Tensor:
        """(rows, columns, 3, 3), likewise."""
        return self.normal(name, rows, columns, 3, 3, std=gain / math.sqrt(columns * 9))
