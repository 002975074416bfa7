"""Reference guidance within one prediction: the keys of a reference count more or less.

Attention to a reference's tokens is multiplied by its weight before the softmax is normalised,
which is log(w) on its scores. Weight 0 leaves its keys out: exactly the model without it. Weight 1
is the model as it is. Between the two the effect is not linear in w, and other models have another
curve, but any number of references costs no second prediction, and all keep their places.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

OVERRIDE = "optimized_attention_override"
"""ComfyUI's key for a function that is called in place of an attention."""
COUNTS = "reference_image_num_tokens"
"""Where a model announces the tokens of each reference; their keys are the last ones."""


class WeighKeys:
    """The attention of one batch, with weights for its references."""

    def __init__(self, weight_of: Callable[[int], float], previous: Callable | None) -> None:
        """weight_of: the number of a reference, from 0 -> its weight at this moment."""
        self.weight_of, self.previous = weight_of, previous
        self.calls = 0
        """How many attentions had references among their keys."""

    def __call__(
        self,
        attention: Callable,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        heads: int,
        mask: Tensor | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> Tensor:
        """q, k, v (..., tokens, channels), as ComfyUI's attention functions take them."""
        counts = _count_tokens(kwargs.get("transformer_options"))
        if counts:
            self.calls += 1
            weights = [self.weight_of(number) for number in range(len(counts))]
            k, v, mask = weigh_keys(q, k, v, mask, counts, weights)
        if self.previous is None:
            return attention(q, k, v, heads, mask, *args, **kwargs)
        return self.previous(attention, q, k, v, heads, mask, *args, **kwargs)


def _count_tokens(options: Mapping[str, Any] | None) -> Sequence[int]:
    """Tokens of each reference among the keys; none outside the model's blocks, where it may
    attend to text alone."""
    if not options or "block_index" not in options:
        return ()
    return options.get(COUNTS) or ()


def weigh_keys(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    counts: Sequence[int],
    weights: Sequence[float],
) -> tuple[Tensor, Tensor, Tensor | None]:
    """k, v and mask for attention with these weights on the last sum(counts) keys."""
    if all(weight == 1.0 for weight in weights):
        return k, v, mask
    kept = k.shape[-2] - sum(counts)
    if not any(weights):
        mask = mask if mask is None or mask.shape[-1] == 1 else mask[..., :kept]
        return k[..., :kept, :], v[..., :kept, :], mask
    bias = torch.zeros(k.shape[-2], device=q.device, dtype=q.dtype)
    for count, weight in zip(counts, weights, strict=True):
        bias[kept : kept + count] = math.log(weight) if weight else -math.inf
        kept += count
    if mask is None:
        return k, v, bias.expand(q.shape[-2], -1)
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, device=q.device, dtype=q.dtype).masked_fill(~mask, -math.inf)
    return k, v, mask + bias
