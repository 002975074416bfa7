"""Anchors on a Flux: after the blocks that PuLID-FLUX was trained for, image tokens attend to the
identity, img ← img + w(t)·CrossAttention(img, identity)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..adapters.pulid_flux import IdentityAdapter
from .anchor import LABEL, VFA, Anchor
from .call import Call, Site, Term
from .cover import cover_tokens, spread_tokens, token_factor
from .flux import wrap_blocks
from .pulid import folded_for
from .query import WHOLE, QueryControl, QueryMix, mix_queries
from .run import Neutral, register


@dataclass(frozen=True, eq=False)
class FluxAnchor(Neutral):
    """One identity on one Flux: an Injection."""

    anchor: Anchor
    positive: ModelPatcher
    """A ModuleList of FoldedAttention, one per site."""
    negative: ModelPatcher | None
    sites: Sequence[Site]
    tokens: tuple[Tensor, Tensor]
    """(1, N, C): what `positive` and `negative` are folded for."""
    query: QueryMix | None = None

    kind = VFA
    label = LABEL

    @property
    def order(self) -> str:
        return self.anchor.order

    def models(self) -> list[ModelPatcher]:
        negative = [] if self.negative in (None, self.positive) else [self.negative]
        query = [] if self.query is None else self.query.models()
        return [self.positive, *negative, *query]

    def terms(self, call: Call) -> list[Term]:
        """One per prompt that has an identity and covered tokens."""
        found = []
        for prompt, rows, weights in self.anchor.prompts(call):
            stack = self.positive if prompt.has_person else self.negative
            region, cell = self.anchor.region, self.sites[0].cell
            coverage = cover_tokens(call, prompt, region, cell, LABEL)
            if stack is not None and coverage is not None:
                layers = dict(zip(self.sites, stack.model, strict=True))
                if self.query is not None:
                    alphas = self.query.alphas(call, rows)
                    tokens = self.tokens[stack is not self.positive]
                    layers = self.query.mix(call, prompt, rows, layers, alphas, tokens)
                    if alphas and self.query.mode in WHOLE:
                        coverage = spread_tokens(call, coverage, cell)
                factor = token_factor(call, weights, coverage)
                found.append(Term(layers, rows, coverage.index, factor))
        return found


def patch_flux(
    patched: ModelPatcher,
    sites: Sequence[Site],
    adapter: IdentityAdapter,
    anchor: Anchor,
    tokens: Tensor,
    null: Tensor,
    query: QueryControl | None = None,
) -> None:
    """Put an anchor on a clone of a Flux. tokens, null (1, N, C)."""
    dtype = patched.model.get_dtype_inference()
    positive = folded_for(adapter, tokens, dtype)
    negative = {"same": positive, "none": None}.get(anchor.negative)
    if anchor.negative == "unconditional":
        negative = folded_for(adapter, null, dtype)
    mix = None if query is None else mix_queries(query, sites, adapter, dtype)
    register(patched, FluxAnchor(anchor, positive, negative, sites, (tokens, null), mix))
    wrap_blocks(patched, sites)
