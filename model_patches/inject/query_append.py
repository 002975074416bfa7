"""The query mode soft_append: a summary of the picture stands beside the identity's tokens.

EditID's "soft" integration, as EditIDv2 (arXiv 2509.05659) retells it: the picture's queries are as
wide as identity tokens, so an average of them can be asked like one. The summary changes with every
step, so these layers run unfolded, with the adapter's own weights.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..adapters.pulid_flux import IdentityAdapter
from .attention import Activation, scale
from .call import Call, Site
from .pulid import layer_tensors
from .unfolded import UnfoldedAttention, unfold


def append_summary(
    layer: UnfoldedAttention,
    image: Tensor,
    tokens: Tensor,
    length: float,
    count: int,
    bias: Tensor | None,
) -> Tensor:
    """image (R, L, dim), tokens (1, N, width) -> attention over N + count tokens (R, L, dim).

    length: of a summary token; bias (R or 1, 1, 1, N + count) on the scores, or None.
    """
    queries = layer.queries(image)
    summary = summarise(queries, count, length)
    context = torch.cat((tokens.expand(len(image), -1, -1), summary), dim=1)
    return layer.attend(queries, *layer.project(context), bias)


def summarise(queries: Tensor, count: int, length: float) -> Tensor:
    """queries (R, L, C) -> (R, count, C): averages of consecutive parts, each of one L2 norm."""
    pooled = F.adaptive_avg_pool1d(queries.transpose(1, 2), count).transpose(1, 2)
    # A float16 sum of squares would end at 65,504.
    norm = torch.linalg.vector_norm(pooled, dim=-1, keepdim=True, dtype=torch.float32)
    return pooled * (length / norm.clamp_min(1e-6)).to(pooled.dtype)


@dataclass(frozen=True, eq=False)
class Appendix:
    """The unfolded layers of some sites, and how long a summary they read."""

    stack: ModelPatcher
    """A ModuleList of UnfoldedAttention, one for each site."""
    sites: tuple[Site, ...]
    count: int

    def layers(
        self, call: Call, alphas: Mapping[Site, float | Tensor], tokens: Tensor
    ) -> dict[Site, AppendedAttention]:
        """Of the sites whose α is below 1, for identity tokens (1, N, C)."""
        placed, length = self._place(call, tokens)
        biases: dict[int, Tensor | None] = {}
        found = {}
        for site, module in zip(self.sites, self.stack.model, strict=True):
            if site in alphas:
                alpha = alphas[site]
                if id(alpha) not in biases:
                    biases[id(alpha)] = _bias_of(alpha, tokens.shape[1], self.count, call)
                bias = biases[id(alpha)]
                found[site] = AppendedAttention(module, placed, length, self.count, bias)
        return found

    def _place(self, call: Call, tokens: Tensor) -> tuple[Tensor, float]:
        """The tokens where the run needs them, and their mean L2 norm; once per run."""
        key = ("appendix", id(tokens), call.device)
        if key not in call.run.cache:
            length = tokens.norm(dim=-1).mean().item()
            call.run.cache[key] = tokens.to(call.device, call.dtype), length
        return call.run.cache[key]


def _bias_of(alpha: float | Tensor, tokens: int, count: int, call: Call) -> Tensor | None:
    """ln(1 - α) on the scores of the summary: at α = 0 it counts like the identity's tokens."""
    if isinstance(alpha, Tensor):
        weight = torch.log1p(-alpha.float())
    elif alpha == 0.0:
        return None
    else:
        weight = torch.full((1, 1, 1, 1), math.log(1.0 - alpha), device=call.device)
    own = weight.new_zeros(len(weight), 1, 1, tokens)
    return torch.cat((own, weight.expand(-1, -1, -1, count)), dim=-1).to(call.dtype)


@dataclass(frozen=True, eq=False)
class AppendedAttention:
    """One layer for one identity in one model call."""

    module: UnfoldedAttention
    tokens: Tensor
    length: float
    count: int
    bias: Tensor | None

    def __call__(
        self, image: Tensor, weight: float | Tensor = 1.0, activate: Activation | None = None
    ) -> Tensor:
        """image (R, L, D) -> weight × attention; a tensor weight is (R or 1, L)."""
        if activate is not None:
            raise ValueError("AppendedAttention got an activation, expected None. Fold the layer.")
        facts = (self.tokens, self.length, self.count, self.bias)
        return scale(append_summary(self.module, image, *facts), weight)


def make_appendix(
    adapter: IdentityAdapter, numbers: Mapping[Site, int], count: int, dtype: torch.dtype
) -> Appendix:
    """The unfolded layers of an adapter for some sites, given with their numbers.

    dtype: the number format that the model computes in. Raises ValueError when a query is not as
    wide as an identity token.
    """
    inner = adapter.cross_attention["0.to_q.weight"].shape[0]
    if inner != adapter.token_dim:
        raise ValueError(
            f"The query mode soft_append reads queries as identity tokens, but those of "
            f"'{adapter.name}' are {inner} and {adapter.token_dim} channels wide; expected one "
            "width. Choose another mode of the query control."
        )
    return Appendix(_unfolded_for(adapter, tuple(numbers.values()), dtype), tuple(numbers), count)


def _unfolded_for(
    adapter: IdentityAdapter, numbers: tuple[int, ...], dtype: torch.dtype
) -> ModelPatcher:
    """Layers of these numbers as a ModuleList; the same one while it is in use."""
    layers = [layer_tensors(adapter.cross_attention, number) for number in numbers]
    return unfold(f"{adapter.digest} {numbers}", layers, adapter.heads, dtype)
