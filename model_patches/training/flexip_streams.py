"""The two streams of FlexIP as they are trained: token makers, keys and values of every block.

At every cross-attention the base's output gets (g_P·A(q; P) + g_S·A(q; S))·W_o, eq. 4 of FlexIP
(arXiv 2504.07405), with the base's own q and W_o.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import torch
import torch.nn.functional as F
from comfy.ldm.modules.attention import CrossAttention
from torch import Tensor, nn

from ..adapters.flexip import FlexIPAdapter, FlexIPMaker, FluxStream
from ..adapters.flexip_settings import FlexIPSettings
from ..adapters.ip_tokens import Features
from ..adapters.resampler import ResamplerDims
from ..inject.call import Site
from ..inject.unet import in_diffusers_order
from .flexip_recipe import gate_weights
from .row_batches import Batch, Shown, root_mean_square
from .unet_base import UNetBase


@dataclass(frozen=True, kw_only=True)
class Widths:
    """Sizes of the token makers. Defaults: those of IP-Adapter plus, whose weights fit."""

    context: int
    """Channels of the encoder whose patches the detail tokens read."""
    pooled: int
    """Channels of the class token."""
    text: int
    """Channels of the base's text."""
    dim: int = 768
    depth: int = 4
    head: int = 64
    latents: int = 16

    def resampler(
        self, context: int, output: int, latents: int = 0, query: int = 0
    ) -> ResamplerDims:
        return ResamplerDims(
            dim=self.dim,
            inner=self.dim,
            head=self.head,
            hidden=4 * self.dim,
            depth=self.depth,
            context=context,
            output=output,
            latents=latents,
            query=query,
        )


