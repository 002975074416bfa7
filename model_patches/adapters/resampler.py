"""The resampler of IP-Adapter-plus and FlexIP: queries read picture features and become tokens.

The queries are learned latents, or made of something outside: the tokens of another encoder, or
of the text (FlexIP, arXiv 2504.07405, equation 1). Key names are those of the public IP-Adapter
files; `proj_query` and `norm_query` are FlexIP's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..files.checks import MAX_HEAD, MIN_HEAD, Shapes, count_layers, shape_of
from .perceiver import PerceiverLayer

HEAD = 64
"""Channels of an attention head in every published resampler; the tensors cannot tell."""


@dataclass(frozen=True)
class ResamplerDims:
    """Sizes: `depth` layers of width `dim` read features of `context` channels and make tokens of
    `output` channels."""

    dim: int
    inner: int
    head: int
    hidden: int
    depth: int
    context: int
    output: int
    latents: int = 0
    """Learned queries; 0: they come from outside."""
    query: int = 0
    """Channels of what outside queries are made of; 0: they come as they are, `dim` wide."""
    spread: int = 1
    """Queries that are made of each outside token."""
    normed: bool = True
    """Whether the tokens are normalised at the end."""

    @property
    def heads(self) -> int:
        return self.inner // self.head


def resampler_dims(shapes: Shapes, what: str, wanted: str, head: int = HEAD) -> ResamplerDims:
    """Read the sizes off the tensors of one resampler. Raises ValueError, as checks.py does."""

    def read(key: str, rank: int = 2) -> tuple[int, ...]:
        return shape_of(shapes, key, rank, what, wanted)

    dim, context = read("proj_in.weight")
    inner = read("layers.0.0.to_q.weight")[0]
    if not MIN_HEAD <= head <= MAX_HEAD or inner % head:
        raise ValueError(
            f"{what} has attention width {inner} and heads of {head} channels; expected a multiple "
            f"of the head, which has {MIN_HEAD} to {MAX_HEAD}. Use the unmodified {wanted}."
        )
    spread, query = read("proj_query.weight") if "proj_query.weight" in shapes else (dim, 0)
    if spread % dim:
        raise ValueError(
            f"{what} makes queries of {spread} channels, expected a multiple of the width {dim}. "
            f"Use the unmodified {wanted}."
        )
    return ResamplerDims(
        dim=dim,
        inner=inner,
        head=head,
        hidden=read("layers.0.1.1.weight")[0],
        depth=count_layers(shapes, "layers.", what, wanted),
        context=context,
        output=read("proj_out.weight")[0],
        latents=read("latents", 3)[1] if "latents" in shapes else 0,
        query=query,
        spread=spread // dim,
        normed="norm_out.weight" in shapes,
    )


class Resampler(nn.Module):
    """Features (B, N, context) -> tokens (B, Q, output)."""

    def __init__(self, dims: ResamplerDims, operations: Any = nn, **factory: Any) -> None:
        super().__init__()
        self.dims = dims
        dim = dims.dim
        if dims.latents:
            latents = torch.empty(1, dims.latents, dim, **factory)
            self.latents = nn.Parameter(latents, requires_grad=False)
        if dims.query:
            self.proj_query = operations.Linear(dims.query, dims.spread * dim, **factory)
            self.norm_query = operations.LayerNorm(dim, **factory)
        self.proj_in = operations.Linear(dims.context, dim, **factory)
        sizes = (dim, dims.heads, dims.head, dims.hidden)
        self.layers = nn.ModuleList(
            PerceiverLayer(*sizes, operations, **factory) for _ in range(dims.depth)
        )
        self.proj_out = operations.Linear(dim, dims.output, **factory)
        if dims.normed:
            self.norm_out = operations.LayerNorm(dims.output, **factory)

    def forward(self, context: Tensor, queries: Tensor | None = None) -> Tensor:
        """queries (B, Q, query or dim): what asks, where there are no learned latents."""
        context = self.proj_in(context)
        latents = self._make_queries(context, queries)
        for layer in self.layers:
            latents = layer(latents, context)
        tokens = self.proj_out(latents)
        return self.norm_out(tokens) if self.dims.normed else tokens

    def _make_queries(self, context: Tensor, queries: Tensor | None) -> Tensor:
        if queries is None:
            return self.latents.to(context).expand(len(context), -1, -1)
        if self.dims.query:
            spread = self.proj_query(queries).unflatten(-1, (self.dims.spread, self.dims.dim))
            return self.norm_query(spread.flatten(1, 2))
        return queries
