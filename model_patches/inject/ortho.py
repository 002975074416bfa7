"""PuLID's attention on SDXL: what the identity adds is made orthogonal to the text's attention.

y is the text's attention and z the identity's, heads side by side, before the output projection:
y + w·(z - (1 - m)·c·y), where c projects z on y per channel over all image tokens, and m is the
share of the first identity tokens in the attention. Source: PuLID (arXiv 2404.16022) and its code.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from .attention import Activation, scale

Projection = Literal["none", "ortho", "ortho_v2"]
"""none: z as it is. ortho: without what lies along y. ortho_v2: that only where an image token does
not attend to the first identity tokens."""

FIRST = 5
"""Identity tokens that ortho_v2 takes for the face itself."""
SHRINK = 2.0**-6
"""Exact in every precision; a share of an attention stays a normal float16 with it."""


@dataclass(frozen=True)
class Orthogonality:
    """How the identity's attention is made."""

    projection: Projection = "none"
    zeros: float = 0.0
    """Weight of empty tokens beside the identity's: they take attention and add nothing."""


class OrthoAttention:
    """One layer's attention to one identity: keys, values (T, C) on the device of the run."""

    def __init__(self, keys: Tensor, values: Tensor, heads: int, how: Orthogonality):
        self.heads, self.how = heads, how
        self.first = min(FIRST, len(keys))
        if how.zeros:  # one empty token stands for all of them: its score is raised below
            keys, values = (torch.cat((x, x.new_zeros(1, x.shape[-1]))) for x in (keys, values))
        self.keys, self.values = (self._split(x.unsqueeze(0)) for x in (keys, values))
        self.scale = self.keys.shape[-1] ** -0.5

    def __call__(
        self, image: Tensor, weight: float | Tensor = 1.0, activate: Activation | None = None
    ) -> Tensor:
        """image (R, L, 2C): the base's queries and the text's attention side by side.

        Returns weight × what is added to the latter (R, L, C); a tensor weight is (R or 1, L).
        """
        if activate is not None:
            raise ValueError("OrthoAttention got an activation, expected None. Fold the layer.")
        queries, text = image.chunk(2, dim=-1)
        scores = self._split(queries) @ self.keys.mT
        attention = self._share(scores, self.scale).to(text.dtype)
        added = (attention @ self.values).transpose(1, 2).flatten(2)
        if self.how.projection != "none":
            share = self._project(attention, text)
            if self.how.projection == "ortho":
                added.addcmul_(share, text, value=-1.0)
            else:
                # The authors leave out the scale of the scores here.
                first = self._share(scores, 1.0)[..., : self.first].sum(-1).mean(1)
                added.addcmul_(share * text, (first - 1.0).to(text.dtype).unsqueeze(-1))
        return scale(added, weight)

    def _share(self, scores: Tensor, factor: float) -> Tensor:
        """Softmax (R, heads, L, T) of factor × scores, float32; the empty tokens are its last."""
        scores = scores.float() * factor
        if self.how.zeros:
            scores[..., -1] = math.log(self.how.zeros)
        return scores.softmax(-1)

    def _project(self, attention: Tensor, text: Tensor) -> Tensor:
        """How much of what is added lies along `text` (R, L, C), per row and channel (R, 1, C).

        The sum over all tokens of text × attention·V is that of (attentionᵀ·text) × V over the few
        identity tokens. A channel in which the text's attention is zero everywhere has no such
        part.
        """
        length = torch.linalg.vector_norm(text, dim=1, keepdim=True, dtype=torch.float32).square()
        # Over 4,096 tokens the sums would leave the range of float16.
        met = (attention * SHRINK).mT @ self._split(text)
        product = (met.float() * self.values.float()).sum(-2).flatten(1).unsqueeze(1) / SHRINK
        return torch.where(length > 0, product / length, 0.0).to(text.dtype)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)