class _KeyValue(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.to_k = nn.Linear(width, inner, bias=False)
        self.to_v = nn.Linear(width, inner, bias=False)


class FlexIPStreams(nn.Module):
    """All that a FlexIP file holds, with gradients."""

    def __init__(self, widths: Widths, attention: Mapping[Site, CrossAttention]) -> None:
        """The base's own keys to begin with, and values of zeros: the first step is the base's."""
        super().__init__()
        self.widths = widths
        detail = widths.resampler(widths.context, widths.text, latents=widths.latents)
        overall = widths.resampler(widths.context, widths.text, query=widths.pooled)
        personal = widths.resampler(widths.pooled, widths.text, query=widths.text)
        self.maker = FlexIPMaker(detail, overall, personal)
        with torch.no_grad():
            self.maker.preserve.detail.latents.normal_(std=widths.dim**-0.5)
        self.maker.requires_grad_(True)
        self.preserve = _layers(widths.text, attention)
        self.personal = _layers(widths.text, attention)
        self.gates = nn.Parameter(torch.zeros(2), requires_grad=False)
        """Logits of α and β, where they are learned; see flexip_recipe.py."""

    def begin_with(self, adapter: FlexIPAdapter) -> None:
        """Take over an IP-Adapter plus file: its resampler, keys and values preserve.

        Raises ValueError when the file has other sizes, or no such resampler.
        """
        detail = self.maker.preserve.detail
        state = adapter.encoder.model.state_dict()
        expected = {key: tuple(value.shape) for key, value in detail.state_dict().items()}
        found = {key: tuple(value.shape) for key, value in state.items()}
        wrong = sorted(key for key in expected | found if expected.get(key) != found.get(key))
        if wrong:
            key = wrong[0]
            raise ValueError(
                f"'{adapter.name}' ({adapter.variant}) does not fit: {len(wrong)} tensors of its "
                f"resampler differ, first {key}: {found.get(key)}, expected {expected.get(key)}. "
                "Begin with an IP-Adapter plus file for this base, and --context clip."
            )
        detail.load_state_dict(state)
        names = [_name(site) for site in in_diffusers_order(_sites(self.preserve))]
        stream = adapter.preserve
        if isinstance(stream, FluxStream):
            raise ValueError(
                f"'{adapter.name}' is for a Flux, this base is a Stable Diffusion model. Begin "
                "with a file that was made for it."
            )
        if len(names) != len(stream.keys):
            raise ValueError(
                f"'{adapter.name}' has {len(stream.keys)} blocks, this base has {len(names)}. "
                "Begin with a file that was made for it."
            )
        with torch.no_grad():
            for name, key, value in zip(names, stream.keys, stream.values, strict=True):
                layer = _layer(self.preserve, name)
                layer.to_k.weight.copy_(key)
                layer.to_v.weight.copy_(value)

    def make_tokens(self, features: Features, text: Tensor) -> tuple[Tensor, Tensor]:
        """P (B, N, c) of the photo, and S (B, T, c) of the text, asked of its class token."""
        return self.maker(features), self.maker.personalise(text, features["pooled"])

    def attend(
        self,
        site: Site,
        attention: CrossAttention,
        image: Tensor,
        tokens: tuple[Tensor, Tensor],
        weights: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """What each stream adds at a site before the output projection: (B, L, C), weighed.

        image (B, L, C) is what the attention reads; weights (B, 2) of preservation and
        personalisation.
        """
        query, name = attention.to_q(image), _name(site)
        kept = _attend(query, _layer(self.preserve, name), tokens[0], attention.heads)
        followed = _attend(query, _layer(self.personal, name), tokens[1], attention.heads)
        share = weights.to(query)[:, :, None, None]
        return share[:, 0] * kept, share[:, 1] * followed

    def tensors(self) -> dict[str, Tensor]:
        """By the keys of a FlexIP file, see adapters/flexip_file.py."""
        held = {key: value.detach() for key, value in self.maker.state_dict().items()}
        for stream in ("preserve", "personal"):
            for site, layer in _sites(getattr(self, stream)).items():
                place = f"blocks.{site.kind}.{site.number}.{site.depth}.{stream}"
                held[f"{place}.to_k.weight"] = layer.to_k.weight.detach()
                held[f"{place}.to_v.weight"] = layer.to_v.weight.detach()
        return held


def predict_errors(base: UNetBase, streams: FlexIPStreams, batch: Batch) -> tuple[Tensor, Shown]:
    """(B,) squared errors, and how large each stream's attention is beside what asks it."""
    sigma = sigmas_of(base, batch)
    noisy = base.add_noise(batch.latents, batch.noise, sigma)
    tokens = streams.make_tokens(batch.features, batch.text)
    weights = gate_weights(streams, batch)
    ratios: dict[str, list[Tensor]] = {"P": [], "S": []}

    def inject(site: Site, attention: CrossAttention, image: Tensor) -> Tensor:
        added = streams.attend(site, attention, image, tokens, weights)
        for found, part in zip(ratios.values(), added, strict=True):
            found.append(root_mean_square(part) / root_mean_square(image))
        return project(attention, added[0] + added[1])

    out = base.predict(noisy, sigma, batch.text, batch.pooled, inject)
    target = base.target(batch.latents, noisy, sigma)
    sizes = {f"{name} / image": torch.stack(found).mean() for name, found in ratios.items()}
    return (out - target).square().mean((1, 2, 3)), sizes


def sigmas_of(base: UNetBase, batch: Batch) -> Tensor:
    """(B,) of the base's noise levels that the rows have drawn."""
    return base.sigmas_at([one.level for one in batch.drawn])


def settings_for(
    base: str, streams: FlexIPStreams, context: str, context_size: int, notes: Mapping[str, str]
) -> FlexIPSettings:
    """What a file of these streams states."""
    return FlexIPSettings(
        base=base,
        head_dim=streams.widths.head,
        context=context,
        context_size=context_size,
        notes=notes,
    )


def project(attention: CrossAttention, mixed: Tensor) -> Tensor:
    """Through the base's output matrix, without its bias: the text's attention brings that."""
    output: Any = attention.to_out[0]
    return F.linear(mixed, output.weight.to(mixed))


def _layer(layers: nn.ModuleDict, name: str) -> _KeyValue:
    return cast(_KeyValue, layers[name])


def _attend(query: Tensor, layer: _KeyValue, tokens: Tensor, heads: int) -> Tensor:
    parts = (query, layer.to_k(tokens).to(query), layer.to_v(tokens).to(query))
    q, k, v = (part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in parts)
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def _layers(width: int, attention: Mapping[Site, CrossAttention]) -> nn.ModuleDict:
    layers = nn.ModuleDict()
    for site, base in attention.items():
        layer = _KeyValue(width, base.heads * base.dim_head)
        with torch.no_grad():
            layer.to_k.weight.copy_(base.to_k.weight)
            layer.to_v.weight.zero_()
        layers[_name(site)] = layer
    return layers


def _name(site: Site) -> str:
    return f"{site.kind}_{site.number}_{site.depth}"


def _sites(layers: nn.ModuleDict) -> dict[Site, _KeyValue]:
    found = {}
    for name in layers:
        kind, number, depth = name.split("_")
        found[Site(kind, int(number), int(depth), 1)] = _layer(layers, name)
    return found
