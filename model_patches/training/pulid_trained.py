"""The cross-attention of a PuLID-FLUX file while a part of it is trained.

What is not trained stays as the file has it, in its own number type, and is no part of the
checkpoint. What is trained is float32.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn

from ..adapters.adapter_delta import DOWN, UP, difference
from ..adapters.merge_scope import Scope
from ..adapters.pulid_flux import ATTENTION, IdentityAdapter
from ..inject.pulid import cross_attention

LORA = "lora"
NAMES = (
    "norm1.weight", "norm1.bias", "norm2.weight", "norm2.bias",
    "to_q.weight", "to_kv.weight", "to_out.weight",
)  # fmt: skip
SETS = {
    "ca_all": NAMES,
    "ca_out": ("to_out.weight",),
    "ca_qo": ("to_q.weight", "to_out.weight"),
    "ca_kv": ("to_kv.weight",),
    LORA: ("to_q.weight", "to_kv.weight", "to_out.weight"),
}
"""What of each layer is trained. lora: two thin factors beside each of the three."""


class TrainedAttention(nn.Module):
    """All layers of an adapter. Parameters are named as in the file, with _ for each dot."""

    def __init__(
        self, adapter: IdentityAdapter, part: str, layers: str = "all", rank: int = 16
    ) -> None:
        """part: a key of SETS; layers: "all", or numbers and ranges such as "0-9, 12"; rank: of
        LoRA. Raises ValueError for layers that the adapter lacks."""
        super().__init__()
        scope = Scope(layers=layers)
        scope.check_layers(adapter.count, adapter.name)
        chosen = [layer for layer in range(adapter.count) if scope.holds_layer(layer)]
        self.heads, self.count, self.part = adapter.heads, adapter.count, part
        self.blocks = adapter.blocks
        self.start = dict(adapter.cross_attention)
        """All tensors of the file, on the CPU; keys "0.to_q.weight" ..."""
        self.keys = [f"{layer}.{name}" for layer in chosen for name in SETS[part]]
        """Those that are trained."""
        self.values = nn.ParameterDict()
        for key in self.keys:
            for name, value in self._begin(key, rank).items():
                self.values[name] = nn.Parameter(value)
        whole = set() if part == LORA else set(self.keys)
        self.fixed = {key: value for key, value in self.start.items() if key not in whole}
        """What is read but not trained, on the device."""

    def _begin(self, key: str, rank: int) -> dict[str, Tensor]:
        value, stem = self.start[key], _name(key)
        if self.part != LORA:
            return {stem: value.to(torch.float32, copy=True)}
        rows, columns = value.shape
        down = torch.randn(rank, columns) / columns**0.5
        return {f"{stem}_down": down, f"{stem}_up": torch.zeros(rows, rank)}

    def place(self, device: torch.device) -> TrainedAttention:
        """Move everything that a step reads to the device."""
        self.fixed = {key: value.to(device) for key, value in self.fixed.items()}
        return self.to(device)

    def weight(self, key: str) -> Tensor:
        """A tensor of the file as it is by now, float32."""
        stem = _name(key)
        if stem in self.values:
            return self.values[stem]
        fixed = self.fixed[key].float()
        if f"{stem}_up" not in self.values:
            return fixed
        up, down = self.values[f"{stem}_up"], self.values[f"{stem}_down"]
        with torch.autocast(up.device.type, enabled=False):
            return fixed + up @ down

    def attend(self, layer: int, tokens: Tensor, image: Tensor) -> Tensor:
        """Identity tokens (B, N, C) and image tokens (B, L, D) -> residual (B, L, D)."""
        weights = {name: self.weight(f"{layer}.{name}") for name in NAMES}
        return cross_attention(weights, self.heads, tokens, image)

    @property
    def layers(self) -> list[Callable[[Tensor, Tensor], Tensor]]:
        """`attend` of each layer."""
        return [partial(self.attend, layer) for layer in range(self.count)]

    @torch.no_grad()
    def tensors(self) -> dict[str, Tensor]:
        """All tensors of the layers, by the file's names: what is trained in float32."""
        trained = set(self.keys)
        return {
            f"{ATTENTION}{key}": self.weight(key) if key in trained else value
            for key, value in self.start.items()
        }

    def as_adapter(self, before: IdentityAdapter, step: int) -> IdentityAdapter:
        """The adapter that it began with, `before`, as it is after so many steps."""
        weights = {key.removeprefix(ATTENTION): one for key, one in self.tensors().items()}
        weights = {key: value.detach().to("cpu", copy=True) for key, value in weights.items()}
        made_of = f"{before.digest} trained for {step} steps"
        return replace(before, digest=made_of, cross_attention=weights, path=None)

    @torch.no_grad()
    def delta(self) -> dict[str, Tensor]:
        """What a delta file holds, see adapters/adapter_delta.py."""
        made: dict[str, Tensor] = {}
        for key in self.keys:
            name, stem = f"{ATTENTION}{key}", _name(key)
            if self.part == LORA:
                prefix = name.removesuffix("weight")
                made[f"{prefix}{DOWN}"] = self.values[f"{stem}_down"]
                made[f"{prefix}{UP}"] = self.values[f"{stem}_up"]
            else:
                made[name] = difference(self.start[key], self.values[stem])
        return made


def _name(key: str) -> str:
    """Parameters cannot have dots in their names."""
    return key.replace(".", "_")
