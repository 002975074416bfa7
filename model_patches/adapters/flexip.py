"""FlexIP adapters: what makes preservation and personalisation tokens, and what reads them: keys
and values for every cross-attention of a UNet, or layers of their own after the blocks of a Flux.

Source: FlexIP (arXiv 2504.07405). flexip_file.py opens the pack's own format, ip_adapter.py public
IP-Adapter files, which become the same value without a personalisation stream.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch
from torch import Tensor, nn

from .flexip_settings import EVA, FlexIPSettings
from .ip_tokens import Features, Source
from .resampler import Resampler, ResamplerDims

FAMILY = "flexip"
CHUNK = 77
"""Text tokens that are personalised at a time: one chunk of CLIP."""

Block = tuple[str, int, int]
"""ComfyUI's name of a cross-attention: "input", "middle" or "output", block, transformer block."""

FluxBlock = tuple[str, int]
"""ComfyUI's name of a block of a Flux: "double_block" or "single_block", and its number."""

_ENCODERS = {"pooled": "CLIP vision", "patches": "CLIP vision", "face": "a recognised face"}


@dataclass(frozen=True, eq=False)
class Stream:
    """Keys and values of its own for every cross-attention of a UNet. CPU tensors."""

    keys: tuple[Tensor, ...]
    """(C, c) each: from tokens of c channels to a block's width C."""
    values: tuple[Tensor, ...]
    blocks: tuple[Block, ...] | None = None
    """Whose they are; None: in the order of diffusers (down, up, middle)."""


@dataclass(frozen=True, eq=False)
class FluxStream:
    """Cross-attention after blocks of a Flux. CPU tensors."""

    blocks: tuple[FluxBlock, ...]
    layers: tuple[Mapping[str, Tensor], ...]
    """By PuLID-FLUX's names: norm1 and to_kv act on tokens, norm2 and to_q on image tokens. The two
    streams of a file share norm2, to_q and to_out."""
    heads: int

    @property
    def hidden(self) -> int:
        """Channels of the image tokens."""
        return self.layers[0]["to_q.weight"].shape[1]


@dataclass(frozen=True, eq=False)
class FlexIPAdapter:
    """A loaded adapter. ComfyUI owns the token makers' weights through `encoder`."""

    name: str
    """File name."""
    digest: str
    """Content digest of the file, see `tensor_file.digest`."""
    encoder_digest: str
    """Digest of what makes the preservation tokens: identities are bound to it."""
    variant: str
    """What the file is, for people."""
    settings: FlexIPSettings
    encoder: comfy.model_patcher.ModelPatcher
    """Holds a module Features -> tokens (B, N, width); for FlexIP a FlexIPMaker."""
    reads: Mapping[Source, int]
    """Channels of each source that the tokens are made of."""
    tokens: int
    """Preservation tokens; 0: as many as the source has."""
    width: int
    """Channels of a preservation token: on a UNet, the model's text width."""
    preserve: Stream | FluxStream
    personal: Stream | FluxStream | None = None
    null: Tensor | None = None
    """(1, N, width) tokens of nobody as the file states them, to compare with."""
    lora: Mapping[str, Tensor] = field(default_factory=dict)
    """FaceID's weight patches, by the public keys "0.to_q_lora.down.weight" ...; else empty."""

    family = FAMILY

    @property
    def patcher(self) -> comfy.model_patcher.ModelPatcher:
        """Where ComfyUI's caches look for a model's patcher."""
        return self.encoder

    def describe(self) -> str:
        """What the file is and wants, in one line."""
        blocks = f"{self.count} blocks, text of {self.text_width} channels"
        if isinstance(self.preserve, FluxStream):
            blocks = f"{self.count} blocks of a Flux of width {self.preserve.hidden}"
        tokens = f"{self.tokens} tokens" if self.tokens else "a token for each of the encoder's"
        wanted = [_ENCODERS[source] for source in self.reads if source in _ENCODERS]
        if self.settings.context == EVA:
            wanted = ["a recognised face"]
        if "context" in self.reads:
            wanted.append(self.settings.context)
        streams = "two streams" if self.has_personal else "no personalisation stream"
        return (
            f"{self.variant}: {blocks}, {tokens}, {streams}; reads "
            f"{' and '.join(dict.fromkeys(wanted))}"
        )

    @property
    def count(self) -> int:
        """Number of blocks that the streams work in."""
        held = self.preserve
        return len(held.layers if isinstance(held, FluxStream) else held.keys)

    @property
    def text_width(self) -> int:
        """Channels of the prompt's text, where that matters."""
        personal = getattr(self.encoder.model, "personal", None)
        return self.width if personal is None else personal.dims.output

    @property
    def has_personal(self) -> bool:
        """Whether it has a personalisation stream."""
        return getattr(self.encoder.model, "personal", None) is not None


