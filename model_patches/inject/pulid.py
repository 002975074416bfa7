"""PuLID's cross-attention: the definition, and all layers of an adapter folded for one identity."""

from __future__ import annotations

import weakref
from collections import deque
from collections.abc import Mapping, Sequence

import comfy.model_management
import torch
import torch.nn.functional as F
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..adapters.pulid_flux import IdentityAdapter
from ..files.cache import tensor_key
from .attention import NORM_EPS, Activation, Norm, fold, weigh, wrap_folded


def cross_attention(
    weights: Mapping[str, Tensor],
    heads: int,
    tokens: Tensor,
    image: Tensor,
    activate: Activation | None = None,
) -> Tensor:
    """The definition (PuLID-FLUX, PerceiverAttentionCA): what folding must reproduce.

    weights of one layer (norm1, norm2, to_q, to_kv, to_out), tokens (B, N, C), image (B, L, D)
    -> (B, L, D), without residual or weight. activate: see `FoldedAttention`.
    """
    keys, values = _keys_values(weights, tokens)
    norm2 = (weights["norm2.weight"], weights["norm2.bias"])
    queries = F.layer_norm(image, image.shape[-1:], *norm2, NORM_EPS) @ weights["to_q.weight"].T
    q, k, v = (_split_heads(x, heads) for x in (queries, keys, values))
    if activate is None:
        attended = F.scaled_dot_product_attention(q, k.expand(len(q), -1, -1, -1), v)
    else:
        scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
        scores, weight = activate(scores.transpose(1, 2))
        attended = weigh(scores.softmax(-1), weight).transpose(1, 2) @ v
    return attended.transpose(1, 2).flatten(2) @ weights["to_out.weight"].T


def _keys_values(weights: Mapping[str, Tensor], tokens: Tensor) -> tuple[Tensor, Tensor]:
    norm1 = (weights["norm1.weight"], weights["norm1.bias"])
    normed = F.layer_norm(tokens, tokens.shape[-1:], *norm1, NORM_EPS)
    keys, values = (normed @ weights["to_kv.weight"].T).chunk(2, dim=-1)
    return keys, values


def _split_heads(x: Tensor, heads: int) -> Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def layer_weights(
    cross_attention: Mapping[str, Tensor], layer: int, device: torch.device | str = "cpu"
) -> dict[str, Tensor]:
    """One layer of an adapter's cross-attention in float32, keys without the layer number."""
    return {
        name: value.to(device, torch.float32)
        for name, value in layer_tensors(cross_attention, layer).items()
    }


def layer_tensors(cross_attention: Mapping[str, Tensor], layer: int) -> dict[str, Tensor]:
    """One layer of an adapter's cross-attention as the file holds it, keys without the number."""
    prefix = f"{layer}."
    return {
        name.removeprefix(prefix): value
        for name, value in cross_attention.items()
        if name.startswith(prefix)
    }


def fold_layer(weights: Mapping[str, Tensor], heads: int, tokens: Tensor) -> dict[str, Tensor]:
    """One PuLID-FLUX layer (see `layer_weights`) folded for identity tokens (1, N, C)."""
    keys, values = (x[0] for x in _keys_values(weights, tokens))
    norm = Norm(weights["norm2.weight"], weights["norm2.bias"])
    return fold(keys, values, weights["to_q.weight"], weights["to_out.weight"], heads, norm)


def folded_for(adapter: IdentityAdapter, tokens: Tensor, dtype: torch.dtype) -> ModelPatcher:
    """All layers of an adapter folded for tokens (1, N, C), as `fold_stack` folds them."""
    layers = [layer_tensors(adapter.cross_attention, number) for number in range(adapter.count)]
    return fold_stack(adapter.digest, adapter.name, layers, adapter.heads, tokens, dtype)


def fold_stack(
    digest: str,
    name: str,
    layers: Sequence[Mapping[str, Tensor]],
    heads: int,
    tokens: Tensor,
    dtype: torch.dtype,
) -> ModelPatcher:
    """Layers folded for tokens (1, N, C): a ModuleList of FoldedAttention.

    digest: of the layers; name: of their file. Wrapped as a ModelPatcher, so that ComfyUI loads,
    counts and offloads it. Folding the same tokens again returns the same patcher while one is
    alive or was among the last few. Raises ValueError when a layer is not finite in this dtype.
    """
    key = (digest, heads, tensor_key(tokens), dtype)
    patcher = _alive.get(key)
    if patcher is None:
        patcher = _alive[key] = _fold_all(name, layers, heads, tokens, dtype)
    if patcher in _recent:
        _recent.remove(patcher)
    _recent.append(patcher)
    return patcher


# A graph keeps its folded identities alive; the last few outlive a change of a slider as well.
_alive: weakref.WeakValueDictionary[tuple, ModelPatcher] = weakref.WeakValueDictionary()
_recent: deque[ModelPatcher] = deque(maxlen=4)


def _fold_all(
    name: str,
    layers: Sequence[Mapping[str, Tensor]],
    heads: int,
    tokens: Tensor,
    dtype: torch.dtype,
) -> ModelPatcher:
    load = comfy.model_management.get_torch_device()
    # Fold in float32 whatever the file's type: the products would otherwise be rounded twice.
    tokens = tokens.to(load, torch.float32)
    folded = []
    for number, layer in enumerate(layers):
        weights = {key: value.to(load, torch.float32) for key, value in layer.items()}
        state = fold_layer(weights, heads, tokens)
        _check_folded(name, number, state, dtype)
        folded.append(state)
    return wrap_folded(folded, heads, dtype)


def _check_folded(name: str, layer: int, state: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    largest = max(value.abs().max().item() for value in state.values())
    if not largest <= torch.finfo(dtype).max:  # also false for NaN
        raise ValueError(
            f"Layer {layer} of '{name}' folded for this identity holds values up to "
            f"{largest:g}; {dtype} ends at {torch.finfo(dtype).max:g}. Use the unmodified adapter "
            "file and encode the photo again."
        )
