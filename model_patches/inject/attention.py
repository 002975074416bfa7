"""Cross-attention of image tokens to identity tokens, as defined and folded per identity.

The identity tokens do not change while sampling, so per head h the products
K'_h = K_h·Wq_h (N, D) and V'_h = V_h·Wo_hᵀ (N, D) are constants. Attention of L image tokens over
N identity tokens then is softmax(x̂·K'ᵀ/√d)·V': the same mathematics with a quarter of the
arithmetic and, at N = 32, an eighth of the weights. Where the queries are the base model's own and
the tokens many, folding would cost more, and attention runs through the base's layers instead.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.ops
import torch
import torch.nn.functional as F
from comfy.ldm.modules.attention import CrossAttention, optimized_attention
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ..files.modules import wrap

NORM_EPS = 1e-5
SCALE = 64.0
"""A power of two, so that scaling is exact; weights up to 1,000 fit float16 with it."""

Activation = Callable[[Tensor], tuple[Tensor, Tensor | float]]
"""Scores (R, L, H, N) before the softmax -> scores, and a weight: of the image tokens (R or 1,
L or 1), or of each identity token at each of them (R or 1, L or 1, N)."""
Matrix = Tensor | Callable[[Tensor], Tensor]
"""A matrix (out, in), or the linear layer (…, in) -> (…, out) that multiplies by it."""


@dataclass(frozen=True, eq=False)
class Norm:
    """The affine part of a LayerNorm on image tokens."""

    weight: Tensor
    bias: Tensor


def matrix_of(source: Matrix, width: int, like: Tensor) -> Tensor:
    """The matrix (out, width) by which a linear layer multiplies, without its bias.

    A layer is asked rather than read, so LoRA patches and quantised weights count. `like` gives
    the device and dtype of what the layer takes; the matrix is float32.
    """
    if isinstance(source, Tensor):
        return source
    # Asked at a scale at which a bias costs no digits of the weights in half precision.
    basis = SCALE * torch.eye(width, device=like.device, dtype=like.dtype)
    products = source(basis).float() - source(basis.new_zeros(1, width)).float()
    return products.T / SCALE


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
        """image (B, L, D) -> weight × attention (B, L, D).

        A tensor weight is (B or 1, L or 1), or of each identity token (B or 1, L or 1, N).
        `activate` sees the scores of all heads and tokens before the softmax. The weight
        multiplies the attention map, which is six times smaller than the result.
        """
        return attend_jointly((self,), image, weight, activate)


@dataclass(frozen=True, eq=False)
class JoinedAttention:
    """One layer's cross-attention over several identities, all in one softmax.

    Each keeps its own folded layer, which other nodes may share and ComfyUI manages, so who takes
    part can change from step to step at no cost.
    """

    layers: Sequence[FoldedAttention]
    """Of equally many heads, and equally with or without the norm."""

    def __call__(
        self,
        image: Tensor,
        weight: float | Tensor = 1.0,
        activate: Activation | None = None,
    ) -> Tensor:
        """As FoldedAttention; the N identity tokens are those of all layers side by side."""
        return attend_jointly(self.layers, image, weight, activate)


def attend_jointly(
    layers: Sequence[FoldedAttention],
    image: Tensor,
    weight: float | Tensor,
    activate: Activation | None,
) -> Tensor:
    """Attention of image (B, L, D) over the tokens of all layers in one softmax, see above."""
    heads, norm = layers[0].heads, layers[0].norm
    seen = F.layer_norm(image, image.shape[-1:], eps=NORM_EPS) if norm else image
    each = [layer.key(seen).unflatten(-1, (heads, -1)) for layer in layers]
    scores = each[0] if len(each) == 1 else torch.cat(each, dim=-1)
    if activate is not None:
        scores, active = activate(scores)
        weight = weight * active
    shares = weigh(scores.softmax(-1), weight)
    parts = shares.split([one.shape[-1] for one in each], dim=-1)
    attended = layers[0].value(parts[0].flatten(-2))
    for layer, part in zip(layers[1:], parts[1:], strict=True):
        attended = attended + layer.value(part.flatten(-2))
    return attended


def weigh(shares: Tensor, weight: float | Tensor) -> Tensor:
    """Shares of the softmax (B, L, H, N) times a weight, alike for all heads: one number, or
    (B or 1, L or 1), or (B or 1, L or 1, N)."""
    if isinstance(weight, Tensor):
        return shares * (weight[..., None, None] if weight.ndim == 2 else weight.unsqueeze(-2))
    return shares if weight == 1.0 else shares * weight


def scale(values: Tensor, weight: float | Tensor) -> Tensor:
    """values (B, L, D) times a weight: one number, or (B or 1, L or 1)."""
    if isinstance(weight, Tensor):
        return values * weight.unsqueeze(-1)
    return values if weight == 1.0 else values * weight


class BaseAttention:
    """One layer's cross-attention through the base model's own query and output layers.

    keys, values (N, H·d) of given tokens; attention: the base's layer (to_q, to_out, heads). Used
    where folding does not pay. Nothing of the base is stored beyond a sampling run.
    """

    def __init__(self, keys: Tensor, values: Tensor, attention: CrossAttention):
        self.keys, self.values = keys.unsqueeze(0), values.unsqueeze(0)
        self.attention = attention
        self.bias = attention.to_out(values.new_zeros(1, values.shape[-1]))

    def __call__(
        self,
        image: Tensor,
        weight: float | Tensor = 1.0,
        activate: Activation | None = None,
    ) -> Tensor:
        """As FoldedAttention, but it cannot show its scores: `activate` must be None."""
        if activate is not None:
            raise ValueError("BaseAttention got an activation, expected None. Fold the layer.")
        queries = self.attention.to_q(image)
        keys, values = (x.expand(len(image), -1, -1) for x in (self.keys, self.values))
        precision = self.attention.attn_precision
        mixed = optimized_attention(
            queries, keys, values, self.attention.heads, attn_precision=precision
        )
        return self.attention.to_out(scale(mixed, weight)) - self.bias


def folding_pays(tokens: int, heads: int, dim: int) -> bool:
    """Whether folded attention multiplies less than the base's query and output layers do."""
    return heads * tokens < dim + tokens


