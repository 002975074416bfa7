"""Float IMAGE -> 8 bits: rounding, alpha, grey, clamping, hashes, refusals."""

import numpy as np
import pytest
import torch
from flexid.model_patches.face.pixels import check_images, photo_hash, to_uint8
from safetensors.torch import load_file

pytestmark = pytest.mark.pure


def test_rounding_equals_the_golden_rounding(golden):
    vectors = load_file(golden / "pulid_preprocess.safetensors")
    values = vectors["float_to_u8.in"][:, None, None].expand(-1, 1, 3)
    expected = vectors["float_to_u8.round"]
    assert torch.equal(torch.from_numpy(to_uint8(values)[:, 0, 1].copy()), expected)
    assert not torch.equal(expected, vectors["float_to_u8.trunc"])  # the two rules do differ


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_eight_bits_come_back_exactly(dtype):
    levels = torch.arange(256, dtype=torch.uint8).view(16, 16, 1).expand(-1, -1, 3)
    assert np.array_equal(to_uint8(levels.to(dtype) / 255), levels.numpy())


def test_overshoot_is_clamped():
    pixels = torch.tensor([-0.2, 1.3, 0.5]).view(1, 1, 3)
    assert to_uint8(pixels).tolist() == [[[0, 255, 128]]]


def test_grey_is_copied_to_three_channels():
    assert to_uint8(torch.full((2, 3, 1), 0.2)).tolist() == [[[51] * 3] * 3] * 2


@pytest.mark.parametrize("channels", [2, 4])
def test_alpha_is_laid_over_white(channels):
    photo = torch.zeros(1, 3, channels)
    photo[0, :, -1] = torch.tensor([0.0, 0.5, 1.0])
    assert to_uint8(photo)[0, :, 0].tolist() == [255, 128, 0]


def test_rows_of_a_tall_photo_are_all_converted():
    photo = torch.linspace(0, 1, 1500).view(-1, 1, 1).expand(-1, 4, 3)
    assert np.array_equal(to_uint8(photo)[:, 2, 0], np.round(np.linspace(0, 1, 1500) * 255))


def test_a_view_gives_the_same_as_its_copy():
    photo = torch.rand(3, 40, 30).permute(1, 2, 0)[::2, ::3]
    assert not photo.is_contiguous()
    assert np.array_equal(to_uint8(photo), to_uint8(photo.contiguous()))


def test_hash_knows_pixels_and_shape():
    flat = np.zeros((2, 6, 3), np.uint8)
    other = flat.copy()
    other[1, 5, 2] = 1
    hashes = {photo_hash(one) for one in (flat, flat.reshape(3, 4, 3), other)}
    assert len(hashes) == 3
    assert photo_hash(other[:, ::-1][:, ::-1]) == photo_hash(other)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_not_finite_pixels_are_refused_wherever_they_are(value):
    photo = torch.zeros(1200, 5, 3)
    photo[1100, 2, 1] = value
    with pytest.raises(ValueError, match=r"photo 4 \(5x1200\).*NaN or infinite"):
        to_uint8(photo, 3)


@pytest.mark.parametrize(
    ("images", "said"),
    [
        (None, "NoneType"),
        (torch.zeros(4, 4, 3), r"\(4, 4, 3\)"),
        (torch.zeros(1, 4, 4, 5), r"\(1, 4, 4, 5\)"),
        (torch.zeros(0, 4, 4, 3), "empty"),
        (torch.zeros(1, 0, 4, 3), "empty"),
        (torch.zeros(1, 4, 4, 3, dtype=torch.uint8), "uint8.*255"),
    ],
)
def test_what_is_not_an_image_batch_is_refused(images, said):
    with pytest.raises(ValueError, match=said):
        check_images(images)
