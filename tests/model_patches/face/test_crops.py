"""The recogniser's own crop, wherever the face is, as a grid that gradients pass through."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from flexid.model_patches.face.align import arcface_crop
from flexid.model_patches.face.crops import (
    SIDE,
    around,
    crop_grid,
    cut,
    jitter_grid,
    widest_window,
)
from smooth_pictures import FIVE, pictures, points

pytestmark = pytest.mark.pure


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


def test_a_window_is_as_wide_as_the_crop_and_its_margin():
    grid = crop_grid(points((16, 16), scale=0.5), (96, 160))
    assert widest_window(grid, (12, 20), 2) == 7 + 2 * 2  # 56 pixels, 8 a cell
    turned = FIVE @ np.array([[0.8, 0.6], [-0.6, 0.8]]) * 0.5 + (60, 20)
    assert widest_window(crop_grid(turned[None], (96, 160)), (12, 20), 0) == 10  # 56 * 1.4 / 8


def test_jittered_crops_show_the_same_face_a_little_elsewhere():
    shown = pictures(128, 128)
    grid = crop_grid(points((20, 20), scale=0.7), (128, 128))
    plain, mirrored, other = jitter_grid(grid, 3, seed=4)
    assert torch.equal(plain, grid)
    first = cropped(shown, grid)
    apart = (cropped(shown, other) - first).abs().mean()
    assert 0.001 < apart < 0.1
    assert (cropped(shown, mirrored).flip(-1) - first).abs().mean() < 0.1
    centre = grid.mean((1, 2)) * 64
    assert (other.mean((1, 2)) * 64 - centre).abs().max() < 4.5 * 0.7 + 1
    assert all(map(torch.equal, jitter_grid(grid, 3, seed=4), (plain, mirrored, other)))
    assert not torch.equal(jitter_grid(grid, 3, seed=5)[2], other)


def test_a_large_face_is_averaged_so_that_every_pixel_counts():
    shown = torch.rand(1, 3, 512, 512, generator=torch.Generator().manual_seed(0))
    shown.requires_grad_()
    grid = crop_grid(points((10, 10), scale=4.2), (512, 512))
    cut(shown, grid).sum().backward()
    inside = shown.grad[..., 64:448, 64:448]
    assert (inside != 0).float().mean() > 0.9
    few = torch.autograd.grad(cropped(shown, grid).sum(), shown)[0]
    assert (few[..., 64:448, 64:448] != 0).float().mean() < 0.5


def test_a_small_face_is_read_as_the_recogniser_reads_it():
    shown = pictures(96, 160)
    grid = crop_grid(points((70, 20)), (96, 160))
    both = cut(shown, torch.cat([grid, grid]))
    torch.testing.assert_close(both[1:], F.grid_sample(shown, grid, align_corners=False))
