"""Noise, the way back from it, and what errors count."""

import numpy as np
import pytest
import torch
from flexid.model_patches.training import flow
from safetensors.torch import load_file

pytestmark = pytest.mark.pure


def test_predictions_lead_back_to_the_picture():
    latents = torch.randn(3, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    sigma = torch.tensor([0.05, 0.5, 0.95])
    noisy, velocity = flow.add_noise(latents, sigma)
    torch.testing.assert_close(noisy[1], latents[1] + velocity[1] / 2)
    torch.testing.assert_close(flow.clean(noisy, velocity, sigma), latents, atol=1e-5, rtol=1e-4)


def test_more_is_learnt_early_in_a_run():
    sigma = flow.early_sigmas(np.random.default_rng(0), 1000)
    assert sigma.dtype == torch.float32 and ((0 < sigma) & (sigma < 1)).all()
    counts = torch.histc(sigma, 4, 0, 1) / len(sigma)
    assert counts.numpy() == pytest.approx([1 / 16, 3 / 16, 5 / 16, 7 / 16], abs=0.01)


def test_errors_in_faces_count_more():
    boxes = np.zeros((2, 3, 4), np.float32)
    boxes[0, 0] = 32, 16, 64, 60  # latent cells 4 to 8 across, 2 to 7.5 down
    weights = flow.region_weights(boxes, (128, 128), (16, 16))
    assert weights.shape == (2, 1, 16, 16) and weights.dtype == np.float32
    assert weights.mean((1, 2, 3)) == pytest.approx(1) and (weights[1] == 1).all()
    inside, edge, outside = weights[0, 0, 4, 5], weights[0, 0, 7, 5], weights[0, 0, 0, 0]
    assert inside / outside == pytest.approx(flow.EMPHASIS)
    assert edge / outside == pytest.approx((1 + flow.EMPHASIS) / 2)


def test_weights_follow_pictures_that_are_not_square():
    boxes = np.array([[[0, 0, 32, 8]]], np.float32)  # the upper half of the left third
    weights = flow.region_weights(boxes, (16, 96), (2, 12), emphasis=2.0)
    assert weights.shape == (1, 1, 2, 12) and weights.mean() == pytest.approx(1)
    heavy = weights[0, 0] > weights.min() * 1.5
    assert heavy[0, :4].all() and heavy.sum() == 4


def test_sigmas_are_the_published_ones(golden):
    vectors = load_file(golden / "editidv2_train.safetensors")
    known = vectors["train_timesteps"]
    drawn = [flow.draw_sigma("paper", (index + 0.5) / 1000, 1024) for index in range(1000)]
    torch.testing.assert_close(torch.tensor(drawn, dtype=torch.float64), known, atol=1e-6, rtol=0)
    assert (drawn[0], drawn[-1]) == (1.0, 0.0)
    for name in ("20_1024", "20_2304", "20_4096", "4_256"):
        steps, tokens = map(int, name.split("_"))
        expected = vectors[f"sample_timesteps.{name}"]
        torch.testing.assert_close(flow.sample_sigmas(steps, tokens), expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("kind", flow.SIGMAS)
def test_every_kind_of_draw_stays_between_picture_and_noise(kind):
    tiny = np.finfo(np.float64).tiny
    chances = [tiny, 0.25, 0.5, 0.75, 1 - 2**-53]
    drawn = [flow.draw_sigma(kind, chance, 1024) for chance in chances]
    assert all(0 <= sigma <= 1 for sigma in drawn)
    expected = {"paper": 0.76, "resolution": 0.65, "logit_normal": 0.5, "uniform": 0.5}
    assert drawn[2] == pytest.approx(expected[kind], abs=0.01)
