"""Cross-attention of image tokens to identity tokens, as defined and folded per identity.

The identity tokens do not change while sampling, so per head h the products
K'_h = K_h·Wq_h (N, D) and V'_h = V_h·Wo_hᵀ (N, D) are constants. Attention of L image tokens over
N identity tokens then is softmax(x̂·K'ᵀ/√d)·V': the same mathematics with a quarter of the
arithmetic and, at N = 32, an eighth of the weights.
"""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.ops
import torch
import torch.nn.functional as F
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ..adapters.pulid_flux import IdentityAdapter
from ..files.cache import tensor_key
from ..files.modules import wrap
from .sites import Site

NORM_EPS = 1e-5

Activation = Callable[[Tensor], tuple[Tensor, Tensor | float]]
"""Scores (R, L, H, N) before the softmax -> scores, and a weight of the tokens (R or 1, L or 1)."""
Matrix = Tensor | Callable[[Tensor], Tensor]
"""A matrix (out, in), or the linear layer (…, in) -> (…, out) that multiplies by it."""


@dataclass(frozen=True, eq=False)
class Norm:
    """The affine part of a LayerNorm on image tokens."""

    weight: Tensor
    bias: Tensor


def cross_attention(
    weights: Mapping[str, Tensor], heads: int, tokens: Tensor, image: Tensor
) -> Tensor:
    """The definition (PuLID-FLUX, PerceiverAttentionCA): what folding must reproduce.

    weights of one layer (norm1, norm2, to_q, to_kv, to_out), tokens (B, N, C), image (B, L, D)
    -> (B, L, D), without residual or weight.
    """
    keys, values = _keys_values(weights, tokens)
    norm2 = (weights["norm2.weight"], weights["norm2.bias"])
    queries = F.layer_norm(image, image.shape[-1:], *norm2, NORM_EPS) @ weights["to_q.weight"].T
    q, k, v = (_split_heads(x, heads) for x in (queries, keys, values))
    attended = F.scaled_dot_product_attention(q, k.expand(len(q), -1, -1, -1), v)
    return attended.transpose(1, 2).flatten(2) @ weights["to_out.weight"].T


def _keys_values(weights: Mapping[str, Tensor], tokens: Tensor) -> tuple[Tensor, Tensor]:
    norm1 = (weights["norm1.weight"], weights["norm1.bias"])
    normed = F.layer_norm(tokens, tokens.shape[-1:], *norm1, NORM_EPS)
    return (normed @ weights["to_kv.weight"].T).chunk(2, dim=-1)


def _split_heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def matrix_of(source: Matrix, width: int, like: Tensor) -> Tensor:
    """The matrix (out, width) by which a linear layer multiplies, without its bias.

    A layer is asked rather than read, so LoRA patches and quantised weights count. `like` gives
    the device and dtype of what the layer takes.
    """
    if isinstance(source, Tensor):
        return source
    basis = torch.eye(width, device=like.device, dtype=like.dtype)
    return (source(basis) - source(basis.new_zeros(1, width))).T.to(torch.float32)


def fold(
    keys: Tensor,
    values: Tensor,
    query: Matrix,
    out: Matrix,
    heads: int,
    norm: Norm | None = None,
    width: int | None = None,
) -> dict[str, Tensor]:
    """Fold one layer for one identity: the state dict of a FoldedAttention.

    keys, values (N, H·d): the identity's, as the layer's own projections make them. query (H·d, D)
    and out (D, H·d): the adapter's matrices, or the base model's linear layers as functions (then
    `width` is D). With `norm`, the image tokens are normalised first; its affine part is folded
    in, and so is the softmax scale.
    """
    head = keys.shape[-1] // heads
    k, v = (x.unflatten(-1, (heads, head)).transpose(0, 1) for x in (keys, values))
    queries = matrix_of(query, width or 0, keys).unflatten(0, (heads, head))
    products = torch.einsum("hnd,hdc->hnc", k, queries).flatten(0, 1) * head**-0.5
    outs = matrix_of(out, heads * head, keys).unflatten(1, (heads, head))
    state = {"value.weight": torch.einsum("chd,hnd->chn", outs, v).flatten(1)}
    if norm is None:
        return {"key.weight": products, **state}
    return {
        "key.weight": products * norm.weight,
        "key.bias": products @ norm.bias,
        **state,
    }


class FoldedAttention(nn.Module):
    """One layer's cross-attention over one identity, or over several side by side."""

    def __init__(
        self,
        dim: int,
        heads: int,
        tokens: int,
        operations: Any = nn,
        norm: bool = True,
        **kwargs: Any,
    ):
        super().__init__()
        self.heads = heads
        self.norm = norm
        self.key = operations.Linear(dim, heads * tokens, bias=norm, **kwargs)
        self.value = operations.Linear(heads * tokens, dim, bias=False, **kwargs)

    def forward(
        self,
        image: Tensor,
        weight: float | Tensor = 1.0,
        activate: Activation | None = None,
    ) -> Tensor:
        """image (B, L, D) -> weight × attention (B, L, D); a tensor weight is (B or 1, L or 1).

        `activate` sees the scores of all heads and tokens before the softmax. The weight
        multiplies the attention map, which is six times smaller than the result.
        """
        seen = F.layer_norm(image, image.shape[-1:], eps=NORM_EPS) if self.norm else image
        scores = self.key(seen).unflatten(-1, (self.heads, -1))
        if activate is not None:
            scores, active = activate(scores)
            weight = weight * active
        attention = scores.softmax(-1).flatten(-2)
        if isinstance(weight, Tensor):
            attention = attention * weight.unsqueeze(-1)
        elif weight != 1.0:
            attention = attention * weight
        return self.value(attention)