def place_folded(
    state: Mapping[str, Tensor], heads: int, device: torch.device, dtype: torch.dtype
) -> FoldedAttention:
    """A folded layer on the device where a run needs it, outside ComfyUI's memory management."""
    layer = _make_layer(state, heads, {"device": "meta", "dtype": dtype})
    tensors = {name: value.to(device, dtype) for name, value in state.items()}
    layer.load_state_dict(tensors, strict=True, assign=True)
    return layer.requires_grad_(False).eval()


def _make_layer(
    state: Mapping[str, Tensor], heads: int, factory: Mapping[str, Any]
) -> FoldedAttention:
    columns, dim = state["key.weight"].shape
    norm = "key.bias" in state
    operations = comfy.ops.manual_cast
    return FoldedAttention(dim, heads, columns // heads, operations, norm, **factory)


def wrap_folded(
    folded: Sequence[Mapping[str, Tensor]], heads: int, dtype: torch.dtype
) -> ModelPatcher:
    """Folded layers as a ModuleList in a ModelPatcher, on the offload device in `dtype`."""
    offload = comfy.model_management.unet_offload_device()
    factory = {"device": offload, "dtype": dtype}
    stack = nn.ModuleList(_make_layer(state, heads, factory) for state in folded)
    patcher = wrap(stack)
    tensors = {
        f"{layer}.{name}": value.to(offload, dtype).contiguous()
        for layer, state in enumerate(folded)
        for name, value in state.items()
    }
    stack.load_state_dict(tensors, strict=True, assign=patcher.is_dynamic())
    return patcher
