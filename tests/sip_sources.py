"""A SIP projector without weights, for tests of what happens to its δ."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from flexid.model_patches.face.face import Face
from flexid.model_patches.identity.identity import Identity
from flexid.model_patches.sip.projector import Direction, Prompt
from identities import identity_of
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Fixed:
    """δ_i = tanh(E_i) ⊙ face: depends on the text and on the face; 0 for the zero face."""

    family: str = "fixed"
    name: str = "fixed source"
    digest: str = "fixed-1"
    encoder_digest: str = "fixed-encoder"
    gain: float = 1.0
    notes: tuple[str, ...] = ("a note",)

    def encode(self, faces: list[Face]) -> Tensor:
        return torch.stack([face.embedding[:64] for face in faces])[None]

    def nobody(self) -> Tensor:
        return torch.zeros(1, 1, 64)

    def direction(self, tokens: Tensor, prompt: Prompt) -> Direction:
        face = tokens.mean(dim=1)[:, None, : prompt.states.shape[-1]]
        return Direction(self.gain * torch.tanh(prompt.states) * face, self.notes)


def person(seed: int = 2) -> Identity:
    tokens = torch.randn(1, 1, 64, generator=torch.Generator().manual_seed(seed))
    return identity_of({"fixed": tokens}, {"fixed": torch.zeros(1, 1, 64)})


def zero_face() -> Identity:
    return identity_of({"fixed": torch.zeros(1, 1, 64)})
