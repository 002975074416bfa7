"""DynamicID's face encoder and attention (SAA) while they are trained, or frozen beside what is.

Source: DynamicID (arXiv 2503.06505). The names of modules are the keys of SAA.bin. Beside the base,
the attention is that of inject/saa_unet.py, unfolded and with gradients: one person, no region.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from comfy.ldm.modules.attention import CrossAttention
from torch import Tensor, nn

from ..adapters.dynamicid import DynamicIDAdapter
from ..adapters.ip_tokens import FacePlusTokens, Features
from ..adapters.resampler import HEAD, ResamplerDims
from ..inject.call import Site
from ..inject.decoupled import match_sites
from ..inject.saa_activation import activation
from ..inject.unet import in_diffusers_order
from .export import TRAINING_KEY, write_safetensors
from .lora import Lora, add_beside
from .unet_base import UNetBase

TOKENS, HIDDEN, DEPTH = 4, 1024, 4
"""Of the published face encoder: face tokens, channels between its two layers, resampler layers."""
LABEL = "The trainer"


class SaaLayer(nn.Module):
    """What SAA.bin holds for one attention layer of the base."""

    def __init__(self, attention: CrossAttention, rank: int, reads_text: bool) -> None:
        """reads_text: a cross-attention, which gets keys and values of face tokens: its own ones of
        the text to begin with, as published."""
        super().__init__()
        for name, linear in linears_of(attention).items():
            setattr(self, f"{name}_lora", Lora(linear.in_features, linear.out_features, rank))
        if not reads_text:
            return
        for name, linear in (("to_k_ip", attention.to_k), ("to_v_ip", attention.to_v)):
            made = nn.Linear(linear.in_features, linear.out_features, bias=False)
            with torch.no_grad():
                made.weight.copy_(linear.weight)
            setattr(self, name, made)


class TrainedSaa(nn.Module):
    """All that SAA.bin holds, with gradients; `state_dict` has its keys."""

    def __init__(self, base: UNetBase, maker: FacePlusTokens, rank: int) -> None:
        super().__init__()
        self.proj_module = maker
        self.SAA_module = nn.ModuleList(
            SaaLayer(attention, rank, bool(number % 2))
            for number, attention in enumerate(base.all_attention)
        )
        sites = in_diffusers_order(base.sites)
        self.places = {site: 2 * number + 1 for number, site in enumerate(sites)}
        self.heads = {site: attention.heads for site, attention in base.attention.items()}

    def make_tokens(self, features: Features) -> Tensor:
        """face (B, 512), patches (B, T, 1280) -> face tokens (B, 4, width)."""
        return self.proj_module(features)

    def attend(self, site: Site, queries: Tensor, tokens: Tensor, threshold: float) -> Tensor:
        """w·A(q; tokens) of equations 1 and 2 at a site, before the output layer: (B, L, C).

        queries (B, L, C): the base's own, with LoRA. Scores and activation are float32: a query
        that crosses the threshold changes by all of it.
        """
        layer, heads = cast(Any, self.SAA_module[self.places[site]]), self.heads[site]
        parts = (queries, layer.to_k_ip(tokens), layer.to_v_ip(tokens))
        with torch.autocast(queries.device.type, enabled=False):
            q, k, v = (part.float().unflatten(-1, (heads, -1)) for part in parts)
            scores = torch.einsum("blhd,bnhd->blhn", q, k) * q.shape[-1] ** -0.5
            weight = activation(scores, None, threshold)
            mixed = torch.einsum("blhn,bnhd->blhd", scores.softmax(-1), v).flatten(2)
            return weight.unsqueeze(-1) * mixed

    @contextmanager
    def beside(self, base: UNetBase) -> Iterator[None]:
        """The LoRA works beside the base's layers for as long as the block runs."""
        low, handles = base.is_low, []
        for layer, attention in zip(self.SAA_module, base.all_attention, strict=True):
            for name, linear in linears_of(attention).items():
                hook = add_beside(getattr(layer, f"{name}_lora"), base.device.type, low)
                handles.append(linear.register_forward_hook(hook))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def fresh_maker(width: int, face: int, clip: int) -> FacePlusTokens:
    """The published face encoder, untrained. width: of the base's text; face, clip: channels of the
    recogniser's embedding and of CLIP."""
    dims = ResamplerDims(
        dim=width,
        inner=width,
        head=HEAD,
        hidden=4 * width,
        depth=DEPTH,
        context=clip,
        output=width,
    )
    return FacePlusTokens((face, HIDDEN, TOKENS, width), dims, None)


def begin_with(base: UNetBase, adapter: DynamicIDAdapter) -> TrainedSaa:
    """The weights of a file, as float32. Raises ValueError where it was made for another base."""
    match_sites(adapter.name, adapter.stream, base.sites, base.net, LABEL)
    theirs = cast(FacePlusTokens, adapter.encoder.model)
    hidden = cast(nn.Linear, theirs.proj[0]).out_features
    sizes = (adapter.face, hidden, adapter.tokens, adapter.width)
    maker = FacePlusTokens(sizes, theirs.perceiver_resampler.dims, None)
    maker.load_state_dict(theirs.state_dict())
    rank = adapter.lora["0.to_q_lora.down.weight"].shape[0]
    made = TrainedSaa(base, maker, rank)
    layers = dict(adapter.lora)
    for number, pair in enumerate(zip(adapter.stream.keys, adapter.stream.values, strict=True)):
        for part, weight in zip("kv", pair, strict=True):
            layers[f"{2 * number + 1}.to_{part}_ip.weight"] = weight
    made.SAA_module.load_state_dict(layers)
    return made


def predict_person(
    base: UNetBase,
    saa: TrainedSaa,
    noisy: Tensor,
    sigma: Tensor,
    text: Tensor,
    tokens: Tensor,
    threshold: float,
    watch: list[tuple[Tensor, Tensor]] | None = None,
) -> Tensor:
    """What the base predicts with face tokens (B, N, width) of one person in each row.

    watch: gets what each site adds, and the text's attention there.
    """

    def inside(site: Site, queries: Tensor, text_attention: Tensor) -> Tensor:
        added = saa.attend(site, queries, tokens, threshold)
        if watch is not None:
            watch.append((added, text_attention))
        return added

    with saa.beside(base):
        return base.predict(noisy, sigma, text, None, None, inside)


def export_saa(path: Path, saa: TrainedSaa, dtype: torch.dtype, notes: Mapping[str, Any]) -> None:
    """Write SAA.bin's keys as safetensors, the notes in the metadata. Raises OSError."""
    stated = {TRAINING_KEY: json.dumps(dict(notes), ensure_ascii=False)}
    write_safetensors(path, saa.state_dict(), dtype, stated)


def linears_of(attention: CrossAttention) -> dict[str, nn.Linear]:
    """The four layers that have a LoRA."""
    output: Any = attention.to_out[0]
    return {
        "to_q": attention.to_q,
        "to_k": attention.to_k,
        "to_v": attention.to_v,
        "to_out": output,
    }
