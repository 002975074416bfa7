"""Crops against the golden vectors, and head angles against projected rotations."""

import numpy as np
import pytest
from flexid.model_patches.face.align import (
    ARCFACE_112,
    FFHQ_512,
    FFHQ_BORDER,
    arcface_crop,
    ffhq_crop,
    robust_similarity,
    similarity,
    warp,
)
from flexid.model_patches.face.angles import MEAN_FACE, angles_of, head_angles, rotation
from safetensors.numpy import load_file

pytestmark = pytest.mark.pure


@pytest.fixture(scope="module")
def vectors(golden):
    return load_file(golden / "pulid_preprocess.safetensors")


@pytest.fixture(scope="module")
def source():
    """The golden README's formula, RGB."""
    y, x = np.mgrid[:400, :360].astype(np.float64)
    waves = np.sin(x / 23 + y / 57), np.cos(x / 31 - y / 19), np.sin((x + y) / 41)
    return np.stack([np.round(127.5 + 127.5 * wave) for wave in waves], -1).astype(np.uint8)


def test_least_squares_fits_equal_the_references(vectors):
    for row, points in enumerate(vectors["landmarks"]):
        for target, name in (
            (ARCFACE_112, "affine_arcface112.lsq"),
            (FFHQ_512, "affine_ffhq512.lsq"),
        ):
            np.testing.assert_allclose(similarity(points, target), vectors[name][row], atol=1e-4)


def test_ffhq_fit_drops_the_same_points_as_opencv(vectors):
    dropped = 0
    for row, points in enumerate(vectors["landmarks"]):
        matrix, inliers = robust_similarity(points)
        np.testing.assert_array_equal(inliers, vectors["affine_ffhq512.cv2_lmeds_inliers"][row])
        np.testing.assert_allclose(matrix, vectors["affine_ffhq512.cv2_lmeds"][row], atol=2e-3)
        dropped += int((~inliers).sum())
    assert dropped >= 3  # rows 7 to 9 have a gross outlier: the test must have seen one


def test_warp_equals_opencv_on_bgr(vectors, source):
    np.testing.assert_array_equal(source[::8, ::8], vectors["warp_src.s8"])
    crop = warp(source, vectors["affine_ffhq512.cv2_lmeds"][2], 512, (135, 133, 132))
    difference = np.abs(crop[::4, ::4].astype(int) - vectors["warp_dst_lmeds2.s4"].astype(int))
    assert difference.max() <= 2


def test_crops_put_the_points_on_their_templates():
    points = np.array([(300.0, 200), (380, 210), (335, 260), (300, 300), (365, 306)])
    photo = np.full((600, 700, 3), 200, np.uint8)
    assert arcface_crop(photo, points).shape == (112, 112, 3)
    assert ffhq_crop(photo, points).shape == (512, 512, 3)
    matrix = similarity(points, ARCFACE_112)
    moved = points @ matrix[:, :2].T + matrix[:, 2]
    assert np.abs(moved - ARCFACE_112).mean() < 3
    assert matrix[0, 0] == pytest.approx(matrix[1, 1])  # no shear, no mirror
    assert matrix[0, 1] == pytest.approx(-matrix[1, 0])


def test_outside_of_the_photo_is_facexlib_grey():
    """facexlib pads with BGR (135, 133, 132); ours is RGB."""
    points = np.array([(0.0, 0), (40, 0), (20, 20), (2, 40), (38, 40)])
    crop = ffhq_crop(np.zeros((64, 64, 3), np.uint8), points)
    assert tuple(crop[0, 0]) == FFHQ_BORDER == (132, 133, 135)


def test_huge_faces_are_averaged_before_the_warp_and_stay_in_place():
    """One pixel in 30 would be read: fine stripes must come out as their mean, not as moire."""
    scale = 30
    photo = np.zeros((112 * scale, 112 * scale, 3), np.uint8)
    photo[:, ::2] = 255
    photo[: 56 * scale] //= 2
    crop = arcface_crop(photo, (ARCFACE_112 + 0.5) * scale - 0.5).astype(int)
    assert np.abs(crop[:54, 2:-2] - 63).max() <= 2
    assert np.abs(crop[58:, 2:-2] - 127).max() <= 2


def test_ordinary_scales_are_plain_opencv():
    import cv2

    photo = np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8)
    points = (ARCFACE_112 + 3) * 2.5
    plain = cv2.warpAffine(photo, similarity(points, ARCFACE_112), (112, 112))
    np.testing.assert_array_equal(arcface_crop(photo, points), plain)


@pytest.mark.parametrize("fit", [lambda p: similarity(p, ARCFACE_112), robust_similarity])
@pytest.mark.parametrize("bad", [np.zeros((5, 2)), np.full((5, 2), np.nan)])
def test_points_without_extent_are_refused(fit, bad):
    with pytest.raises(ValueError, match="coincide or are not finite"):
        fit(bad)


@pytest.mark.parametrize("yaw", [-50, 0, 35])
@pytest.mark.parametrize("pitch", [-30, 0, 25])
@pytest.mark.parametrize("roll", [-80, 0, 40])
def test_angles_are_recovered_from_a_projected_head(yaw, pitch, roll):
    turned = MEAN_FACE @ rotation(yaw, pitch, roll).T
    distance = 900.0
    projected = turned[:, :2] / (turned[:, 2:] + distance) * 2400 + (310, 205)
    np.testing.assert_allclose(head_angles(projected), (yaw, pitch, roll), atol=4)


def test_angle_signs():
    """Nose to the right: yaw. Nose up: pitch. Right eye lower: roll."""
    front = ARCFACE_112.copy()
    assert np.abs(head_angles(front)).max() < 1
    right, up = front.copy(), front.copy()
    right[2, 0] += 6
    up[2, 1] -= 6
    lean = np.array([[np.cos(0.2), -np.sin(0.2)], [np.sin(0.2), np.cos(0.2)]])
    assert head_angles(right)[0] > 8
    assert head_angles(up)[1] > 8
    assert head_angles(front @ lean.T)[2] == pytest.approx(np.degrees(0.2), abs=1)


def test_rotation_and_angles_are_inverse():
    for wanted in ((20, -15, 70), (-60, 40, -10), (0, 0, 0)):
        np.testing.assert_allclose(angles_of(rotation(*wanted)), wanted, atol=1e-9)
