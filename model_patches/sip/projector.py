"""What a source of semantic residuals is: faces -> tokens kept in an identity -> δ for a prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

from ..face.face import Face
from ..files.cache import TensorCache, tensor_key
from ..identity.identity import Identity
from ..identity.provenance import joined, pack_version

_directions = TensorCache(128 << 20)


@dataclass(frozen=True, eq=False)
class Prompt:
    """One encoded prompt, as far as a projector may read it."""

    states: Tensor
    """(B, T, D) float32 on the CPU: the text as the diffusion model reads it."""
    text: str = ""
    """The words; empty when nobody connected them."""


@dataclass(frozen=True, eq=False)
class Direction:
    """Where an identity pulls a prompt, not scaled yet."""

    delta: Tensor
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

    def encode(self, faces: Sequence[Face]) -> Tensor:
        """(1, N, C) float32 on the CPU, all faces one after the other."""
        ...

    def nobody(self) -> Tensor:
        """(1, N0, C): the same for no face."""
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
    known = identity or Identity({}, {}, thumbnail=_thumbnail(faces[0]))
    origin = {
        "sip_photos": joined([face.photo_hash for face in faces]),
        f"sip_{projector.family}": f"{projector.name} {projector.digest[:16]}",
        "pack_version": pack_version(),
    }
    return replace(
        known,
        tokens={**known.tokens, projector.family: projector.encode(faces)},
        unconditional={**known.unconditional, projector.family: projector.nobody()},
        provenance={**known.provenance, **origin},
    )


def _thumbnail(face: Face) -> Tensor:
    return face.ffhq_crop[::2, ::2].clone()


def direction_for(projector: SipProjector, identity: Identity, prompt: Prompt) -> Direction:
    """The projector's δ, computed once per content: moving α computes nothing again.

    Raises ValueError when the identity was not encoded for this projector.
    """
    tokens = identity.tokens.get(projector.family)
    if tokens is None:
        have = ", ".join(sorted(identity.tokens)) or "none"
        raise ValueError(
            f"The identity has tokens for: {have}; the SIP projector '{projector.name}' needs "
            f"{projector.family}. Encode the face with this projector (Encode SIP Identity)."
        )
    key = (projector.digest, tensor_key(tokens), tensor_key(prompt.states), prompt.text)
    entry = _directions.get(key)
    if entry is None:
        found = projector.direction(tokens, prompt)
        entry = _directions.put(key, (found.delta, _packed(found.notes)))
    return Direction(entry[0], tuple(bytes(entry[1].tolist()).decode().splitlines()))


def _packed(notes: Sequence[str]) -> Tensor:
    """Text as bytes, for a cache of tensors."""
    return torch.tensor(list("\n".join(notes).encode()), dtype=torch.uint8)


def directions_computed() -> int:
    """How many directions this process has computed; the others came from the cache."""
    return _directions.statistics.runs
