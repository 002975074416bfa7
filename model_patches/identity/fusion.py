"""Rules that fuse several token sets into one identity: pure tensor arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Fused:
    """Fused tokens (1, N, D) and the share of each input in them; shares sum to 1."""

    tokens: Tensor
    shares: tuple[float, ...]


@dataclass(frozen=True)
class Rule:
    """A fusion rule: `apply(P x (1, N, D), arcface (P, E) | None, weights (P,)) -> Fused`."""

    definition: str
    apply: Callable[[Sequence[Tensor], Tensor | None, Tensor], Fused]
    weighted: bool = True
    """Whether user weights have a meaning."""
    ragged: bool = False
    """Whether the inputs may have different token counts."""


REJECT_OUTLIERS = "reject_outliers"
OUTLIER_DEVIATIONS = 3.0
OUTLIER_MARGIN = 0.2
"""Least distance in cosine from the median that makes an outlier: photos of one person differ by
about this much among each other, two people by 0.4 and more."""


def fuse(
    tokens: Sequence[Tensor],
    rule: str,
    arcface: Tensor | None = None,
    weights: Sequence[float] | None = None,
) -> Fused:
    """Fuse P token sets (1, N, D) by a key of RULES; (1, N', D) float32 out.

    `arcface` (P, E): raw recogniser embeddings, needed by "quality_weighted" and
    "reject_outliers". `weights`: P non-negative numbers, not all zero; None means equal.
    Raises ValueError for an unknown rule, differing shapes, missing embeddings, bad weights.
    """
    if rule not in RULES:
        raise ValueError(f"fusion is {rule!r}, expected one of {', '.join(RULES)}.")
    factors = _weights(weights, len(tokens), rule)
    _same_shape(tokens, rule)
    return RULES[rule].apply([t.float() for t in tokens], arcface, factors)


def agreement(arcface: Tensor) -> Tensor:
    """(P, E) embeddings -> (P,) cosine of each to the mean direction of the others; 1 if alone."""
    unit = torch.nn.functional.normalize(arcface.float(), dim=-1)
    if len(unit) == 1:
        return torch.ones(1)
    return torch.nn.functional.cosine_similarity(unit, unit.sum(0) - unit, dim=-1)


def inliers(arcface: Tensor) -> Tensor:
    """(P,) bool. False: agreement lies below the median by more than three (normal-consistent)
    median absolute deviations and by more than OUTLIER_MARGIN. Never all False; all True for
    fewer than three photos, where nobody can say who is the odd one out."""
    if len(arcface) < 3:
        return torch.ones(len(arcface), dtype=torch.bool)
    score = agreement(arcface)
    middle = score.quantile(0.5)
    spread = 1.4826 * (score - middle).abs().quantile(0.5)
    return score >= middle - max(OUTLIER_DEVIATIONS * float(spread), OUTLIER_MARGIN)


def describe_outliers(arcface: Tensor) -> str:
    """What reject_outliers kept of these inputs, in one line."""
    kept, count = int(inliers(arcface).sum()), len(arcface)
    if kept < count:
        return f"{REJECT_OUTLIERS} kept {kept} of {count}; the others have share 0%"
    if count < 3:
        return f"{REJECT_OUTLIERS} kept all {count}: it needs 3 to tell which is the odd one"
    return (
        f"{REJECT_OUTLIERS} kept all {count}: none agrees with the others by {OUTLIER_MARGIN:g} "
        f"and {OUTLIER_DEVIATIONS:g} deviations less than the median does"
    )


def _weighted_mean(tokens: Sequence[Tensor], weights: Tensor) -> Fused:
    shares = weights / weights.sum()
    mean = (torch.cat(list(tokens)) * shares[:, None, None]).sum(0, keepdim=True)
    return Fused(mean, tuple(shares.tolist()))


def _mean(tokens: Sequence[Tensor], arcface: Tensor | None, weights: Tensor) -> Fused:
    return _weighted_mean(tokens, weights)


def _norm_weighted(tokens: Sequence[Tensor], arcface: Tensor | None, weights: Tensor) -> Fused:
    return _weighted_mean(tokens, weights * torch.stack([t.norm() for t in tokens]))


def _quality_weighted(tokens: Sequence[Tensor], arcface: Tensor | None, weights: Tensor) -> Fused:
    quality = (
        _check_embeddings(arcface, len(tokens), "quality_weighted").float().norm(dim=1).square()
    )
    return _weighted_mean(tokens, weights * quality)


def _reject_outliers(tokens: Sequence[Tensor], arcface: Tensor | None, weights: Tensor) -> Fused:
    kept = inliers(_check_embeddings(arcface, len(tokens), REJECT_OUTLIERS))
    if not (weights * kept).sum() > 0:
        raise ValueError(
            f"{REJECT_OUTLIERS} leaves only inputs of weight 0. Give another one a weight above 0."
        )
    return _weighted_mean(tokens, weights * kept)


def _concat(tokens: Sequence[Tensor], arcface: Tensor | None, weights: Tensor) -> Fused:
    joined = torch.cat(list(tokens), dim=1)
    return Fused(joined, tuple(t.shape[1] / joined.shape[1] for t in tokens))


def _max_norm_token(tokens: Sequence[Tensor], arcface: Tensor | None, weights: Tensor) -> Fused:
    stack = torch.cat(list(tokens))
    winner = (stack.norm(dim=-1) * weights[:, None]).argmax(0)
    picked = stack[winner, torch.arange(stack.shape[1])][None]
    return Fused(picked, _count_shares(winner, len(stack)))


def _max(tokens: Sequence[Tensor], arcface: Tensor | None, weights: Tensor) -> Fused:
    values, winner = torch.cat(list(tokens)).max(dim=0, keepdim=True)
    return Fused(values, _count_shares(winner, len(tokens)))


def _count_shares(winner: Tensor, inputs: int) -> tuple[float, ...]:
    return tuple((winner.flatten().bincount(minlength=inputs) / winner.numel()).tolist())


def _check_embeddings(arcface: Tensor | None, count: int, rule: str) -> Tensor:
    if arcface is None or len(arcface) != count:
        got = 0 if arcface is None else len(arcface)
        raise ValueError(
            f"fusion {rule!r} needs a recogniser embedding of each of {count} inputs, got {got}. "
            "Encode the photos again (save identities with their features), or choose 'mean'."
        )
    broken = [row for row, values in enumerate(arcface, 1) if not values.isfinite().all()]
    if broken:
        raise ValueError(
            f"fusion {rule!r} compares recogniser embeddings, but {len(broken)} of {count} are "
            f"not finite (input {', '.join(map(str, broken))}). Encode those photos again."
        )
    return arcface


def _weights(weights: Sequence[float] | None, count: int, rule: str) -> Tensor:
    if weights is None:
        return torch.ones(count)
    if len(weights) != count:
        raise ValueError(
            f"{len(weights)} weights for {count} inputs. Give one number per input, or none."
        )
    if any(not math.isfinite(w) or w < 0 for w in weights) or not sum(weights) > 0:
        raise ValueError(
            f"weights are {list(weights)}, expected finite numbers of 0 or more, not all 0."
        )
    if not RULES[rule].weighted and len(set(weights)) > 1:
        raise ValueError(
            f"fusion {rule!r} has no use for weights, got {list(weights)}. "
            "Leave them empty, or choose 'mean'."
        )
    return torch.tensor(weights, dtype=torch.float32)


def _same_shape(tokens: Sequence[Tensor], rule: str) -> None:
    shapes = [tuple(t.shape) for t in tokens]
    first = 2 if RULES[rule].ragged else 1
    if len({shape[first:] for shape in shapes}) != 1 or any(shape[0] != 1 for shape in shapes):
        raise ValueError(
            f"fusion {rule!r} needs token sets of one shape (1, N, D), got {shapes}. "
            "Choose 'concat' for different token counts; different widths cannot be fused."
        )


RULES = {
    "mean": Rule("the average of the token sets; steady, the default of other packs", _mean),
    "norm_weighted": Rule(
        "average in which each set counts by its length (Frobenius norm): clear faces lead",
        _norm_weighted,
    ),
    "concat": Rule(
        "all tokens side by side; keeps every photo's detail, costs sampling time",
        _concat,
        weighted=False,
        ragged=True,
    ),
    "max_norm_token": Rule(
        "each token from the photo where it is longest; weights multiply the lengths compared",
        _max_norm_token,
    ),
    "max": Rule(
        "the largest value of each element (signed); strong, may exaggerate", _max, weighted=False
    ),
    "quality_weighted": Rule(
        "average by squared length of the raw ArcFace embedding, which shrinks with blur, "
        "occlusion and profile views (inverse-variance weights)",
        _quality_weighted,
    ),
    REJECT_OUTLIERS: Rule(
        "average without photos that look like someone else: ArcFace cosine to the others below "
        "the median by 3 deviations (MAD) and 0.2; two photos are both kept",
        _reject_outliers,
    ),
}
