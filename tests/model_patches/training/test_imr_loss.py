"""Equation 7 of DynamicID: its two terms, and where its gradients go."""

import pytest
import torch
from flexid.model_patches.training.imr_loss import edit_loss

pytestmark = pytest.mark.pure


def tensors(*shapes):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(*shape, generator=generator, dtype=torch.float64) for shape in shapes]


def test_both_terms_are_means_of_squares_by_target():
    predicted, target, one, other = tensors((3, 4, 8), (3, 4, 8), (3, 4, 6, 6), (3, 4, 6, 6))
    found = edit_loss(predicted, target, one, other, 0.25)
    tokens = ((predicted - target) ** 2).sum((1, 2)) / 32
    noise = ((one - other) ** 2).sum((1, 2, 3)) / 144
    torch.testing.assert_close(found.tokens.double(), tokens)
    torch.testing.assert_close(found.noise.double(), noise)
    torch.testing.assert_close(found.total.double(), tokens + 0.25 * noise)
    alone = edit_loss(predicted, target, weight=0.25)
    assert torch.equal(alone.total, found.tokens) and not alone.noise.any()


def test_gradients_agree_with_finite_differences_and_spare_the_target():
    predicted, target, slope = tensors((2, 4, 8), (2, 4, 8), (8, 3))
    predicted.requires_grad_()
    target.requires_grad_()

    def of(tokens):
        """A frozen model whose prediction depends on the tokens in a curved way."""
        return edit_loss(tokens, target, torch.sin(tokens @ slope), torch.sin(target @ slope), 0.5)

    of(predicted).total.sum().backward()
    assert target.grad is None
    (way,) = tensors(predicted.shape)
    step = 1e-2
    with torch.no_grad():
        ends = [of(predicted + sign * step * way).total.double().sum() for sign in (1, -1)]
    measured = (ends[0] - ends[1]) / (2 * step)
    torch.testing.assert_close((predicted.grad * way).sum(), measured, rtol=1e-3, atol=0)


def test_what_does_not_fit_is_said():
    predicted, target, noise = tensors((3, 4, 8), (2, 4, 8), (3, 4, 6, 6))
    with pytest.raises(ValueError, match=r"face tokens have the shapes \(3, 4, 8\) and \(2, 4, 8"):
        edit_loss(predicted, target)
    with pytest.raises(ValueError, match="got 1 prediction of the noise, expected 2 or 0"):
        edit_loss(predicted, predicted, noise)
