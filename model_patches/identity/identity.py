"""The Identity value: a person, as the injections read it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

LARGEST_TOKEN = 1e6
"""Encoders make tokens of size 1 to 100; far larger ones overflow in half precision."""
READABLE = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, eq=False)
class Encoding:
    """One encoder's answer to a person. All tensors are CPU float32."""

    family: str
    """The kind of adapter that reads it, such as "pulid_flux"."""
    encoder: str
    """Digest of the tensors of the encoder that made it; "" where an old file does not say."""
    tokens: Tensor
    """(1, N, C) identity tokens."""
    null: Tensor
    """(1, N0, C): the tokens that the same encoder makes without a person."""
    extra: Mapping[str, Tensor] = field(default_factory=dict)
    """Other outputs of that encoder, by name, for adapters that read more than tokens."""
    recipe: Mapping[str, str] = field(default_factory=dict)
    """How it was made: files, whitening, fusion, edits."""


@dataclass(frozen=True, eq=False)
class Identity:
    """One person, encoded. All tensors are CPU float32 unless said otherwise.

    One identity can feed several injections: each looks up the encoding of its family.
    """

    encodings: Mapping[str, Encoding] = field(default_factory=dict)
    """By family."""
    features: Mapping[str, Tensor] = field(default_factory=dict)
    """What fusion reads, one row per photo: "arcface" (P, 512), raw."""
    thumbnail: Tensor | None = None
    """(H, W, 3) uint8 RGB."""
    provenance: Mapping[str, str] = field(default_factory=dict)
    """Where the photos come from: their hashes, recogniser, detector, pack version."""

    @property
    def picture(self) -> Tensor:
        """The thumbnail as an image batch (1, H, W, 3) in [0, 1]; a grey square without one."""
        if self.thumbnail is None:
            return torch.full((1, 64, 64, 3), 0.5)
        return self.thumbnail[None].float() / 255


def check_tokens(name: str, tokens: Tensor) -> Tensor:
    """Tokens (1, N, C) as CPU float32. Raises ValueError for another shape or type, or for values
    that are not finite or larger than LARGEST_TOKEN."""
    shape = tuple(tokens.shape)
    if len(shape) != 3 or shape[0] != 1 or 0 in shape:
        raise ValueError(
            f"{name} have shape {shape}, expected (1, tokens, channels) with at least one of "
            "each. Encode the photo again."
        )
    if tokens.dtype not in READABLE or tokens.layout != torch.strided or tokens.is_meta:
        raise ValueError(
            f"{name} are {tokens.dtype} ({tokens.layout}), expected dense float32, float16 or "
            "bfloat16 values. Encode the photo again."
        )
    tokens = tokens.detach().to("cpu", torch.float32)
    largest = tokens.abs().max().item()
    if not largest <= LARGEST_TOKEN:  # also false for NaN
        raise ValueError(
            f"{name} hold values up to {largest:g}, expected finite ones of at most "
            f"{LARGEST_TOKEN:g}. Encode the photo again."
        )
    return tokens


def check_widths(encoding: Encoding, width: int, reader: str, advice: str) -> tuple[Tensor, Tensor]:
    """Tokens and null tokens as `check_tokens` gives them; a reader reads tokens of one width.

    reader and advice: for messages. Raises ValueError, also for another width.
    """
    tokens, null = (
        check_tokens(f"The identity's {name}", value)
        for name, value in (("tokens", encoding.tokens), ("null tokens", encoding.null))
    )
    for name, value in (("tokens", tokens), ("null tokens", null)):
        if value.shape[-1] != width:
            raise ValueError(
                f"The identity's {name} are {value.shape[-1]} wide; {reader} reads {width}. "
                f"{advice}"
            )
    return tokens, null


def encoding_for(
    identity: Identity, family: str, encoder: str, reader: str, advice: str, file: str = ""
) -> Encoding:
    """The identity's encoding for a reader that was trained with one encoder.

    family and encoder: what the reader needs, `encoder` as in Encoding; file: digest of the
    reader's file, which identities of version 1 name instead. reader and advice: for messages.
    Raises ValueError when there is none, or when another encoder made it.
    """
    found = identity.encodings.get(family)
    if found is None:
        have = ", ".join(sorted(identity.encodings)) or "none"
        raise ValueError(f"The identity has tokens for: {have}; {reader} needs {family}. {advice}")
    made, wanted = found.encoder, encoder
    if not made:
        made, wanted = found.recipe.get("adapter_digest", ""), file
    if made and wanted and made != wanted:
        source = found.recipe.get("adapter", "another file")
        raise ValueError(
            f"The identity's {family} tokens were made by the encoder {made[:12]} (of {source}); "
            f"{reader} reads tokens of the encoder {wanted[:12]}. {advice}"
        )
    return found
