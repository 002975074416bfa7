"""Landmarks of the same face in another pose, and with another expression."""

import landmark_faces
import numpy as np
import pytest
from flexid.model_patches.face import landmark_pose as pose
from flexid.model_patches.face.angles import MEAN_FACE, rotation
from flexid.model_patches.face.landmark_pose import Sliders, limits_of, move_landmarks

pytestmark = pytest.mark.comfy

STILL = Sliders()
FACES = [(0.0, 0.0, 0.0), (20.0, -10.0, 5.0), (-35.0, 15.0, -20.0)]


def visible(yaw):
    """All points but the upper outline of the side that turned away."""
    side = pose.RIGHT_SIDE if yaw > 0 else pose.LEFT_SIDE
    return [point for point in range(106) if point not in side[len(side) // 2 :]]


@pytest.mark.parametrize("source", FACES)
@pytest.mark.parametrize("target", [(0.0, 0.0, 0.0), (30.0, 0.0, 0.0), (-45.0, 20.0, 10.0)])
def test_a_face_turns_as_its_own_solid_does(source, target):
    points, wanted = (landmark_faces.seen_from(angles) for angles in (source, target))
    found = move_landmarks(points, source, target, STILL)
    shown = visible(target[0])
    np.testing.assert_allclose(found[shown], wanted[shown], atol=1e-6)


def test_there_and_back_is_the_same_face():
    points = landmark_faces.seen_from(FACES[1])
    there = move_landmarks(points, FACES[1], FACES[2], STILL)
    back = move_landmarks(there, FACES[2], FACES[1], STILL)
    shown = sorted({*visible(FACES[1][0])} & {*visible(FACES[2][0])})
    np.testing.assert_allclose(back[shown], points[shown], atol=1e-6)


def test_nothing_asked_for_changes_no_bit():
    points = landmark_faces.seen_from((50.0, 3.0, 1.0))
    assert (move_landmarks(points, (50.0, 3.0, 1.0), (50.0, 3.0, 1.0), STILL) == points).all()
    profile = (85.0, 0.0, 0.0)
    assert (move_landmarks(points, profile, profile, STILL) == points).all()


@pytest.mark.parametrize(("yaw", "side"), [(45.0, pose.RIGHT_SIDE), (-45.0, pose.LEFT_SIDE)])
def test_the_far_side_of_the_outline_stays_in_sight(yaw, side):
    """Behind the cheek, no point of the outline comes back towards the nose."""
    found = move_landmarks(landmark_faces.seen_from(FACES[0]), FACES[0], (yaw, 0.0, 0.0), STILL)
    plain = landmark_faces.seen_from((yaw, 0.0, 0.0))
    outward = np.sign(yaw) * found[list(side), 0]
    assert (np.diff(outward[len(side) // 2 :]) >= -1e-9).all()
    assert not np.allclose(found[list(side)], plain[list(side)])
    np.testing.assert_array_equal(found[visible(yaw)].round(6), plain[visible(yaw)].round(6))


def moved(source=FACES[0], **sliders):
    points = landmark_faces.seen_from(source)
    return points, move_landmarks(points, source, source, Sliders(**sliders))


def gap(points):
    return (points[list(pose.LOWER_INSIDE)] - points[list(pose.UPPER_INSIDE)]).mean(0)[1]


def test_a_mouth_opens_by_thirty_millimetres_and_closes():
    points, open_mouth = moved(mouth=1.0)
    weights = 1 - (np.array([-8, 0, 8]) / 26) ** 2
    assert gap(open_mouth) - gap(points) == pytest.approx(2 * 30 * weights.mean())
    assert open_mouth[0, 1] - points[0, 1] == pytest.approx(2 * 30)  # the chin goes with it
    others = [*pose.LEFT_EYE, *pose.BROWS, *range(72, 87), *pose.MOUTH_CORNERS, 1, 17]
    np.testing.assert_allclose(open_mouth[others], points[others], atol=1e-9)
    assert abs(gap(moved(mouth=-1.0)[1])) < 0.1 * gap(points)


def test_a_smile_lifts_and_widens_and_its_opposite_does_the_reverse():
    points, smiling = moved(smile=1.0)
    left, right = smiling[list(pose.MOUTH_CORNERS)] - points[list(pose.MOUTH_CORNERS)]
    np.testing.assert_allclose(left, [-12, -16], atol=1e-9)
    np.testing.assert_allclose(right, [12, -16], atol=1e-9)
    sad = moved(smile=-1.0)[1]
    np.testing.assert_allclose(sad + smiling, 2 * points, atol=1e-9)


def test_eyes_shut_onto_the_line_between_their_corners_and_open_wide():
    points, shut = moved(eyes=-1.0)
    eye = list(pose.LEFT_EYE)
    np.testing.assert_allclose(shut[eye, 1], points[pose.LEFT_CORNERS[0], 1], atol=1e-9)
    wide = moved(eyes=1.0)[1]
    assert np.ptp(wide[eye, 1]) == pytest.approx(1.6 * np.ptp(points[eye, 1]))
    tilted, tilted_shut = moved((0.0, 0.0, 30.0), eyes=-1.0)
    ends = tilted[list(pose.RIGHT_CORNERS)]
    off = pose._off_line(tilted_shut[list(pose.RIGHT_EYE)], ends)
    np.testing.assert_allclose(off, 0, atol=1e-6)


def test_brows_rise_along_a_tilted_head():
    points, raised = moved((0.0, 0.0, 90.0), brows=0.5)
    brows = list(pose.BROWS)
    np.testing.assert_allclose((raised - points)[brows], [[8, 0]] * len(brows), atol=1e-9)


def test_what_is_out_of_range_is_refused():
    points = landmark_faces.seen_from(FACES[0])
    for angles in ((61.0, 0.0, 0.0), (0.0, -75.0, 0.0)):
        with pytest.raises(ValueError, match="The target has a .* of -?[67][15] degrees, expected"):
            move_landmarks(points, FACES[0], angles, STILL)
        with pytest.raises(ValueError, match="The source face has a .* use a driving photo"):
            move_landmarks(points, angles, FACES[0], STILL)
    with pytest.raises(ValueError, match="Both eyes lie at .*no landmarks of a face"):
        move_landmarks(np.zeros((106, 2)), FACES[0], FACES[1], STILL)
    for name in pose.SLIDERS:
        for value in (limits_of(name)[0] - 1, limits_of(name)[1] + 1, float("nan")):
            with pytest.raises(ValueError, match=f"{name} is .*, expected "):
                Sliders(**{name: value})


def test_every_landmark_has_one_place():
    groups = [
        pose.LEFT_SIDE, pose.RIGHT_SIDE[1:], pose.LEFT_EYE, pose.RIGHT_EYE, pose.BROWS, pose.MOUTH,
        range(72, 87),
    ]  # fmt: skip
    assert sorted(point for group in groups for point in group) == list(range(106))
    upper = {64, 63, 71, 67, 68, *pose.UPPER_INSIDE}
    corners = {*pose.MOUTH_CORNERS, 65, 69}
    assert {*pose.LOWER_LIP} | upper | corners == {*pose.MOUTH}


def test_angles_are_said_in_whole_degrees():
    assert pose.describe_angles((-0.2, 12.6, 3.0)) == "yaw +0, pitch +13, roll +3 degrees"


# Five points


def five_seen_from(angles):
    """A mean face's five points, two pixels a millimetre, around (0, 0)."""
    points = 2 * (MEAN_FACE @ rotation(*angles).T)[:, :2]
    return points - points.mean(0)


@pytest.mark.parametrize("source", FACES)
@pytest.mark.parametrize("target", [(0.0, 0.0, 0.0), (30.0, 0.0, 0.0), (-45.0, 20.0, 10.0)])
def test_five_points_turn_as_a_mean_face_does(source, target):
    found = move_landmarks(five_seen_from(source), source, target, STILL)
    np.testing.assert_allclose(found - found.mean(0), five_seen_from(target), atol=1e-9)


def test_of_five_points_a_smile_moves_the_corners_of_the_mouth():
    points = five_seen_from(FACES[0])
    found = move_landmarks(points, FACES[0], FACES[0], Sliders(smile=0.5))
    np.testing.assert_allclose((found - points)[3:], [(-6.0, -8.0), (6.0, -8.0)], atol=1e-9)
    np.testing.assert_allclose(found[:3], points[:3], atol=1e-9)


@pytest.mark.parametrize("name", ["mouth", "eyes", "brows"])
def test_five_points_refuse_what_they_do_not_show(name):
    with pytest.raises(ValueError, match=f"{name} is 0.4, expected 0: .*5 landmarks.*in words"):
        move_landmarks(five_seen_from(FACES[0]), FACES[0], FACES[0], Sliders(**{name: 0.4}))
