"""The identity loss sees the recogniser's own crop, wherever the face is, with gradients."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flexid.model_patches.face.align import arcface_crop
from flexid.model_patches.training.identity_loss import (
    SIDE,
    IdentityLoss,
    around,
    centres,
    crop_grid,
)
from torch import nn

pytestmark = pytest.mark.pure

FIVE = np.array([[38.3, 51.7], [73.5, 51.5], [56.0, 71.7], [41.5, 92.4], [70.7, 92.2]])
"""About where the eyes, nose and mouth lie in an ArcFace crop."""


def pictures(height, width, count=1):
    """Smooth, so that different ways of interpolating agree."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(count, 3, height // 16, width // 16, generator=generator)
    return F.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)


def points(*corners, scale=0.5):
    """Faces of `scale` times the crop's size, at these corners (x, y)."""
    return np.stack([FIVE * scale + corner for corner in corners])


def cropped(shown, grid):
    return F.grid_sample(shown, grid, padding_mode="border", align_corners=False)


def test_the_crop_is_the_recognisers():
    shown = pictures(96, 160) * 255
    where = points((70, 20))
    mine = cropped(shown, crop_grid(where, (96, 160)))[0].permute(1, 2, 0)
    image = shown[0].permute(1, 2, 0).round().byte().numpy()
    theirs = torch.from_numpy(arcface_crop(image, where[0])).float()
    assert mine.shape == (SIDE, SIDE, 3)
    # OpenCV rounds places to a 32nd of a pixel.
    assert (mine - theirs).abs().mean() < 1.5


@pytest.mark.parametrize("window", [9, 30])
def test_a_window_shows_the_same_face(window):
    """Eight pixels a cell stand for the decoder. A window beyond the picture takes it whole."""
    shown = pictures(96, 160, 2)
    grid = crop_grid(points((4, 6), (80, 20)), (96, 160))
    parts, moved = around(F.pixel_unshuffle(shown, 8), grid, window)
    assert parts.shape[-2:] == (min(window, 12), min(window, 20))
    seen = cropped(shown, grid), cropped(F.pixel_shuffle(parts, 8), moved)
    inner = [crop[..., 16:-16, 16:-16] for crop in seen]
    torch.testing.assert_close(*inner, atol=0.05, rtol=0)


def recogniser():
    torch.manual_seed(0)
    return nn.Sequential(nn.AvgPool2d(8), nn.Flatten(), nn.Linear(3 * 14 * 14, 8))


def loss(window=12):
    return IdentityLoss(lambda latents: F.pixel_shuffle(latents, 8), recogniser(), window)


def test_latents_and_pictures_are_judged_alike():
    """A face that shows who it should has cosine 1."""
    shown = pictures(96, 96, 3) * 2 - 1
    where = points((10, 10), (20, 4), (15, 15))
    crops = F.grid_sample(shown, crop_grid(where, (96, 96)), align_corners=False)
    wanted = F.normalize(recogniser()(crops), dim=-1).detach()
    judge = loss()
    latents = F.pixel_unshuffle(shown, 8)
    torch.testing.assert_close(judge.of_latents(latents, where, (96, 96), wanted), torch.ones(3))
    there = torch.tensor([True, False, True])
    found = judge.of_pictures(shown, torch.from_numpy(where), there, wanted)
    torch.testing.assert_close(found, torch.tensor([1.0, 0.0, 1.0]))
    assert not judge.of_pictures(shown, torch.from_numpy(where), there & False, wanted).any()


def test_the_gradient_is_that_of_finite_differences():
    torch.manual_seed(1)
    latents = torch.randn(1, 192, 6, 6, requires_grad=True)
    wanted = F.normalize(torch.randn(1, 8), dim=-1)
    where, judge = points((2, 2), scale=0.3), loss(window=6)

    def value(at):
        return (1 - judge.of_latents(at * 0.3, where, (48, 48), wanted)).sum()

    value(latents).backward()
    direction = torch.randn_like(latents)
    step = 1e-2 * direction / direction.norm() * latents.detach().norm()
    with torch.no_grad():
        change = (value(latents + step) - value(latents - step)) / 2
    assert latents.grad.norm() > 0
    assert float((latents.grad * step).sum()) == pytest.approx(float(change), rel=0.05)


def test_centres_are_unit_means_of_each_person():
    embeddings = np.array([[2.0, 0.0], [0.0, 3.0], [0.0, -1.0]], np.float32)
    found = centres(embeddings, np.array([0, 0, 1]))
    torch.testing.assert_close(found, torch.tensor([[0.5**0.5, 0.5**0.5], [0.0, -1.0]]))
