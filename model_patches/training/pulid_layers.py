"""PuLID-FLUX's cross-attention layers while they are trained, and the file they become."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ..adapters.pulid_flux import HEAD, HEADS_KEY, Blocks, state_blocks
from ..inject.attention import Activation
from ..inject.pulid import cross_attention
from .export import write_safetensors
from .flux_blocks import Injections

QUIET = 0.1
"""The first outputs, as a share of ordinary ones: training starts at the base."""


Layer = Callable[[Tensor, Tensor], Tensor]
"""Identity tokens (B, N, C) and image tokens (B, L, D) -> residual (B, L, D)."""


class CrossAttention(nn.Module):
    """One layer under the file's names: the pack's definition on trained weights, so that what is
    trained is what runs."""

    def __init__(self, hidden: int, tokens: int, activate: Activation | None = None) -> None:
        """hidden: the base's width, a multiple of 128; tokens: that of the identity tokens.
        activate: sees the scores before the softmax, as in a run."""
        super().__init__()
        self.activate = activate
        self.heads = hidden // HEAD
        self.norm1 = nn.LayerNorm(tokens)
        self.norm2 = nn.LayerNorm(hidden)
        self.to_q = nn.Linear(hidden, hidden, bias=False)
        self.to_kv = nn.Linear(tokens, 2 * hidden, bias=False)
        self.to_out = nn.Linear(hidden, hidden, bias=False)
        with torch.no_grad():
            self.to_out.weight.mul_(QUIET)

    def forward(self, tokens: Tensor, image: Tensor) -> Tensor:
        """Identity tokens (B, N, C) and image tokens (B, L, D) -> residual (B, L, D)."""
        weights = dict(self.named_parameters())
        return cross_attention(weights, self.heads, tokens, image, self.activate)


def injections(
    blocks: Sequence[tuple[str, int]],
    layers: Sequence[Layer],
    tokens: Tensor,
    weight: Tensor | None = None,
) -> Injections:
    """Block -> what its layer adds to the image tokens; weight (B,), without it 1."""
    return {
        block: partial(_weigh_residual, layer, tokens, weight)
        for block, layer in zip(blocks, layers, strict=True)
    }


def _weigh_residual(layer: Layer, tokens: Tensor, weight: Tensor | None, image: Tensor) -> Tensor:
    residual = layer(tokens, image)
    return residual if weight is None else residual * weight[:, None, None].to(residual.dtype)


def write_pulid(
    path: Path,
    encoder: nn.Module,
    layers: nn.ModuleList,
    blocks: Blocks | None = None,
    lora: Mapping[str, Tensor] | None = None,
) -> None:
    """A PuLID-FLUX file, bfloat16, with the number of heads in its metadata. Raises OSError.

    blocks: behind which the layers stand; None: behind PuLID's. lora: the base's, by the names of
    adapters/flux_lora.py.
    """
    tensors = {f"pulid_encoder.{k}": v for k, v in encoder.state_dict().items()}
    tensors |= {f"pulid_ca.{k}": v for k, v in layers.state_dict().items()}
    tensors |= lora or {}
    stated = {HEADS_KEY: str(layers[0].heads), **state_blocks(blocks)}
    write_safetensors(path, tensors, torch.bfloat16, stated)