class _Preserve(nn.Module):
    """Detail tokens from latents, then the overall tokens that the picture's class token asks."""

    def __init__(
        self, detail: ResamplerDims, overall: ResamplerDims | None, operations: Any, **factory: Any
    ) -> None:
        super().__init__()
        self.detail = Resampler(detail, operations, **factory)
        self.overall = None if overall is None else Resampler(overall, operations, **factory)

    def forward(self, features: Features) -> Tensor:
        tokens = self.detail(features["context"])
        if self.overall is None:
            return tokens
        asked = self.overall(features["context"], features["pooled"].unsqueeze(1))
        return torch.cat((tokens, asked), dim=1)


class FlexIPMaker(nn.Module):
    """All of a FlexIP file that makes tokens."""

    def __init__(
        self,
        detail: ResamplerDims,
        overall: ResamplerDims | None,
        personal: ResamplerDims | None,
        operations: Any = nn,
        chunk: int = CHUNK,
        **factory: Any,
    ) -> None:
        """chunk: text tokens that are personalised at a time; 0: the whole prompt."""
        super().__init__()
        self.chunk = chunk
        self.preserve = _Preserve(detail, overall, operations, **factory)
        self.personal = None if personal is None else Resampler(personal, operations, **factory)

    def forward(self, features: Features) -> Tensor:
        """context (B, N, D), pooled (B, E) -> P (B, latents + overall, width), detail first."""
        return self.preserve(features)

    def personalise(self, text: Tensor, pooled: Tensor) -> Tensor:
        """text (B, T, width) asks pooled (B, E) -> S of the text's shape, chunk by chunk.

        Raises ValueError when the text is not whole chunks.
        """
        if self.personal is None:
            raise ValueError("This file has no personalisation stream. Use balance 1.")
        chunk = self.chunk or text.shape[1]
        if text.shape[1] % chunk:
            raise ValueError(
                f"The prompt has {text.shape[1]} tokens, expected a multiple of {chunk}. Use a "
                "CLIP text encode node of Stable Diffusion."
            )
        count = text.shape[1] // chunk
        chunks = text.unflatten(1, (count, chunk)).flatten(0, 1)
        context = pooled.repeat_interleave(count, dim=0).unsqueeze(1)
        return self.personal(context, chunks).unflatten(0, (-1, count)).flatten(1, 2)


def make_tokens(adapter: FlexIPAdapter, features: Features) -> Tensor:
    """Preservation tokens of these features, (B, N, width) float32 on the CPU."""
    return _run(adapter, lambda module, move: module({k: move(v) for k, v in features.items()}))


def make_personal(adapter: FlexIPAdapter, text: Tensor, pooled: Tensor) -> Tensor:
    """Personalisation tokens of a prompt (B, 77k, width) for a person's class token (1, E)."""
    pooled = pooled.expand(len(text), -1)
    return _run(adapter, lambda module, move: module.personalise(move(text), move(pooled)))


def _run(adapter: FlexIPAdapter, make: Callable[..., Tensor]) -> Tensor:
    patcher = adapter.encoder
    comfy.model_management.load_models_gpu([patcher])
    with torch.no_grad():
        tokens = make(patcher.model, lambda x: x.to(patcher.load_device, torch.float32))
    return tokens.to("cpu", torch.float32)
