"""A LoRA on the attention of a frozen Flux while it is trained: DynamicID's first stage (arXiv
2503.06505) trains one beside the adapter, on every attention layer of its base."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import cast

import torch
from comfy.ldm.flux.model import Flux
from torch import Tensor, nn

from ..adapters.flux_lora import DOWN, LORA, UP
from .frozen_base import FrozenBase
from .lora import Lora, add_beside


class FluxLora(nn.Module):
    """A Lora for each named layer."""

    def __init__(self, shapes: Mapping[str, tuple[int, int]], rank: int) -> None:
        """shapes: (out, in) of each layer's weight, by its name in the model."""
        super().__init__()
        self.names = tuple(shapes)
        self.layers = nn.ModuleList(Lora(entry, out, rank) for out, entry in shapes.values())

    @property
    def named(self) -> dict[str, Lora]:
        """By the names of the layers that they are for."""
        return dict(zip(self.names, cast(list[Lora], list(self.layers)), strict=True))

    @contextmanager
    def beside(self, base: FrozenBase) -> Iterator[None]:
        """It works beside the base's layers for as long as the block runs."""
        low = base.dtype != torch.float32 or torch.is_autocast_enabled(base.device.type)
        handles = [
            base.net.get_submodule(name).register_forward_hook(
                add_beside(layer, base.device.type, low)
            )
            for name, layer in self.named.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def tensors(self) -> dict[str, Tensor]:
        """By ComfyUI's names, as an adapter's file holds them."""
        made = {}
        for name, layer in self.named.items():
            made[f"{LORA}{name}{DOWN}"] = layer.down.weight
            made[f"{LORA}{name}{UP}"] = layer.up.weight
        return made


def attention_shapes(flux: Flux) -> dict[str, tuple[int, int]]:
    """(out, in) of the layers that have a LoRA, by their names in the model: the projections of
    both streams' attention, and a single block's two layers, which hold attention and feed-forward
    in one."""
    names = []
    for number in range(len(flux.double_blocks)):
        attention = [f"double_blocks.{number}.{stream}_attn" for stream in ("img", "txt")]
        names += [f"{one}.{layer}" for one in attention for layer in ("qkv", "proj")]
    for number in range(len(flux.single_blocks)):
        names += [f"single_blocks.{number}.linear1", f"single_blocks.{number}.linear2"]
    layers = {name: cast(nn.Linear, flux.get_submodule(name)) for name in names}
    return {name: (layer.weight.shape[0], layer.weight.shape[1]) for name, layer in layers.items()}


def stored_lora(stored: Mapping[str, Tensor]) -> FluxLora | None:
    """The LoRA among a file's tensors; None where there is none."""
    pairs = {
        key.removeprefix(LORA).removesuffix(DOWN): (down, stored[key.removesuffix(DOWN) + UP])
        for key, down in stored.items()
        if key.startswith(LORA) and key.endswith(DOWN)
    }
    if not pairs:
        return None
    shapes = {name: (up.shape[0], down.shape[1]) for name, (down, up) in pairs.items()}
    made = FluxLora(shapes, next(iter(pairs.values()))[0].shape[0])
    with torch.no_grad():
        for layer, (down, up) in zip(made.named.values(), pairs.values(), strict=True):
            layer.down.weight.copy_(down)
            layer.up.weight.copy_(up)
    return made
