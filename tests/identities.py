"""Identities made of given tokens, for tests that need no encoder."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flexid.model_patches.identity.identity import Encoding, Identity
from torch import Tensor


def identity_of(
    tokens: Mapping[str, Tensor],
    null: Mapping[str, Tensor] | None = None,
    encoder: str = "",
    recipe: Mapping[str, str] | None = None,
    **more: Any,
) -> Identity:
    """One encoding per family; `null` is the tokens themselves where it is not given."""
    encodings = {
        family: Encoding(family, encoder, value, (null or {}).get(family, value), {}, recipe or {})
        for family, value in tokens.items()
    }
    return Identity(encodings, **more)
