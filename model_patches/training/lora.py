"""What a LoRA is while it is trained beside a frozen layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


class Lora(nn.Module):
    """What is added to a linear layer: up(down(x)), at first nothing."""

    def __init__(self, entry: int, out: int, rank: int) -> None:
        super().__init__()
        self.down = nn.Linear(entry, rank, bias=False)
        self.up = nn.Linear(rank, out, bias=False)
        nn.init.normal_(self.down.weight, std=1 / rank)
        nn.init.zeros_(self.up.weight)

    def forward(self, read: Tensor) -> Tensor:
        return self.up(self.down(read))


def add_beside(lora: nn.Module, device: str, low: bool) -> Any:
    """A forward hook for the frozen layer. low: whether the base computes in low precision; what is
    trained keeps its float32 weights under autocast."""

    def hook(_: nn.Module, read: tuple[Tensor, ...], out: Tensor) -> Tensor:
        with torch.autocast(device, torch.bfloat16, enabled=low):
            added = lora(read[0])
        return out + added.to(out.dtype)

    return hook