@dataclass(frozen=True, eq=False)
class Term:
    """What some rows and tokens receive from one identity, at every site it has a layer for."""

    layers: Mapping[Site, FoldedAttention]
    rows: slice
    index: Tensor | None
    """(K,) positions of the image tokens that are covered; None: all."""
    weight: float | Tensor
    """One number, or (rows or 1, tokens or 1)."""
    activate: Activation | None = None

    def residual(self, site: Site, image: Tensor) -> Tensor:
        """image (R, L, D), all rows -> this term's residual on its own rows and tokens."""
        image = image[self.rows]
        if self.index is not None:
            image = image.index_select(1, self.index)
        return self.layers[site](image, self.weight, self.activate)

    def add(self, image: Tensor, residual: Tensor) -> None:
        if self.index is None:
            image[self.rows] += residual
        else:
            image[self.rows].index_add_(1, self.index, residual)


def layer_weights(
    cross_attention: Mapping[str, Tensor], layer: int, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """One layer of an adapter's cross-attention in float32, keys without the layer number."""
    prefix = f"{layer}."
    return {
        name.removeprefix(prefix): value.to(device, torch.float32)
        for name, value in cross_attention.items()
        if name.startswith(prefix)
    }


def fold_layer(weights: Mapping[str, Tensor], heads: int, tokens: Tensor) -> dict[str, Tensor]:
    """One PuLID-FLUX layer (see `layer_weights`) folded for identity tokens (1, N, C)."""
    keys, values = (x[0] for x in _keys_values(weights, tokens))
    norm = Norm(weights["norm2.weight"], weights["norm2.bias"])
    return fold(keys, values, weights["to_q.weight"], weights["to_out.weight"], heads, norm)


def folded_for(adapter: IdentityAdapter, tokens: Tensor, dtype: torch.dtype) -> ModelPatcher:
    """All layers of an adapter folded for tokens (1, N, C): a ModuleList of FoldedAttention.

    Wrapped as a ModelPatcher, so that ComfyUI loads, counts and offloads it. Folding the same
    tokens again returns the same patcher while one is alive or was among the last few. Raises
    ValueError when a layer is not finite in this dtype.
    """
    key = (adapter.digest, adapter.heads, tensor_key(tokens), dtype)
    patcher = _alive.get(key)
    if patcher is None:
        patcher = _alive[key] = _fold_all(adapter, tokens, dtype)
    if patcher in _recent:
        _recent.remove(patcher)
    _recent.append(patcher)
    return patcher


# A graph keeps its folded identities alive; the last few outlive a change of a slider as well.
_alive: weakref.WeakValueDictionary[tuple, ModelPatcher] = weakref.WeakValueDictionary()
_recent: deque[ModelPatcher] = deque(maxlen=4)


def _fold_all(adapter: IdentityAdapter, tokens: Tensor, dtype: torch.dtype) -> ModelPatcher:
    load = comfy.model_management.get_torch_device()
    # Fold in float32 whatever the file's type: the products would otherwise be rounded twice.
    tokens = tokens.to(load, torch.float32)
    folded = []
    for layer in range(adapter.count):
        state = fold_layer(
            layer_weights(adapter.cross_attention, layer, load), adapter.heads, tokens
        )
        _check_folded(adapter, layer, state, dtype)
        folded.append(state)
    return wrap_folded(folded, adapter.heads, dtype)


def _check_folded(
    adapter: IdentityAdapter, layer: int, state: Mapping[str, Tensor], dtype: torch.dtype
) -> None:
    largest = max(value.abs().max().item() for value in state.values())
    if not largest <= torch.finfo(dtype).max:  # also false for NaN
        raise ValueError(
            f"Layer {layer} of '{adapter.name}' folded for this identity holds values up to "
            f"{largest:g}; {dtype} ends at {torch.finfo(dtype).max:g}. Use the unmodified adapter "
            "file and encode the photo again."
        )


def wrap_folded(
    folded: Sequence[Mapping[str, Tensor]], heads: int, dtype: torch.dtype
) -> ModelPatcher:
    """Folded layers as a ModuleList in a ModelPatcher, on the offload device in `dtype`."""
    offload = comfy.model_management.unet_offload_device()
    kwargs = {"device": offload, "dtype": dtype, "operations": comfy.ops.manual_cast}
    stack = nn.ModuleList()
    for state in folded:
        columns, dim = state["key.weight"].shape
        norm = "key.bias" in state
        stack.append(FoldedAttention(dim, heads, columns // heads, norm=norm, **kwargs))
    patcher = wrap(stack)
    tensors = {
        f"{layer}.{name}": value.to(offload, dtype).contiguous()
        for layer, state in enumerate(folded)
        for name, value in state.items()
    }
    stack.load_state_dict(tensors, strict=True, assign=patcher.is_dynamic())
    return patcher
