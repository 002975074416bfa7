"""How pictures are scaled and cut, and where their points go."""

import numpy as np
import pytest
import torch
from flexid.model_patches.training.pictures import bucket_of, cut, fit
from PIL import Image
from safetensors.torch import load_file

pytestmark = pytest.mark.pure


def wavy(height, width):
    y, x = np.mgrid[:height, :width].astype(np.float64)
    waves = np.sin(x / 23 + y / 57), np.cos(x / 31 - y / 19), np.sin((x + y) / 41)
    return Image.fromarray(
        np.stack([np.round(127.5 + 127.5 * one) for one in waves], -1).astype("u1")
    )


def test_a_square_is_cut_as_published(golden):
    picture = wavy(45, 60)
    found = cut(picture, fit(60, 45, (32, 32)))[0].permute(2, 0, 1)
    expected = load_file(golden / "editidv2_train.safetensors")["image_transform_32"]
    torch.testing.assert_close((found - 0.5) / 0.5, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("size", "side", "bucket"),
    [
        ((800, 800), 512, (512, 512)),
        ((1200, 800), 512, (640, 448)),
        ((800, 1200), 512, (448, 640)),
        ((9000, 100), 512, (704, 384)),
        ((100, 100), 128, (128, 128)),
        ((30, 20), 64, (80, 48)),
    ],
)
def test_buckets_keep_the_shape(size, side, bucket):
    assert bucket_of(*size, side) == bucket
    assert all(edge % 16 == 0 for edge in bucket)


def test_points_go_where_the_pixels_go():
    """A white dot on black, looked for after the cut."""
    pixels = np.zeros((300, 480, 3), np.uint8)
    pixels[140:160, 300:320] = 255
    where = fit(480, 300, (128, 128))
    shown = cut(Image.fromarray(pixels), where)[0, ..., 0]
    y, x = (shown > 0.5).nonzero().float().mean(0).tolist()
    assert where.points(np.array([310.0, 150.0])) == pytest.approx([x + 0.5, y + 0.5], abs=0.7)
