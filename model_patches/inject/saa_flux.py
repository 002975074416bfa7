"""People on a Flux, by a PuLID-FLUX file. This goes beyond the DynamicID paper, which knows SD 1.5.

PuLID's cross-attention is residual and stands behind a block, not inside its attention. Equation 1
then reads, behind each of PuLID's blocks,

    img <- img + w * A(LN(img); tokens of all people),

where img are the block's image tokens, A is the file's own attention with its output projection,
and all people share one softmax. Equation 2 is read from the same attention: the activation of an
image token is the sum of its scores Q*K^T/sqrt(d), where Q comes from the normalised image token,
over all heads of the file and all tokens of all people, scaled from the least (0) to the greatest
(1) of the picture, in each block anew. Queries are the picture's image tokens only: text tokens and
the reference tokens of Kontext count for nothing and get nothing. The files were trained without
w, so how far the activation finds faces is a matter of measurement (see Apply SAA's help page).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..adapters.pulid_flux import IdentityAdapter
from .attention import JoinedAttention
from .call import Call, Layer, Role, Site
from .pulid import folded_for
from .saa_group import SAA, Group, Member


@dataclass(frozen=True, eq=False)
class FoldedTokens:
    """One person's tokens as every layer sees them."""

    patcher: ModelPatcher
    """A ModuleList of FoldedAttention, one per site; Apply VFA shares it."""
    tokens: int


@dataclass(frozen=True, eq=False)
class FluxGroup(Group[FoldedTokens]):
    """Members hold FoldedTokens each."""

    def models(self) -> list[ModelPatcher]:
        both = [tokens for one in self.members for tokens in (one.positive, one.negative)]
        return list(dict.fromkeys(one.patcher for one in both))

    def layers(
        self, call: Call, role: Role, members: Sequence[Member[FoldedTokens]]
    ) -> Mapping[Site, Layer]:
        """Once per run and set of people."""
        key = (SAA, self, members, role)
        if key not in call.run.cache:
            stacks = [one.tokens(role).patcher.model for one in members]
            joined = map(JoinedAttention, zip(*stacks, strict=True))
            call.run.cache[key] = dict(zip(self.sites, joined, strict=True))
        return call.run.cache[key]


def flux_tokens(adapter: IdentityAdapter, dtype: torch.dtype, tokens: Tensor) -> FoldedTokens:
    """tokens (1, N, C) folded for every layer. dtype: of the model's arithmetic."""
    return FoldedTokens(folded_for(adapter, tokens, dtype), tokens.shape[1])
