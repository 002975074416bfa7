"""PuLID-FLUX's cross-attention layers while they are trained, and the file they become."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from ..adapters.pulid_flux import HEAD, HEADS_KEY
from ..inject.pulid import cross_attention
from .export import write_safetensors
from .flux_blocks import Injections
from .frozen_base import Anchors

QUIET = 0.1
"""The first outputs, as a share of ordinary ones: training starts at the base."""


class CrossAttention(nn.Module):
    """One layer under the file's names: the pack's definition on trained weights, so that what is
    trained is what runs."""

    def __init__(self, hidden: int, tokens: int) -> None:
        """hidden: the base's width, a multiple of 128; tokens: that of the identity tokens."""
        super().__init__()
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
        return cross_attention(dict(self.named_parameters()), self.heads, tokens, image)


def injections(
    anchors: Anchors, layers: Sequence[CrossAttention], tokens: Tensor, weight: Tensor | None = None
) -> Injections:
    """Block -> what its layer adds to the image tokens; weight (B,), without it 1."""
    return {
        block: partial(_weigh_residual, layer, tokens, weight)
        for block, layer in zip(anchors.blocks, layers, strict=True)
    }


def _weigh_residual(
    layer: CrossAttention, tokens: Tensor, weight: Tensor | None, image: Tensor
) -> Tensor:
    residual = layer(tokens, image)
    return residual if weight is None else residual * weight[:, None, None].to(residual.dtype)


def write_pulid(path: Path, encoder: nn.Module, layers: nn.ModuleList) -> None:
    """A PuLID-FLUX file, bfloat16, with the number of heads in its metadata. Raises OSError."""
    tensors = {f"pulid_encoder.{k}": v for k, v in encoder.state_dict().items()}
    tensors |= {f"pulid_ca.{k}": v for k, v in layers.state_dict().items()}
    write_safetensors(path, tensors, torch.bfloat16, {HEADS_KEY: str(layers[0].heads)})
