"""How far two sets of pictures are apart, by features of an Inception network: FID and KID."""

from __future__ import annotations

import numpy as np

SUBSETS, SUBSET_SIZE = 100, 1000
FEW = 2048
"""Below so many pictures FID says more about their number than about them."""


def fid(one: np.ndarray, other: np.ndarray) -> float:
    """Frechet distance of two sets of features (N, D) and (M, D), in float64.

    |m1 - m2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), sample covariances. Biased for few pictures:
    report the numbers beside it, and rather `kid`. Raises ValueError for fewer than two each.
    """
    one, other = _check(one, other)
    gap = one.mean(0) - other.mean(0)
    first, second = np.cov(one, rowvar=False), np.cov(other, rowvar=False)
    # Of two positive matrices, tr (C1 C2)^(1/2) = tr (C1^(1/2) C2 C1^(1/2))^(1/2): symmetric, so
    # it also holds where both have less than full rank.
    root = _root(np.atleast_2d(first))
    middle = np.linalg.eigvalsh(root @ np.atleast_2d(second) @ root)
    overlap = np.sqrt(np.clip(middle, 0, None)).sum()
    return float(gap @ gap + np.trace(np.atleast_2d(first + second)) - 2 * overlap)


def _root(matrix: np.ndarray) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * np.sqrt(np.clip(values, 0, None))) @ vectors.T


def kid(
    one: np.ndarray,
    other: np.ndarray,
    subsets: int = SUBSETS,
    size: int = SUBSET_SIZE,
    seed: int = 0,
) -> tuple[float, float]:
    """Kernel distance of features (N, D) and (M, D): mean and standard deviation over subsets.

    Unbiased squared MMD with the kernel (x . y / D + 1)^3. A set smaller than `size` is taken
    whole, which leaves no deviation. Raises ValueError for fewer than two pictures each.
    """
    one, other = _check(one, other)
    size = min(size, len(one), len(other))
    rng = np.random.default_rng(seed)
    if size == len(one) == len(other):
        return _mmd(one, other), 0.0
    found = [
        _mmd(
            one[rng.choice(len(one), size, replace=False)],
            other[rng.choice(len(other), size, replace=False)],
        )
        for _ in range(subsets)
    ]
    return float(np.mean(found)), float(np.std(found))


def _mmd(one: np.ndarray, other: np.ndarray) -> float:
    def kernel(x: np.ndarray, y: np.ndarray) -> np.ndarray:
        return (x @ y.T / x.shape[1] + 1) ** 3

    total, count = 0.0, len(one)
    for each in (one, other):
        inner = kernel(each, each)
        total += (inner.sum() - np.trace(inner)) / (count * (count - 1))
    return float(total - 2 * kernel(one, other).mean())


def _check(one: np.ndarray, other: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
    if one.ndim != 2 or other.ndim != 2 or one.shape[1] != other.shape[1]:
        raise ValueError(f"expected features (N, D) and (M, D), got {one.shape} and {other.shape}")
    if min(len(one), len(other)) < 2:
        raise ValueError(f"expected two pictures at least, got {len(one)} and {len(other)}")
    if not (np.isfinite(one).all() and np.isfinite(other).all()):
        raise ValueError("a feature is not finite, as of a picture with NaN; paint it again")
    return one, other
