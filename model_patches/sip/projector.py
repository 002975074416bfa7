"""A source of semantic residuals: faces -> tokens kept in an identity -> δ for a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from torch import Tensor

from ..face.face import Face
from ..files.cache import TensorCache, tensor_key
from ..identity.identity import Encoding, Identity, check_tokens, encoding_for
from ..identity.provenance import join_distinct, pack_version

_directions: TensorCache[tuple[Tensor, str]] = TensorCache(128 << 20)
"""Vectors, and notes, a line each."""


@dataclass(frozen=True, eq=False)
class Prompt:
    """The part of an encoded prompt that a projector may read."""

    states: Tensor
    """(B, T, D) float32 on the CPU: the text as the diffusion model reads it."""
    text: str = ""
    """The words; empty when they are not connected."""


@dataclass(frozen=True, eq=False)
class Direction:
    """δ: the direction in which an identity moves a prompt, before scaling."""

    vectors: Tensor
    """(B, T, D) float32 on the CPU."""
    notes: tuple[str, ...] = ()
    """What the user should know about it, a line each."""


class SipProjector(Protocol):
    """φ of E' = E + α·φ(face, E). Implementations: faceclip_projector, attributes."""

    family: str
    """Key of its tokens in an identity."""
    name: str
    digest: str
    """Changes with the weights and every option."""
    encoder_digest: str
    """Changes with what `encode` runs: identities keep it."""

    def encode(self, faces: Sequence[Face]) -> Tensor:
        """(1, N, C) float32 on the CPU, all faces one after the other."""
        ...

    def nobody(self) -> Tensor:
        """(1, N0, C): the same without a face."""
        ...

    def direction(self, tokens: Tensor, prompt: Prompt) -> Direction:
        """δ for one prompt. Raises ValueError when the prompt does not fit the projector."""
        ...


def encode_sip(
    projector: SipProjector, faces: Sequence[Face], identity: Identity | None = None
) -> Identity:
    """The faces as this projector reads them, added to `identity` or as one of their own.

    Raises ValueError for no face.
    """
    if not faces:
        raise ValueError("0 faces to encode, expected at least 1. Connect Detect Faces.")
    known = identity or Identity(thumbnail=_thumbnail(faces[0]))
    encoding = Encoding(
        projector.family,
        projector.encoder_digest,
        projector.encode(faces),
        projector.nobody(),
        recipe={"projector": projector.name},
    )
    origin = {
        "sip_photos": join_distinct([face.photo_hash for face in faces]),
        "pack_version": pack_version(),
    }
    return replace(
        known,
        encodings={**known.encodings, projector.family: encoding},
        provenance={**known.provenance, **origin},
    )


def _thumbnail(face: Face) -> Tensor:
    return face.ffhq_crop[::2, ::2].clone()


def direction_for(projector: SipProjector, identity: Identity, prompt: Prompt) -> Direction:
    """The projector's δ, computed once per content: moving α computes nothing again.

    Raises ValueError when the identity was not encoded for this projector.
    """
    reader = f"the SIP projector '{projector.name}'"
    advice = "Encode the face with this projector (Encode SIP Identity)."
    encoding = encoding_for(identity, projector.family, projector.encoder_digest, reader, advice)
    tokens = check_tokens("The identity's tokens", encoding.tokens)
    key = (projector.digest, tensor_key(tokens), tensor_key(prompt.states), prompt.text)
    entry = _directions.get(key)
    if entry is None:
        found = projector.direction(tokens, prompt)
        entry = _directions.put(key, (found.vectors, "\n".join(found.notes)))
    return Direction(entry[0], tuple(entry[1].splitlines()))


def directions_computed() -> int:
    """How many directions this process has computed; the others came from the cache."""
    return _directions.statistics.runs
