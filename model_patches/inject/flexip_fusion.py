"""How FlexIP's two streams meet at a site: added, in one softmax, or mixed before attention.

The paper leaves the place of its gate open. With γ = w_P / (w_P + w_S), each way is exactly one
stream alone at γ = 0 and 1, and the sum w_P + w_S scales the whole.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor

from .attention import Activation
from .call import Call, PromptRows, Term
from .cover import cover_tokens
from .decoupled import Layers, Table, layers_of
from .region import Region

Fusion = Literal["outputs", "joint", "tokens"]
Weights = tuple[float, float]
"""Of preservation and personalisation."""


@dataclass(frozen=True, eq=False)
class Share:
    """What one injection put on one prompt."""

    binding: object
    preserve: Table | None = None
    """Of the photo, or of nobody on a negative prompt; None when the stream is off."""
    personal: tuple[Table, ...] = ()
    """Of the prompt's text, one for each row that it has."""
    direction: Tensor | None = None
    """(B, T, c) to add to the text instead."""
    factor: float = 1.0
    """Of the preservation stream at the sites of this share."""


Shared = tuple[Share, PromptRows, slice, Sequence[Weights]]
"""A share, its prompt, the prompt's rows of the call, and the weights of each row."""


@dataclass(frozen=True, eq=False)
class _Part:
    """Some rows of a prompt that attend to one table."""

    group: _Group
    table: Table
    weight: float
    activate: Activation | None = None


@dataclass(frozen=True, eq=False)
class _Group:
    """Rows of a prompt that share text and weights: usually all of them."""

    prompt: PromptRows
    start: int
    """First row of the prompt in the call."""
    rows: slice
    """Within the prompt."""
    preserve: Table | None
    personal: Table | None
    weights: Weights


def make_terms(
    call: Call, shares: Sequence[Shared], fusion: Fusion, region: Region | None, label: str
) -> list[Term]:
    """The terms of all shares in this call; label: the node, for messages."""
    groups = [group for shared in shares for group in _group_rows(shared)]
    split = {"outputs": _split_outputs, "joint": _split_joint, "tokens": _split_tokens}[fusion]
    parts = [part for group in groups for part in split(call, group) if part.weight]
    # Scores can be seen in folded layers only.
    layers = layers_of(call, [part.table for part in parts], always_fold=fusion == "joint")
    return [
        term
        for part, those in zip(parts, layers, strict=True)
        for term in _terms_of(call, part, those, region, label)
    ]


def _group_rows(shared: Shared) -> Iterator[_Group]:
    share, prompt, rows, weights = shared
    texts = share.personal or (None,)
    count = rows.stop - rows.start
    whole = len(texts) == 1 and len(set(weights)) == 1
    spans = [slice(0, count)] if whole else [slice(row, row + 1) for row in range(count)]
    for span in spans:
        personal = texts[span.start % len(texts)]
        pair = weights[span.start]
        yield _Group(prompt, rows.start, span, share.preserve, personal, pair)


def _split_outputs(call: Call, group: _Group) -> Iterator[_Part]:
    tables = (group.preserve, group.personal)
    for table, weight in zip(tables, group.weights, strict=True):
        if table is not None:
            yield _Part(group, table, weight)


def _both_tables(group: _Group) -> tuple[Table, Table] | None:
    """Of both streams; None while one is alone."""
    if group.preserve is None or group.personal is None or not all(group.weights):
        return None
    return group.preserve, group.personal


def _split_joint(call: Call, group: _Group) -> Iterator[_Part]:
    tables = _both_tables(group)
    if tables is None:
        yield from _split_outputs(call, group)
        return
    preserve, personal = tables
    key = ("joint", *tables)
    if key not in call.run.cache:
        call.run.cache[key] = preserve.join(personal)
    counts = (preserve.tokens, personal.tokens)
    activate = partial(_add_bias, _joint_bias(call, counts, group.weights))
    yield _Part(group, call.run.cache[key], sum(group.weights), activate)


def _add_bias(bias: Tensor, scores: Tensor) -> tuple[Tensor, float]:
    return scores + bias, 1.0


def _joint_bias(call: Call, counts: tuple[int, int], weights: Weights) -> Tensor:
    """(N_P + N_S,) logarithm of each token's share, once per run and gate."""
    key = ("joint bias", counts, weights, call.device)
    if key not in call.run.cache:
        total = sum(weights)
        values = [
            math.log(weight / total / count)
            for weight, count in zip(weights, counts, strict=True)
            for _ in range(count)
        ]
        call.run.cache[key] = torch.tensor(values, device=call.device, dtype=call.dtype)
    return call.run.cache[key]


def _split_tokens(call: Call, group: _Group) -> Iterator[_Part]:
    tables = _both_tables(group)
    if tables is None:
        yield from _split_outputs(call, group)
        return
    preserve, personal = tables
    total = sum(group.weights)
    part = group.weights[0] / total
    key = ("mixed", *tables, part)
    if key not in call.run.cache:
        call.run.cache[key] = preserve.mix(personal, part)
    yield _Part(group, call.run.cache[key], total)


def _terms_of(
    call: Call, part: _Part, layers: Layers, region: Region | None, label: str
) -> Iterator[Term]:
    """One term, or with a region one for each grid of tokens that it reaches."""
    group = part.group
    rows = slice(group.start + group.rows.start, group.start + group.rows.stop)
    if region is None:
        yield Term(layers, rows, None, part.weight, part.activate)
        return
    for cell in dict.fromkeys(site.cell for site in layers):
        coverage = cover_tokens(call, group.prompt, region, cell, label)
        if coverage is not None:
            weights = coverage.of_rows(group.rows).weights
            factor = part.weight if weights is None else weights * part.weight
            here = {site: layer for site, layer in layers.items() if site.cell == cell}
            yield Term(here, rows, coverage.index, factor, part.activate)
