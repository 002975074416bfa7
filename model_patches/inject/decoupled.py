"""Decoupled cross-attention in a UNet: the base's queries read tokens of an adapter's own.

Source: IP-Adapter (arXiv 2308.06721). A layer adds A(q, T·W_k, T·W_v)·W_o to the text's attention,
where q and W_o are the base model's. Keys and values are projected when the adapter is applied,
and folded into the base's matrices in a run's first call, when LoRA patches are in them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import comfy.model_management
import torch
from torch import Tensor

from ..adapters.flexip import Stream
from ..files.cache import TensorCache, tensor_key
from .attention import (
    BaseAttention,
    FoldedAttention,
    fold,
    folding_pays,
    matrix_of,
    place_folded,
)
from .call import Call, Site
from .unet import UNetModel, cross_attention_of, in_diffusers_order

Layers = Mapping[Site, FoldedAttention | BaseAttention]

_projected = TensorCache(256 << 20)


@dataclass(frozen=True, eq=False)
class Table:
    """One set of tokens as every layer of a stream sees it. CPU float32."""

    keys: Mapping[Site, Tensor]
    """(N, C) by site."""
    values: Mapping[Site, Tensor]

    @property
    def tokens(self) -> int:
        return len(next(iter(self.keys.values())))

    def only(self, sites: Sequence[Site]) -> Table:
        """The same tokens at some of the sites; itself for all of them."""
        if len(sites) == len(self.keys):
            return self
        keys, values = (
            {site: tensors[site] for site in sites} for tensors in (self.keys, self.values)
        )
        return Table(keys, values)

    def mix(self, other: Table, share: float) -> Table:
        """share of this table, the rest of another of as many tokens."""
        pairs = ((self.keys, other.keys), (self.values, other.values))
        keys, values = (
            {site: torch.lerp(second[site], first[site], share) for site in first}
            for first, second in pairs
        )
        return Table(keys, values)

    def join(self, other: Table) -> Table:
        """The tokens of both, side by side."""
        return Table(
            {site: torch.cat((self.keys[site], other.keys[site])) for site in self.keys},
            {site: torch.cat((self.values[site], other.values[site])) for site in self.values},
        )


def match_sites(
    name: str, stream: Stream, sites: Sequence[Site], unet: UNetModel, label: str
) -> list[Site]:
    """The sites of a stream's layers, in the order of its layers.

    name: of the adapter's file; label: the node, for messages. Raises ValueError when number,
    names or widths differ.
    """
    if stream.blocks is None:
        ordered = in_diffusers_order(sites)
    else:
        named = {(site.kind, site.number, site.depth): site for site in sites}
        ordered = [named[block] for block in stream.blocks if block in named]
    count = len(stream.keys)
    if len(ordered) != count or len(sites) != count:
        raise ValueError(
            f"'{name}' has layers for {_name_count(count)}; this model has "
            f"{_name_count(len(sites))}. Give {label} the base model that the adapter was made for."
        )
    attention = dict(cross_attention_of(unet))
    for site, key in zip(ordered, stream.keys, strict=True):
        layer = attention[site]
        inner, text = layer.heads * layer.dim_head, layer.to_k.in_features
        if tuple(key.shape) != (inner, text):
            raise ValueError(
                f"'{name}' was made for text of {key.shape[1]} channels and {key.shape[0]} "
                f"at {site}; this model has {text} and {inner}. Give {label} the base model that "
                "the adapter was made for."
            )
    return ordered


def _name_count(count: int) -> str:
    names = {16: "16 blocks (SD 1.5)", 70: "70 blocks (SDXL)"}
    return names.get(count, f"{count} blocks")


def project_tokens(digest: str, stream: Stream, sites: Sequence[Site], tokens: Tensor) -> Table:
    """What the layers of a stream make of tokens (1, N, c). Kept for the next time.

    digest: of the stream's weights. sites: in the order of the stream's layers.
    """
    key = (digest, tensor_key(tokens))
    entry = _projected.get(key)
    if entry is None:
        device = comfy.model_management.get_torch_device()
        moved = tokens[0].to(device, torch.float32)
        entry = _projected.put(
            key,
            tuple(
                (moved @ weight.to(device, torch.float32).T).cpu()
                for weight in (*stream.keys, *stream.values)
            ),
        )
    keys, values = entry[: len(sites)], entry[len(sites) :]
    return Table(dict(zip(sites, keys, strict=True)), dict(zip(sites, values, strict=True)))


def layers_of(call: Call, tables: Iterable[Table], always_fold: bool = False) -> list[Layers]:
    """The layers of each table in this run, made when a call first needs them.

    All tables that are missing are made together, since the base's matrices are large. Weight hooks
    change the base from prompt to prompt, so what is made then holds for one call only.
    """
    tables = list(tables)
    if call.has_hooks:
        return _make_layers(call, tables, always_fold)
    cache = call.run.cache
    missing = [one for one in dict.fromkeys(tables) if _key(call, one) not in cache]
    if missing:
        made = _make_layers(call, missing, always_fold)
        cache.update({_key(call, one): layers for one, layers in zip(missing, made, strict=True)})
    return [cache[_key(call, one)] for one in tables]


def _key(call: Call, table: Table) -> tuple:
    return ("decoupled", table, call.device)


def _make_layers(call: Call, tables: Sequence[Table], always_fold: bool) -> list[Layers]:
    made: list[dict[Site, FoldedAttention | BaseAttention]] = [{} for _ in tables]
    may_fold = always_fold or not call.has_hooks
    for site, attention in cross_attention_of(call.diffusion_model):
        here = [pair for pair in zip(made, tables, strict=True) if site in pair[1].keys]
        like = torch.empty(0, device=call.device, dtype=call.dtype)
        heads, inner = attention.heads, attention.heads * attention.dim_head
        dim = attention.to_q.in_features
        folds = [
            may_fold and (always_fold or folding_pays(table.tokens, heads, dim))
            for _, table in here
        ]
        if any(folds):
            query = matrix_of(attention.to_q, dim, like)
            out = matrix_of(attention.to_out, inner, like)
        for (layers, table), folded in zip(here, folds, strict=True):
            keys = table.keys[site].to(call.device, torch.float32)
            values = table.values[site].to(call.device, torch.float32)
            if folded:
                state = fold(keys, values, query, out, heads)
                layers[site] = place_folded(state, heads, call.device, call.dtype)
            else:
                pair = (keys.to(call.dtype), values.to(call.dtype))
                layers[site] = BaseAttention(*pair, attention)
    return list[Layers](made)
