"""The two streams of FlexIP on a Flux as they are trained.

After a block, the image tokens get (g_P·A(q; P) + g_S·A(q; S))·W_o, eq. 4 of FlexIP (arXiv
2504.07405). A Flux has no cross-attention of its own to take q and W_o from, so both streams share
one pair that is trained with them; a stream alone is then a PuLID-FLUX layer.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..adapters.flexip import FlexIPMaker, FluxBlock
from ..adapters.flexip_flux import block_key
from ..adapters.flexip_settings import EVA, FLUX, FlexIPSettings
from ..adapters.ip_tokens import Features
from .flexip_recipe import gate_weights
from .flexip_streams import Widths
from .flow import blend, count_tokens, draw_sigma
from .flux_blocks import Injections
from .frozen_base import FrozenBase
from .row_batches import Batch, Shown, root_mean_square

Watch = Callable[[int, Tensor, Tensor], None]
"""(stream, what it adds before the output projection, what asks it), for the log."""


@dataclass(frozen=True, kw_only=True)
class FluxWidths(Widths):
    """Sizes of the token makers and layers; `text` is that of personalisation tokens, too."""

    hidden: int
    """Channels of the base's image tokens."""
    heads: int
    """Of the cross-attention layers."""
    tokens: int = 2048
    """Channels of preservation tokens."""


class _TokenSide(nn.Module):
    """Keys and values of one stream at one block."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.to_kv = nn.Linear(width, 2 * hidden, bias=False)
        with torch.no_grad():
            self.to_kv.weight[hidden:] = 0.0


class _SiteLayers(nn.Module):
    """Both streams at one block. Values start at zero: the first step is the base's."""

    def __init__(self, widths: FluxWidths, two: bool) -> None:
        super().__init__()
        hidden, self.heads = widths.hidden, widths.heads
        self.norm2 = nn.LayerNorm(hidden)
        self.to_q = nn.Linear(hidden, hidden, bias=False)
        self.to_out = nn.Linear(hidden, hidden, bias=False)
        self.preserve = _TokenSide(widths.tokens, hidden)
        self.personal = _TokenSide(widths.text, hidden) if two else None

    def forward(
        self, tokens: Sequence[Tensor], weights: Tensor, watch: Watch | None, image: Tensor
    ) -> Tensor:
        """tokens: one (B, N, C) for each stream; weights (B, streams); image (B, L, D)."""
        asking = self.norm2(image)
        query = self._split(self.to_q(asking))
        sides = [side for side in (self.preserve, self.personal) if side is not None]
        mixed = torch.zeros_like(query)
        for number, (side, own) in enumerate(zip(sides, tokens, strict=True)):
            keys, values = side.to_kv(side.norm1(own)).chunk(2, dim=-1)
            attended = F.scaled_dot_product_attention(query, self._split(keys), self._split(values))
            added = weights[:, number, None, None, None].to(query) * attended
            if watch is not None:
                watch(number, added, asking)
            mixed = mixed + added
        return self.to_out(mixed.transpose(1, 2).flatten(2))

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class FluxStreams(nn.Module):
    """All that a FlexIP file for a Flux holds, with gradients."""

    def __init__(
        self, widths: FluxWidths, blocks: Sequence[FluxBlock], personal: bool = True
    ) -> None:
        """blocks: after which the streams work. personal: False leaves that stream out, which makes
        a plain IP-Adapter with the same token maker."""
        super().__init__()
        self.widths, self.blocks = widths, tuple(blocks)
        self.maker = FlexIPMaker(
            widths.resampler(widths.context, widths.tokens, latents=widths.latents),
            widths.resampler(widths.context, widths.tokens, query=widths.pooled),
            widths.resampler(widths.pooled, widths.text, query=widths.text) if personal else None,
            chunk=0,
        )
        with torch.no_grad():
            self.maker.preserve.detail.latents.normal_(std=widths.dim**-0.5)
        self.maker.requires_grad_(True)
        self.layers = nn.ModuleList(_SiteLayers(widths, personal) for _ in self.blocks)
        self.gates = nn.Parameter(torch.zeros(2), requires_grad=False)
        """Logits of α and β, where they are learned; see flexip_recipe.py."""

    def make_tokens(self, features: Features, text: Tensor) -> tuple[Tensor, ...]:
        """P (B, N, c) of the photo, and S (B, T, text) of the prompt if there is that stream."""
        kept = self.maker(features)
        if self.maker.personal is None:
            return (kept,)
        return kept, self.maker.personalise(text, features["pooled"])

    def injections(
        self, tokens: Sequence[Tensor], weights: Tensor, watch: Watch | None = None
    ) -> Injections:
        """Block -> what both streams add to its image tokens; weights (B, streams)."""
        return {
            block: partial(layer, tokens, weights, watch)
            for block, layer in zip(self.blocks, self.layers, strict=True)
        }

    def tensors(self) -> Mapping[str, Tensor]:
        """By the keys of a FlexIP file of version 2, see adapters/flexip_flux.py."""
        held = {key: value.detach() for key, value in self.maker.state_dict().items()}
        for block, layer in zip(self.blocks, self.layers, strict=True):
            place = block_key(block)
            held |= {f"{place}.{key}": value.detach() for key, value in layer.state_dict().items()}
        return held


