"""Weights of several reference pictures -> how much each subset of them counts.

With weights w₁ ≥ w₂ ≥ … and Sⱼ the j strongest references, the guided prediction is
(1 - w₁)·v(none) + Σⱼ (wⱼ - wⱼ₊₁)·v(Sⱼ), wₙ₊₁ = 0. It is exact where every weight is 0 or 1,
continuous in between, needs n + 1 predictions at most and two when all weights are equal. The
coefficients sum to 1. One reference gives v(none) + w·(v(with) - v(none)).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

Subset = frozenset[int]
"""Numbers of the references that a prediction sees, from 0."""
Share = float | Tensor
"""How much a prediction counts: everywhere alike, or (B, 1, h, w)."""


def level_shares(weights: Sequence[float]) -> dict[Subset, float]:
    """Subset -> its coefficient, the largest subset first; those with 0 are left out."""
    order = sorted(range(len(weights)), key=lambda number: -weights[number])
    levels = [1.0, *(weights[number] for number in order), 0.0]
    shares = {
        frozenset(order[:count]): levels[count] - levels[count + 1]
        for count in range(len(order), -1, -1)
    }
    return {subset: share for subset, share in shares.items() if share}


def level_fields(fields: Tensor) -> dict[Subset, Tensor]:
    """The same in each pixel: fields (N, B, h, w) of weights -> Subset -> (B, 1, h, w).

    Subsets that count nowhere are left out, so that nobody predicts them.
    """
    levels, order = fields.sort(dim=0, descending=True, stable=True)
    bounds = [torch.ones_like(levels[0]), *levels, torch.zeros_like(levels[0])]
    seen = torch.zeros_like(order[0])
    shares: dict[Subset, Tensor] = {}
    for count in range(len(fields) + 1):
        if count:
            seen = seen | (1 << order[count - 1])
        share = bounds[count] - bounds[count + 1]
        for code in seen[share != 0].unique().tolist():
            subset = frozenset(number for number in range(len(fields)) if code >> number & 1)
            here = torch.where(seen == code, share, 0.0).unsqueeze(1)
            shares[subset] = shares[subset] + here if subset in shares else here
    return dict(sorted(shares.items(), key=lambda one: -len(one[0])))
