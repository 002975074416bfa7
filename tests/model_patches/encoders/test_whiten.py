"""Whitening and resizing against the golden vectors, and the fallback without a parser."""

import dataclasses

import pytest
import torch
from flexid.model_patches.encoders import whiten
from flexid.model_patches.face.face import Face
from safetensors.torch import load_file

pytestmark = pytest.mark.pure

EXACT = {"atol": 1e-5, "rtol": 0}
RESIZED = {"atol": 2e-5, "rtol": 0}


@pytest.fixture(scope="module")
def expected(golden):
    return load_file(golden / "pulid_preprocess.safetensors")


@pytest.fixture(scope="module")
def face(expected):
    bgr = expected["face_bgr_64"].repeat_interleave(8, 0).repeat_interleave(8, 1)
    labels = expected["parse_32"].repeat_interleave(16, 0).repeat_interleave(16, 1)
    return Face(
        photo=0,
        photo_hash="golden",
        box=(0, 0, 1, 1),
        points=torch.zeros(5, 2),
        score=1.0,
        detector="none",
        angles=(0, 0, 0),
        ffhq_crop=bgr.flip(-1).contiguous(),
        labels=labels,
        embedding=None,
        recogniser="",
    )


def test_eva_pixels(face, expected):
    pixels = whiten.eva_pixels(face, 336, "parsed")
    assert pixels.shape == (1, 3, 336, 336)
    torch.testing.assert_close(
        pixels[:, :, ::3, ::3], expected["eva_pixels.bicubic_aa.s3"], atol=1e-4, rtol=0
    )


def test_resized_is_antialiased_and_unclamped(face, expected):
    features = expected["features_512.ch0"][None, None].expand(1, 3, 512, 512)
    resized = whiten.resize(features, 336)
    torch.testing.assert_close(resized[0, 0], expected["resized_336.bicubic_aa.ch0"], **RESIZED)
    assert resized.min() < -0.01 and resized.max() > 1.01


def test_features_before_resizing(face, expected):
    pixels = whiten.eva_pixels(face, 512, "parsed")
    std = torch.tensor(whiten.CLIP_STD)[:, None, None]
    mean = torch.tensor(whiten.CLIP_MEAN)[:, None, None]
    for channel in pixels[0] * std + mean:
        torch.testing.assert_close(channel, expected["features_512.ch0"], **EXACT)


def test_colour(face, expected):
    pixels = whiten.eva_pixels(face, 336, "parsed", grey=False)
    colour = expected["resized_336_rgb.bicubic_aa.s3"]
    torch.testing.assert_close(pixels[:, :, ::3, ::3], whiten.normalise(colour), atol=1e-4, rtol=0)


def test_background_labels(face, expected):
    mask = whiten.background(face, "parsed")[::16, ::16]
    assert torch.equal(mask, expected["bg_mask_32"].bool())


def test_auto_takes_the_parser_when_there_is_one(face):
    bare = dataclasses.replace(face, labels=None)
    assert whiten.whitening_used(face, "auto") == "parsed"
    assert whiten.whitening_used(bare, "auto") == "ellipse"
    assert torch.equal(
        whiten.eva_pixels(bare, 112, "auto"), whiten.eva_pixels(face, 112, "ellipse")
    )


def test_ellipse_keeps_the_face_and_whitens_the_corners(face):
    mask = whiten.background(face, "ellipse")
    ffhq = [(193, 240), (319, 240), (257, 314), (201, 371), (313, 371), (256, 450), (256, 60)]
    assert not any(mask[y, x] for x, y in ffhq)
    assert all(mask[y, x] for x, y in [(5, 5), (506, 5), (5, 506), (506, 506), (20, 256)])
    assert 0.4 < mask.float().mean() < 0.6


def test_off_changes_nothing_but_colour(face):
    pixels = whiten.eva_pixels(face, 512, "off", grey=False)
    expected = whiten.normalise(face.ffhq_crop.permute(2, 0, 1)[None].float() / 255)
    torch.testing.assert_close(pixels, expected, **EXACT)


@pytest.mark.parametrize("size", [112, 224, 336, 448])
def test_size_is_the_tower_s(face, size):
    assert whiten.eva_pixels(face, size, "auto").shape == (1, 3, size, size)


def test_parsed_without_labels_says_what_to_do(face):
    with pytest.raises(ValueError, match="photo 1 .*parsing_bisenet.pth.*models/facexlib.*'auto'"):
        whiten.eva_pixels(dataclasses.replace(face, labels=None), 336, "parsed")


def test_unknown_mode(face):
    with pytest.raises(ValueError, match="'blur'.*auto, parsed, ellipse, off"):
        whiten.eva_pixels(face, 336, "blur")
