"""PuLID's cross-attention, as defined and folded per identity.

The identity tokens do not change while sampling, so per head h the products
K'_h = K_h·Wq_h (N, D) and V'_h = V_h·Wo_hᵀ (N, D) are constants. Attention of L image tokens over
N identity tokens then is softmax(x̂·K'ᵀ/√d)·V': the same mathematics with a quarter of the
arithmetic and, at N = 32, an eighth of the weights.
"""

from __future__ import annotations

import hashlib
import weakref
from collections import deque
from collections.abc import Mapping
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import torch
import torch.nn.functional as F
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ..adapters.pulid_flux import IdentityAdapter

NORM_EPS = 1e-5


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


def fold(weights: Mapping[str, Tensor], heads: int, tokens: Tensor) -> dict[str, Tensor]:
    """Fold one layer for identity tokens (1, N, C): the state dict of a FoldedAttention.

    Also folds norm2's affine part and the softmax scale, so that only x̂ is left to compute.
    """
    keys, values = (_split_heads(x, heads)[0] for x in _keys_values(weights, tokens))
    width = keys.shape[-1]
    queries = weights["to_q.weight"].unflatten(0, (heads, width))
    products = torch.einsum("hnd,hdc->hnc", keys, queries).flatten(0, 1) * width**-0.5
    out = weights["to_out.weight"].unflatten(1, (heads, width))
    return {
        "key.weight": products * weights["norm2.weight"],
        "key.bias": products @ weights["norm2.bias"],
        "value.weight": torch.einsum("chd,hnd->chn", out, values).flatten(1),
    }


class FoldedAttention(nn.Module):
    """One layer's cross-attention over one identity."""

    def __init__(self, dim: int, heads: int, tokens: int, operations: Any, **kwargs: Any):
        super().__init__()
        self.heads = heads
        self.key = operations.Linear(dim, heads * tokens, **kwargs)
        self.value = operations.Linear(heads * tokens, dim, bias=False, **kwargs)

    def forward(self, image: Tensor, weight: float | Tensor = 1.0) -> Tensor:
        """image (B, L, D) -> weight × attention (B, L, D); a tensor weight is (B or 1, L or 1).

        The weight multiplies the attention map, which is six times smaller than the result.
        """
        scores = self.key(F.layer_norm(image, image.shape[-1:], eps=NORM_EPS))
        attention = scores.unflatten(-1, (self.heads, -1)).softmax(-1).flatten(-2)
        if isinstance(weight, Tensor):
            attention = attention * weight.unsqueeze(-1)
        elif weight != 1.0:
            attention = attention * weight
        return self.value(attention)


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


def folded_for(adapter: IdentityAdapter, tokens: Tensor, dtype: torch.dtype) -> ModelPatcher:
    """All layers of an adapter folded for tokens (1, N, C): a ModuleList of FoldedAttention.

    Wrapped as a ModelPatcher, so that ComfyUI loads, counts and offloads it. Folding the same
    tokens again returns the same patcher while one is alive or was among the last few.
    """
    digest = hashlib.sha256(tokens.contiguous().numpy().tobytes()).hexdigest()
    key = (adapter.digest, adapter.heads, digest, dtype)
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
    load, offload = (
        comfy.model_management.get_torch_device(),
        comfy.model_management.unet_offload_device(),
    )
    # Fold in float32 whatever the file's type: the products would otherwise be rounded twice.
    tokens = tokens.to(load, torch.float32)
    state: dict[str, Tensor] = {}
    for layer in range(adapter.count):
        weights = layer_weights(adapter.cross_attention, layer, load)
        for name, value in fold(weights, adapter.heads, tokens).items():
            state[f"{layer}.{name}"] = value.to(offload, dtype).contiguous()
    kwargs = {"device": offload, "dtype": dtype, "operations": comfy.ops.manual_cast}
    stack = nn.ModuleList(
        FoldedAttention(adapter.dim, adapter.heads, tokens.shape[1], **kwargs)
        for _ in range(adapter.count)
    )
    stack.requires_grad_(False).eval()
    patcher = comfy.model_patcher.CoreModelPatcher(stack, load_device=load, offload_device=offload)
    stack.load_state_dict(state, strict=True, assign=patcher.is_dynamic())
    return patcher
