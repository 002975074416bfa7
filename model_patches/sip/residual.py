"""E' = E + α·Δ (FlexID, section 3.2): how a direction is scaled, and how it is added."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import torch
from torch import Tensor

Norm = Literal["token", "prompt", "none"]
NORMS: tuple[Norm, ...] = ("token", "prompt", "none")
ZERO = 1e-6
"""Directions shorter than this share of the longest one count as zero."""


def match_norms(direction: Tensor, states: Tensor, scope: Tensor, norm: Norm = "token") -> Tensor:
    """Scale a direction so that α is the relative change of a token; zero outside of the scope.

    direction and states (B, T, D) float32, scope (T,) bool -> (B, T, D).
    norm "token": every token's direction gets its token's length. "prompt": one factor for all,
    root mean square against root mean square. "none": as it is.
    """
    if norm not in NORMS:
        raise ValueError(f"Unknown norm {norm!r}; choose one of {', '.join(NORMS)}.")
    direction = direction * scope[:, None]
    lengths = direction.norm(dim=-1, keepdim=True)
    longest = lengths.amax(dim=1, keepdim=True)
    alive = (lengths > ZERO * longest) & (longest > 0)
    direction = torch.where(alive, direction, 0.0)
    if norm == "none":
        return direction
    wanted = states.norm(dim=-1, keepdim=True)
    if norm == "token":
        return direction * torch.where(alive, wanted / lengths.clamp_min(1e-30), 0.0)
    shares = [(value.square() * alive).sum(dim=1, keepdim=True) for value in (wanted, lengths)]
    return direction * (shares[0] / shares[1].clamp_min(1e-30)).sqrt()


def add(states: Tensor, direction: Tensor, weight: float | Tensor) -> Tensor:
    """E + α·Δ, computed in float32, in the dtype of E; α one number or (B, 1, 1)."""
    return add_all(states, [(direction, weight)])


def add_all(states: Tensor, residuals: Iterable[tuple[Tensor, float | Tensor]]) -> Tensor:
    """E + Σ α·Δ in the order given, computed in float32 and rounded once to the dtype of E."""
    total = states.float()
    for direction, weight in residuals:
        total = total + weight * direction
    return total.to(states.dtype)
