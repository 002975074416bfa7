"""What teaches DynamicID's reconfigurator: equation 7 of arXiv 2503.06505.

Predicted face tokens should be those of the target picture (direct feature matching), and the
frozen model should make the same of both (latent diffusion consistency): with either it predicts
the same, for the same noisy picture at the same noise level.
"""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor


class EditLoss(NamedTuple):
    """Of each target, (B,)."""

    total: Tensor
    tokens: Tensor
    """Direct feature matching."""
    noise: Tensor
    """Latent diffusion consistency, before its weight."""


def edit_loss(
    predicted: Tensor,
    target: Tensor,
    noise_by_predicted: Tensor | None = None,
    noise_by_target: Tensor | None = None,
    weight: float = 1.0,
) -> EditLoss:
    """Equation 7 for face tokens (B, N, C) and what the frozen model predicts with both, (B, ...).

    weight: the paper's λ, which is 1. Squared norms are means, as in the authors' code, so λ does
    not depend on the sizes of tokens and pictures. Without predictions the second term is 0: at a
    weight of 0 nobody has to make them. The target's tensors get no gradient. Raises ValueError for
    shapes that differ, and for one prediction without the other.
    """
    tokens = _mean_square(predicted, target, "face tokens")
    if noise_by_predicted is None and noise_by_target is None:
        return EditLoss(tokens, tokens, tokens.new_zeros(len(tokens)))
    if noise_by_predicted is None or noise_by_target is None:
        raise ValueError(
            "The loss got 1 prediction of the noise, expected 2 or 0. Give those made with the "
            "predicted and with the target's tokens."
        )
    noise = _mean_square(noise_by_predicted, noise_by_target, "predictions of the noise")
    return EditLoss(tokens + weight * noise, tokens, noise)


def _mean_square(found: Tensor, wanted: Tensor, what: str) -> Tensor:
    """(B,) means over all but the first dimension, float32."""
    if found.shape != wanted.shape:
        raise ValueError(
            f"The {what} have the shapes {tuple(found.shape)} and {tuple(wanted.shape)}, expected "
            "equal ones. Make both of the same rows."
        )
    return (found.float() - wanted.detach().float()).square().flatten(1).mean(1)
