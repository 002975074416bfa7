"""Semantic-activated attention (DynamicID, equations 1 to 3) between scores and softmax.

How much an image token attends to people at all is read from its own scores: their sum over heads
and tokens, from the least (0) to the greatest (1) of the picture. All people share one softmax.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Layout:
    """What the regions of people do at one grid of image tokens. Float32, on the call's device."""

    factor: Tensor | None = None
    """(1 or R, L): multiplies the activation."""
    raised: Tensor | None = None
    """(1 or R, L): is added to it."""
    bias: Tensor | None = None
    """(1 or R, L, N): is added to the scores; -inf keeps a person out of others' regions."""
    logits: Tensor | None = None
    """(N,): multiplies the scores after the activation was read."""

    def of_rows(self, rows: slice) -> Layout:
        """The same for some rows of the batch that it was made for."""

        def cut(values: Tensor | None) -> Tensor | None:
            return values if values is None or len(values) == 1 else values[rows]

        return Layout(cut(self.factor), cut(self.raised), cut(self.bias), self.logits)


@dataclass(frozen=True, eq=False)
class Shares:
    """What the weights of people do, one entry for each of N tokens. Float32."""

    weight: float | Tensor
    """One number where all weights are equal, else (N,)."""
    relative: Tensor | None = None
    """(N,) weight over the largest weight; None: all 1."""
    bias: Tensor | None = None
    """(N,) logarithm of it: a person of small weight takes little of the softmax, too."""


def shares_of(weights: Sequence[float], counts: Sequence[int], device: torch.device) -> Shares:
    """weights: one for each person, above 0; counts: tokens of each."""
    if len(set(weights)) == 1:
        return Shares(weights[0])
    tokens = torch.tensor(counts, device=device)
    each = torch.tensor(weights, device=device).repeat_interleave(tokens)
    relative = each / max(weights)
    return Shares(each, relative, relative.log())


@dataclass(frozen=True, eq=False)
class Activate:
    """An Activation (see attention.py): scores (R, L, H, N) -> scores, and weights."""

    shares: Shares
    layout: Layout
    threshold: float | None
    """An activation below it counts as none; None: every image token attends fully."""
    show: Callable[[Tensor, Tensor | float], None] | None = None
    """Is shown what comes out, while somebody watches the run."""

    def __call__(self, scores: Tensor) -> tuple[Tensor, Tensor | float]:
        layout, shares = self.layout, self.shares
        weight = self._weigh_tokens(scores)
        if shares.bias is not None:
            scores = scores + shares.bias.to(scores.dtype)
        if layout.bias is not None:
            scores = scores + layout.bias.to(scores.dtype).unsqueeze(2)
        if layout.logits is not None:
            scores = scores * layout.logits.to(scores.dtype)
        if isinstance(weight, Tensor):
            weight = weight.to(scores.dtype)
        if self.show is not None:
            self.show(scores, weight)
        return scores, weight

    def _weigh_tokens(self, scores: Tensor) -> Tensor | float:
        """(R or 1, L) or (R or 1, L, N), or one number."""
        weight: Tensor | float = 1.0
        if self.threshold is not None:
            weight = activation(scores, self.shares.relative, self.threshold)
        if self.layout.factor is not None:
            weight = self.layout.factor * weight
        if self.layout.raised is not None:
            weight = weight + self.layout.raised
        if isinstance(self.shares.weight, Tensor):
            if isinstance(weight, Tensor):
                return weight.unsqueeze(-1) * self.shares.weight
            return self.shares.weight[None, None]
        return weight if self.shares.weight == 1.0 else weight * self.shares.weight


def activation(scores: Tensor, relative: Tensor | None, threshold: float) -> Tensor:
    """Equation 2: scores (R, L, H, N) -> (R, L) float32 in [0, 1].

    Sums are float32, and so are the smallest and largest of each row: a token whose value crosses
    the threshold changes by all of it. Where all tokens of a row are equally active, 0 is returned:
    there is no place in which to look for a face. Gradients are finite there, too.
    """
    by_token = scores.sum(2, dtype=torch.float32)
    total = by_token.sum(-1) if relative is None else by_token @ relative
    # Not aminmax, which has no gradient.
    low, high = total.amin(1, keepdim=True), total.amax(1, keepdim=True)
    span = high - low
    found = (total - low) / torch.where(span > 0, span, 1.0)
    return torch.where((span > 0) & (found >= threshold), found, 0.0)
