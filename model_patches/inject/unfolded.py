"""PuLID-FLUX's cross-attention as its authors define it, for tokens that folding does not suit:
those that change from step to step, and those that are too many."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import comfy.model_management
import comfy.ops
import torch
import torch.nn.functional as F
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ..files.modules import wrap
from .attention import NORM_EPS


class UnfoldedAttention(nn.Module):
    """One layer; names are those of the file.

    dim: channels of image tokens; width: of the tokens they attend to; inner: of queries.
    """

    def __init__(
        self,
        dim: int,
        width: int,
        inner: int,
        heads: int,
        operations: Any = nn,
        **factory: Any,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = operations.LayerNorm(width, eps=NORM_EPS, **factory)
        self.norm2 = operations.LayerNorm(dim, eps=NORM_EPS, **factory)
        self.to_q = operations.Linear(dim, inner, bias=False, **factory)
        self.to_kv = operations.Linear(width, 2 * inner, bias=False, **factory)
        self.to_out = operations.Linear(inner, dim, bias=False, **factory)

    def queries(self, image: Tensor) -> Tensor:
        """image (R, L, dim) -> (R, L, inner)."""
        return self.to_q(self.norm2(image))

    def project(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """tokens (R, N, width) -> keys and values (R, N, inner)."""
        keys, values = self.to_kv(self.norm1(tokens)).chunk(2, dim=-1)
        return keys, values

    def attend(
        self, queries: Tensor, keys: Tensor, values: Tensor, bias: Tensor | None = None
    ) -> Tensor:
        """queries (R, L, inner), keys and values (R, N, inner) -> (R, L, dim).

        bias: (R or 1, 1, 1, N) on the scores, or None.
        """
        q, k, v = (
            x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in (queries, keys, values)
        )
        attended = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        return self.to_out(attended.transpose(1, 2).flatten(2))


# A graph keeps its layers alive.
_alive: weakref.WeakValueDictionary[tuple, ModelPatcher] = weakref.WeakValueDictionary()


def unfold(
    digest: str, layers: Sequence[Mapping[str, Tensor]], heads: int, dtype: torch.dtype
) -> ModelPatcher:
    """Layers as a ModuleList of UnfoldedAttention, on the offload device in `dtype`.

    digest: of the layers; the same ones are given the same patcher while it is in use.
    """
    key = (digest, heads, dtype)
    patcher = _alive.get(key)
    if patcher is None:
        patcher = _alive[key] = _build(layers, heads, dtype)
    return patcher


def _build(layers: Sequence[Mapping[str, Tensor]], heads: int, dtype: torch.dtype) -> ModelPatcher:
    offload = comfy.model_management.unet_offload_device()
    inner, dim = layers[0]["to_q.weight"].shape
    sizes = (dim, layers[0]["to_kv.weight"].shape[1], inner, heads)
    factory = {"device": offload, "dtype": dtype}
    stack = nn.ModuleList(
        UnfoldedAttention(*sizes, comfy.ops.manual_cast, **factory) for _ in layers
    )
    patcher = wrap(stack)
    tensors = {
        f"{place}.{name}": value.to(offload, dtype)
        for place, layer in enumerate(layers)
        for name, value in layer.items()
    }
    stack.load_state_dict(tensors, strict=True, assign=patcher.is_dynamic())
    return patcher
