"""The perceiver layer that PuLID, FlexIP, IP-Adapter and DynamicID share.

Learned latents read a context of any length. Key names are those of the published files:
"0.norm1.weight", "0.to_kv.weight", ..., "1.1.weight". Source: Flamingo (arXiv 2204.14198).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class PerceiverAttention(nn.Module):
    """Latents (B, Q, dim) attend to context (B, N, dim) and to themselves; (B, Q, dim), the update.

    `heads` heads of `head_width` channels; no biases. norm1 acts on the context, norm2 on the
    latents. The first half of to_kv's rows makes the keys, the second the values.
    """

    def __init__(
        self, dim: int, heads: int, head_width: int, operations: Any = nn, **factory: Any
    ) -> None:
        super().__init__()
        self.heads = heads
        inner = heads * head_width
        self.norm1 = operations.LayerNorm(dim, **factory)
        self.norm2 = operations.LayerNorm(dim, **factory)
        self.to_q = operations.Linear(dim, inner, bias=False, **factory)
        self.to_kv = operations.Linear(dim, 2 * inner, bias=False, **factory)
        self.to_out = operations.Linear(inner, dim, bias=False, **factory)

    def forward(self, latents: Tensor, context: Tensor, bias: Tensor | None = None) -> Tensor:
        """bias (N,) is added to the scores of the context's tokens."""
        context, latents = self.norm1(context), self.norm2(latents)
        k, v = self.to_kv(torch.cat((context, latents), dim=1)).chunk(2, dim=-1)
        q, k, v = (self._split_heads(x) for x in (self.to_q(latents), k, v))
        mask = None if bias is None else F.pad(bias, (0, latents.shape[1]))[None, None, None]
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return self.to_out(out.transpose(1, 2).flatten(2))

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class PerceiverLayer(nn.ModuleList):
    """Attention, then a feed-forward part of `hidden` channels, both added to the latents.

    latents (B, Q, dim), context (B, N, dim) -> latents (B, Q, dim). bias as in the attention.
    """

    def __init__(
        self,
        dim: int,
        heads: int,
        head_width: int,
        hidden: int,
        operations: Any = nn,
        **factory: Any,
    ) -> None:
        feed_forward = nn.Sequential(
            operations.LayerNorm(dim, **factory),
            operations.Linear(dim, hidden, bias=False, **factory),
            nn.GELU(),
            operations.Linear(hidden, dim, bias=False, **factory),
        )
        attention = PerceiverAttention(dim, heads, head_width, operations, **factory)
        super().__init__((attention, feed_forward))

    def forward(self, latents: Tensor, context: Tensor, bias: Tensor | None = None) -> Tensor:
        attention, feed_forward = self
        latents = latents + attention(latents, context, bias)
        return latents + feed_forward(latents)