@dataclass(frozen=True, eq=False)
class FluxRows:
    """Noisy pictures, and what a Flux and both streams read of them. B rows."""

    noisy: Tensor
    """(B, 16, h, w) as the model sees them."""
    target: Tensor
    """Their velocity."""
    sigma: Tensor
    text: Tensor
    pooled: Tensor
    features: Features
    weights: Tensor
    """(B, streams)."""


def square_errors(
    base: FrozenBase, streams: FluxStreams, rows: FluxRows, watch: Watch | None = None
) -> Tensor:
    """(B, 16, h, w): flow matching with both streams."""
    tokens = streams.make_tokens(rows.features, rows.text)
    added = streams.injections(tokens, rows.weights, watch)
    found = base.velocity(rows.noisy, rows.sigma, rows.text, rows.pooled, added)
    return (found - rows.target).square()


def predict_flux_errors(
    base: FrozenBase, streams: FluxStreams, sigmas: str, batch: Batch
) -> tuple[Tensor, Shown]:
    """(B,) squared errors, and how large each stream's attention is beside what asks it.

    sigmas: a key of flow.SIGMAS whose sigmas grow with the chance.
    """
    latents = base.format.process_in(batch.latents)
    chances = [max(one.level, sys.float_info.min) for one in batch.drawn]
    drawn = [draw_sigma(sigmas, chance, count_tokens(latents)) for chance in chances]
    sigma = torch.tensor(drawn, device=base.device)
    noisy, target = blend(latents, batch.noise, sigma)
    weights = gate_weights(streams, batch)
    rows = FluxRows(noisy, target, sigma, batch.text, batch.pooled, batch.features, weights)
    ratios: dict[str, list[Tensor]] = {"P": [], "S": []}
    names = list(ratios)

    def watch(stream: int, added: Tensor, asking: Tensor) -> None:
        ratios[names[stream]].append(root_mean_square(added) / root_mean_square(asking))

    errors = square_errors(base, streams, rows, watch).mean((1, 2, 3))
    sizes = {f"{name} / image": torch.stack(found).mean() for name, found in ratios.items()}
    return errors, sizes


def flux_settings(streams: FluxStreams, side: int, notes: Mapping[str, str]) -> FlexIPSettings:
    """What a file of these streams states; side: pixels of what EVA-CLIP sees."""
    return FlexIPSettings(
        base=FLUX,
        context=EVA,
        cls="face_and_pooled",
        context_size=side,
        text_tokens=0,
        heads=streams.widths.heads,
        head_dim=streams.widths.head,
        notes=notes,
    )
