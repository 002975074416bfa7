"""IDFormer: PuLID's encoder from face features to identity tokens.

Learned queries attend in groups of layers to ever deeper taps of the vision tower, always next to
tokens made from the recogniser's embedding. Key names are those of the published file after
`pulid_encoder.`. Source: PuLID (arXiv 2404.16022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..files.checks import Shapes, count_layers, shape_of
from .perceiver import PerceiverLayer

HEAD = 64


@dataclass(frozen=True)
class IDFormerDims:
    """Sizes: `queries` outputs of `output` channels; `groups` taps of `vision` channels read by
    `layers` layers of width `dim` and inner attention width `inner`; `condition` channels in."""

    queries: int
    dim: int
    output: int
    layers: int
    groups: int
    inner: int
    hidden: int
    id_tokens: int
    condition: int
    vision: int

    @property
    def heads(self) -> int:
        return self.inner // HEAD

    @property
    def depth(self) -> int:
        """Layers per group."""
        return self.layers // self.groups


def idformer_dims(shapes: Shapes, what: str, wanted: str) -> IDFormerDims:
    """Read the sizes off the tensors (keys without `pulid_encoder.`). Raises ValueError."""

    def read(key: str, rank: int = 2) -> tuple[int, ...]:
        return shape_of(shapes, key, rank, what, wanted)

    _, queries, dim = read("latents", 3)
    groups = count_layers(shapes, "mapping_", what, wanted)
    layers = count_layers(shapes, "layers.", what, wanted)
    spread = read("id_embedding_mapping.6.weight")[0]
    inner = read("layers.0.0.to_q.weight")[0]
    problems = [
        (not groups or layers % groups, f"{layers} layers do not divide into {groups} groups"),
        (spread % dim, f"{spread} mapped channels are not a multiple of the width {dim}"),
        (inner % HEAD, f"attention width {inner} is not a multiple of {HEAD}"),
    ]
    for wrong, text in problems:
        if wrong:
            raise ValueError(f"{what} has an unusable encoder: {text}. Use {wanted}.")
    return IDFormerDims(
        queries=queries,
        dim=dim,
        output=read("proj_out")[1],
        layers=layers,
        groups=groups,
        inner=inner,
        hidden=read("layers.0.1.1.weight")[0],
        id_tokens=spread // dim,
        condition=read("id_embedding_mapping.0.weight")[1],
        vision=read("mapping_0.0.weight")[1],
    )


def make_mapping(
    inputs: int, dim: int, outputs: int, operations: Any, **factory: Any
) -> nn.Sequential:
    """PuLID's three linear layers: (…, inputs) -> (…, outputs), `dim` wide between."""
    return nn.Sequential(
        operations.Linear(inputs, dim, **factory),
        operations.LayerNorm(dim, **factory),
        nn.LeakyReLU(),
        operations.Linear(dim, dim, **factory),
        operations.LayerNorm(dim, **factory),
        nn.LeakyReLU(),
        operations.Linear(dim, outputs, **factory),
    )


class IDFormer(nn.Module):
    """(condition, hidden) -> identity tokens (B, queries, output).

    `condition` (B, n, 1280): per photo the raw ArcFace embedding, then the unit-norm pooled
    vision features. `hidden` (B, 5, n * T, vision): the taps, photos concatenated on the tokens.
    Several photos of one person still give `queries` tokens. All zeros in both give the
    unconditional tokens, which are not zeros. `weights`: one number of 0 or more for each tap, how
    much its tokens count in attention beside the others; at 0 the tap is left out, which zeros in
    `hidden` would not do. None: all 1.
    """

    def __init__(self, dims: IDFormerDims, operations: Any = nn, **factory: Any) -> None:
        super().__init__()
        self.dims = dims
        self.latents = nn.Parameter(
            torch.empty(1, dims.queries, dims.dim, **factory), requires_grad=False
        )
        self.proj_out = nn.Parameter(
            torch.empty(dims.dim, dims.output, **factory), requires_grad=False
        )
        sizes = (dims.dim, dims.heads, HEAD, dims.hidden)
        self.layers = nn.ModuleList(
            PerceiverLayer(*sizes, operations, **factory) for _ in range(dims.layers)
        )
        for group in range(dims.groups):
            mapping = make_mapping(dims.vision, dims.dim, dims.dim, operations, **factory)
            self.add_module(f"mapping_{group}", mapping)
        self.id_embedding_mapping = make_mapping(
            dims.condition, dims.dim, dims.id_tokens * dims.dim, operations, **factory
        )

    def id_tokens(self, condition: Tensor) -> Tensor:
        """(B, n, condition) -> (B, n * id_tokens, dim)."""
        return self.id_embedding_mapping(condition).reshape(len(condition), -1, self.dims.dim)

    def forward(
        self, condition: Tensor, hidden: Tensor, weights: Sequence[float] | None = None
    ) -> Tensor:
        tokens = self.id_tokens(condition)
        queries = self.latents.to(tokens).expand(len(tokens), -1, -1)
        latents = torch.cat((queries, tokens), dim=1)
        for group in range(self.dims.groups):
            weight = 1.0 if weights is None else weights[group]
            context, bias = tokens, None
            if weight:
                mapped = self.get_submodule(f"mapping_{group}")(hidden[:, group])
                context = torch.cat((tokens, mapped), dim=1)
            if weight not in (0.0, 1.0):
                bias = tokens.new_zeros(context.shape[1])
                bias[tokens.shape[1] :] = math.log(weight)
            for layer in self.layers[group * self.dims.depth : (group + 1) * self.dims.depth]:
                latents = layer(latents, context, bias)
        return latents[:, : self.dims.queries] @ self.proj_out.to(latents)
