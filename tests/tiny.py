"""Small real models for tests: the tiny Flux that benchmarks use, too, and people for it."""

from __future__ import annotations

import torch
from flexid.mini.tiny_flux import (
    CONTEXT,
    TOKEN_DIM,
    VECTOR,
    adapter,
    conditioning,
    fill,
    flux,
    sample,
)
from flexid.model_patches.identity.identity import Identity
from identities import identity_of

__all__ = [
    "CONTEXT",
    "TOKENS",
    "TOKEN_DIM",
    "VECTOR",
    "adapter",
    "conditioning",
    "fill",
    "flux",
    "identity",
    "sample",
]

TOKENS = 8


def identity(seed: int = 2, tokens: int = TOKENS, width: int = TOKEN_DIM) -> Identity:
    generator = torch.Generator().manual_seed(seed)
    person = torch.randn(1, tokens, width, generator=generator)
    nobody = torch.randn(1, tokens, width, generator=torch.Generator().manual_seed(99))
    return identity_of({"pulid_flux": person}, {"pulid_flux": nobody})
