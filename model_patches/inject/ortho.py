"""PuLID's attention on SDXL: what the identity adds is made orthogonal to the text's attention.

y is the text's attention and z the identity's, heads side by side, before the output projection:
y + w·(z - (1 - m)·c·y), where c projects z on y per channel over all image tokens, and m is the
share of the first identity tokens in the attention. Source: PuLID (arXiv 2404.16022) and its code.
"""

from __future__ import annotations

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
        self.keys, self.values = (self._split(x.unsqueeze(0)) for x in (keys, values))

    def __call__(
        self, image: Tensor, weight: float | Tensor = 1.0, activate: Activation | None = None
    ) -> Tensor:
        """image (R, L, 2C): the base's queries and the text's attention side by side.

        Returns weight × what is added to the latter (R, L, C); a tensor weight is (R or 1, L).
        """
        if activate is not None:
            raise ValueError("OrthoAttention got an activation, expected None. Fold the layer.")
        queries, text = image.chunk(2, dim=-1)
        queries = self._split(queries)
        width = queries.shape[-1] ** 0.5
        scores = ((queries / width) @ self.keys.mT).float()
        # Empty tokens have a score of 0, which the largest must include.
        top = scores.amax(dim=-1, keepdim=True).clamp_min(0.0)
        attention = self._share(scores, top)
        added = (attention.to(text.dtype) @ self.values).transpose(1, 2).flatten(2)
        if self.how.projection != "none":
            along = _project(added, text)
            if self.how.projection == "ortho_v2":
                # The authors leave out the scale of the scores here.
                first = self._share(scores * width, top * width)[..., :FIRST].sum(-1).mean(1)
                along = along * (1.0 - first).to(along.dtype).unsqueeze(-1)
            added = added - along
        return scale(added, weight)

    def _share(self, scores: Tensor, top: Tensor) -> Tensor:
        """Softmax over the tokens and the empty ones, of which only the tokens' is returned."""
        powers = (scores - top).exp()
        total = powers.sum(-1, keepdim=True)
        return powers / (total + self.how.zeros * (-top).exp())

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


def _project(added: Tensor, text: Tensor) -> Tensor:
    """The part of `added` (R, L, C) along `text`, per row and channel over all tokens.

    Sums are float32: over 4,096 tokens they leave the range of float16. A channel in which the
    text's attention is zero everywhere has no such part.
    """
    length = torch.linalg.vector_norm(text, dim=1, keepdim=True, dtype=torch.float32).square()
    product = (text * added.float()).sum(dim=1, keepdim=True)
    share = torch.where(length > 0, product / length, 0.0)
    return share.to(text.dtype) * text
