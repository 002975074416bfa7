"""The corrected definitions by hand-made cases, and what each of them refuses."""

import math

import numpy as np
import pytest
import torch
from flexid.model_patches.evaluate import (
    copy_paste,
    distances,
    expression,
    features,
    landmarks,
    likeness,
    modes,
    outcomes,
    pixels,
    pose,
    ranks,
)

pytestmark = pytest.mark.pure
NAN = float("nan")


def test_an_unknown_mode_is_refused():
    with pytest.raises(ValueError, match="'paper'.*corrected, compat"):
        modes.check_mode("paper")


# Likeness


def face(x, y, score, area):
    return likeness.SeenFace(torch.tensor([x, y]), score, area)


def test_the_face_that_counts():
    person = torch.tensor([1.0, 0.0])
    alike, sure, large = face(3, 4, 0.6, 10), face(0, 1, 0.9, 20), face(-1, 5, 0.7, 30)
    found = [sure, alike, large]
    assert likeness.choose_seen(person, found) == 1
    assert likeness.choose_seen(person, found, "compat") == 0
    assert likeness.choose_seen(person, [sure, large]) == 1  # neither is the person
    assert likeness.face_sim(person, found) == pytest.approx(0.6)
    assert likeness.face_sim(person, found, "compat") == pytest.approx(0)
    assert likeness.face_sim(person, []) is None


def test_photos_of_one_person_count_alike_whatever_their_length():
    mean = likeness.mean_reference([torch.tensor([9.0, 0.0]), torch.tensor([0.0, 0.5])])
    assert mean.tolist() == [0.5, 0.5]
    with pytest.raises(ValueError, match="no face in the reference"):
        likeness.mean_reference([])
    with pytest.raises(ValueError, match="one shape"):
        likeness.mean_reference([torch.ones(2), torch.ones(3)])
    with pytest.raises(ValueError, match="length 0"):
        likeness.mean_reference([torch.zeros(2)])


def test_the_product_rewards_likeness_at_the_typical_change():
    assert likeness.face_div_product(0.6, 0.2) == pytest.approx(0.6)
    assert likeness.face_div_product(0.6, 0.3) == pytest.approx(0.6 * math.exp(-0.5))


# Landmarks


def mesh(seed=0):
    points = np.random.default_rng(seed).normal(size=(478, 3))
    five = [(-3, -3, 0), (3, -3, 0), (0, 0, 2), (-2, 3, 0), (2, 3, 0)]
    for at, point in zip(landmarks.MESH_POINTS.values(), five, strict=True):
        points[at] = point
    return points


def spin(points, degrees, scale=1.0):
    a = math.radians(degrees)
    turn = np.array([[math.cos(a), -math.sin(a), 0], [math.sin(a), math.cos(a), 0], [0, 0, 1]])
    return scale * points @ turn.T + 5


def test_five_points_stand_on_their_side_also_in_a_mirror():
    straight = landmarks.five_points(mesh())
    assert straight["left_eye"] == (-3, -3) and straight["mouth_right"] == (2, 3)
    assert landmarks.five_points(mesh() * [-1, 1, 1]) == straight
    with pytest.raises(ValueError, match=r"478.*\(468, 3\)"):
        landmarks.five_points(mesh()[:468])


def test_tilt_place_and_size_are_removed():
    one, other = (landmarks.five_points(each) for each in (mesh(), spin(mesh(), 30, 4)))
    assert landmarks.landmark_diff(one, other) > 0.1
    assert landmarks.landmark_diff_sim(one, other) == pytest.approx(0, abs=1e-12)
    assert landmarks.shape_change(mesh(), spin(mesh(), 30, 4)) == pytest.approx(0, abs=1e-12)


def test_a_moved_point_counts_the_same_from_either_side():
    one = landmarks.five_points(mesh())
    other = {**one, "nose": (2.0, 1.0)}
    there, back = landmarks.landmark_diff_sim(one, other), landmarks.landmark_diff_sim(other, one)
    assert there == pytest.approx(back) and there > 0.05
    meshes = mesh(), mesh(1)
    assert landmarks.shape_change(*meshes) == pytest.approx(landmarks.shape_change(*meshes[::-1]))


def test_shape_is_measured_in_distances_of_the_pupils():
    """Two of 468 points step outwards by 0.6 each, at 6 between the pupils: no turn undoes it."""
    one = mesh()
    skin = [at for at in range(468) if at not in (10, 20)]
    one[10], one[20] = one[skin].mean(0) + [1, 0, 0], one[skin].mean(0) - [1, 0, 0]
    other = one.copy()
    other[[10, 20]] += [[0.6, 0, 0], [-0.6, 0, 0]]
    assert landmarks.shape_change(one, other) == pytest.approx(2 * 0.1 / 468)


def test_a_mirrored_shape_is_another_shape():
    one = landmarks.five_points(mesh())
    lopsided = {**one, "nose": (1.5, 0.0)}
    mirrored = {**one, "nose": (-1.5, 0.0)}
    assert landmarks.landmark_diff_sim(lopsided, mirrored) > 0.1


def test_missing_and_collapsed_points_have_no_value():
    one = landmarks.five_points(mesh())
    without = {name: point for name, point in one.items() if name != "nose"}
    flat = dict.fromkeys(landmarks.POINTS, (7.0, 7.0))
    for measure in (landmarks.landmark_diff, landmarks.landmark_diff_sim):
        assert math.isnan(measure(one, without)) and math.isnan(measure(without, one))
        assert math.isnan(measure(one, flat)) and math.isnan(measure({}, {}))
    assert math.isnan(landmarks.shape_change(mesh(), np.zeros((478, 3))))
    with pytest.raises(ValueError, match="three dimensions, got 2"):
        landmarks.shape_change(mesh(), mesh()[:, :2])


# Pose


def yawed(degrees, scale=1.0):
    a = math.radians(degrees)
    turn = np.eye(4)
    turn[:3, :3] = [[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]]
    turn[:3] *= scale
    return turn


@pytest.mark.parametrize("degrees", [0, 1e-6, 40, 180])
def test_pose_change_is_the_angle_between(degrees):
    assert pose.pose_change(yawed(20, 2), yawed(20 + degrees, 7)) == pytest.approx(degrees)
    assert pose.pose_change(yawed(20 + degrees), yawed(20)) == pytest.approx(degrees)


def test_axes_wrap_only_when_corrected():
    assert pose.axis_changes((170, 0, 5), (-170, 0, 0)) == (20, 0, 5)
    assert pose.axis_changes((170, 0, 5), (-170, 0, 0), "compat") == (340, 0, 5)
    with pytest.raises(ValueError, match="3|2"):
        pose.axis_changes((1, 2), (1, 2, 3))


def test_no_pose_in_a_flat_or_mirrored_matrix():
    for matrix in (np.zeros((4, 4)), np.diag([1, 1, -1, 1]), np.full((4, 4), NAN)):
        with pytest.raises(ValueError, match="determinant"):
            pose.matrix_angles(matrix)


def test_views_by_dynamicids_thresholds():
    found = [pose.view_of(*one) for one in ((9, 0), (-11, 0), (40, 11), (40, -11), (10, 10))]
    assert found == ["front", "side", "up", "down", "side"]


# Expression


def blendshapes(**more):
    names = [name for table in expression.SCORER.values() for name in table]
    sides = [[f"{n[:-1]}Left", f"{n[:-1]}Right"] if n.endswith("*") else [n] for n in names]
    return {"_neutral": 0.3, **{one: 0.0 for pair in sides for one in pair}, **more}


def test_expression_change_leaves_the_neutral_one_out():
    one = {"_neutral": 0.0, "jawOpen": 0.2, "mouthSmileLeft": 0.5}
    other = {"_neutral": 1.0, "jawOpen": 0.6, "mouthSmileLeft": 0.5}
    assert expression.expression_change(one, other) == pytest.approx(0.2)
    with pytest.raises(ValueError, match="3 and 2"):
        expression.expression_change(one, {"_neutral": 0.0, "jawOpen": 0.1})


def test_the_table_of_expressions():
    faces = {
        "neutral": {},
        "happy": {"mouthSmileLeft": 0.8, "mouthSmileRight": 0.8},
        "surprise": {"jawOpen": 0.7, "browOuterUpLeft": 0.6, "browOuterUpRight": 0.6},
        "angry": {"browDownLeft": 0.8, "browDownRight": 0.8},
        "disgust": {"noseSneerLeft": 0.7, "noseSneerRight": 0.7},
        "sad": {"mouthFrownLeft": 0.6, "mouthFrownRight": 0.6, "browInnerUp": 0.4},
        "fear": {
            "eyeWideLeft": 0.7, "eyeWideRight": 0.7, "mouthStretchLeft": 0.6,
            "mouthStretchRight": 0.6,
        },
    }  # fmt: skip
    assert faces.keys() == set(expression.CLASSES)
    for kind, shapes in faces.items():
        found = expression.score_expression(blendshapes(**shapes))
        assert max(found, key=found.__getitem__) == kind
        assert sum(found.values()) == pytest.approx(1)
    half = expression.score_expression(blendshapes(mouthSmileLeft=0.5))
    share = math.exp(1.5) / (math.exp(1.5) + math.exp(1.5) + math.exp(-0.0) * 5)
    assert half["happy"] == pytest.approx(share)  # 6 * (0.5 + 0) / 2 = 1.5, as the neutral bias


def test_classes_are_counted_and_failures_too():
    assert math.isnan(expression.class_difference([(None, 1)]))
    assert expression.class_difference([("sad", "sad"), ("sad", "happy"), (None, "sad")]) == 0.5
    counts = expression.histogram(["happy", "happy", None])
    assert counts["happy"] == 2 and counts["none"] == 1 and sum(counts.values()) == 3
    with pytest.raises(ValueError, match="joy"):
        expression.histogram(["joy"])


# Features


def test_features_of_another_encoder_or_of_nan_are_refused():
    one = torch.ones(2, 4)
    with pytest.raises(ValueError, match=r"\(2, 3\) beside \(2, 4\)"):
        features.clip_similarity(one, torch.ones(2, 3))
    with pytest.raises(ValueError, match=r"\(3, 4\) beside \(2, 4\)"):
        features.clip_similarity(one, torch.ones(3, 4))
    with pytest.raises(ValueError, match="not finite"):
        features.clip_similarity(one, torch.full((2, 4), NAN))
    with pytest.raises(ValueError, match=r"\(1, 4\).*\(1, 768\)"):
        features.aesthetic(one, torch.ones(1, 768), torch.ones(1))
    assert math.isnan(features.compat_aesthetic([]))


def test_long_prompts_are_read_by_sentence():
    prompt = "A man runs, 3.5 km. He smiles!\n一个男人在跑步。他笑了。 ..."
    parts = features.split_sentences(prompt)
    assert parts == ["A man runs, 3.5 km.", "He smiles!", "一个男人在跑步。", "他笑了。"]
    image = torch.tensor([1.0, 0.0])
    found = features.sentence_alignment(image, torch.tensor([[3.0, 4.0], [0.0, 2.0]]))
    assert found == pytest.approx((0.6, 0.3))


def test_only_the_subject_is_kept():
    picture, mask = torch.ones(2, 3, 3), torch.zeros(2, 3)
    mask[0, 1] = 1
    assert pixels.keep_masked(picture, mask).sum() == 3
    with pytest.raises(ValueError, match=r"\(3, 2\).*\(2, 3\)"):
        pixels.keep_masked(picture, mask.T)
    with pytest.raises(ValueError, match="empty"):
        pixels.keep_masked(picture, mask * 0)


def test_kid_by_its_definition():
    """The unbiased estimator, pair by pair."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(4, 3)), rng.normal(size=(4, 3)) + 1

    def kernel(a, b):
        return (a @ b / 3 + 1) ** 3

    same = [kernel(s[i], s[j]) for s in (x, y) for i in range(4) for j in range(4) if i != j]
    wanted = sum(same) / 12 - 2 * np.mean([kernel(a, b) for a in x for b in y])
    assert distances.kid(x, y) == (pytest.approx(wanted), 0)
    mean, spread = distances.kid(x, np.tile(y, (9, 1)), subsets=20)
    assert spread > 0 and distances.kid(x, np.tile(y, (9, 1)), subsets=20)[0] == mean
    for wrong, message in ((x[:1], "1 and 4"), (x[:, :2], "features"), (x * NAN, "finite")):
        with pytest.raises(ValueError, match=message):
            distances.kid(wrong, y)
        with pytest.raises(ValueError, match=message):
            distances.fid(wrong, y)


def test_fid_of_a_shift_is_its_square():
    x = np.random.default_rng(0).normal(size=(30, 4))
    assert distances.fid(x, x + [3, 0, 4, 0]) == pytest.approx(25)


def test_copy_paste_between_two_photos():
    """In the plane: the photos at 0 and 60 degrees, the face at 15, as a copy of the first."""

    def at(degrees):
        return torch.tensor([math.cos(math.radians(degrees)), math.sin(math.radians(degrees))])

    assert copy_paste.copy_paste(at(15), at(60), at(0)) == pytest.approx(0.5, abs=1e-6)
    assert copy_paste.copy_paste(9 * at(45), at(60), at(0)) == pytest.approx(-0.5, abs=1e-6)
    assert math.isnan(copy_paste.copy_paste(at(15), at(2), at(0)))  # 0.035 < 0.05


# Ranks


def test_the_knee_of_a_trade_off():
    assert ranks.knee([(0, 1), (0.8, 0.9), (1, 0)]) == 1
    assert ranks.knee([(10, 0), (9, 80), (0, 100)]) == 1
    assert ranks.knee([(0, 1), (NAN, 0.5), (0.2, 0.3), (0.9, 0.9), (1, 0)]) == 3


@pytest.mark.parametrize(
    "points",
    [
        [(0, 1), (1, 0)],
        [(0, 2), (1, 1), (2, 0)],
        [(0, 2), (1, 0.5), (2, 0)],
        [(0, 1), (0.5, 1), (1, 1)],
        [(0, 1), (NAN, 0.9), (1, 0)],
    ],
    ids=["two", "straight", "hollow", "flat", "missing"],
)
def test_no_knee(points):
    assert ranks.knee(points) is None


def test_equal_points_do_not_beat_each_other():
    points = {"a": (1.0, 1.0), "b": (1.0, 1.0), "c": (1.0, 0.5)}
    assert ranks.pareto_front(points) == ["a", "b"]


def test_ranks_need_three_methods_and_every_value():
    with pytest.raises(ValueError, match="got 2"):
        ranks.mean_ranks({"a": [1], "b": [2]})
    with pytest.raises(ValueError, match="missing"):
        ranks.mean_ranks({"a": [1], "b": [2], "c": [NAN]})
    with pytest.raises(ValueError, match="as many"):
        ranks.mean_ranks({"a": [1], "b": [2], "c": [3, 4]})


# Outcomes

ok, no_face = outcomes.valid, outcomes.failed(outcomes.NO_FACE_GENERATED)


def test_people_count_alike_and_failures_count():
    found = outcomes.summarise([ok(0.9), ok(0.7), ok(0.2), no_face], ["ann", "ann", "bob", "bob"])
    assert found.macro.mean == pytest.approx((0.8 + 0.2) / 2)
    assert found.flat == pytest.approx(0.6)
    assert found.strict.mean == pytest.approx((0.8 + 0.1) / 2)
    assert found.rate == 0.75 and found.failures == {"no_face_gen": 1}
    assert found.macro.low == pytest.approx(0.2) and found.macro.high == pytest.approx(0.8)


def test_one_person_gives_no_interval():
    found = outcomes.summarise([ok(0.9), ok(0.7)], ["ann", "ann"])
    assert found.macro.mean == pytest.approx(0.8) and math.isnan(found.macro.low)


def test_failures_alone_are_no_number_and_no_crash():
    found = outcomes.summarise([no_face], ["ann"])
    assert math.isnan(found.macro.mean) and math.isnan(found.flat)
    assert found.rate == 0 and found.strict.mean == 0
    empty = outcomes.summarise([], [])
    assert math.isnan(empty.macro.mean) and math.isnan(empty.rate)


def test_a_value_that_is_not_finite_is_a_failure():
    assert ok(NAN).reason == ok(math.inf).reason == outcomes.UNDEFINED
    with pytest.raises(ValueError, match="'tired'"):
        outcomes.failed("tired")
    with pytest.raises(ValueError, match="each of 1 values, got 2"):
        outcomes.summarise([ok(1)], ["ann", "bob"])


def test_groups_keep_their_order():
    found = outcomes.summarise_groups(
        [ok(1), ok(2), no_face], ["ann", "bob", "ann"], ["style", "pose", "style"]
    )
    assert list(found) == ["style", "pose"]
    assert found["style"].rate == 0.5 and found["pose"].flat == 2
    with pytest.raises(ValueError, match="got 1"):
        outcomes.summarise_groups([ok(1), ok(2)], ["ann", "bob"], ["style"])


def test_only_common_pictures_are_compared():
    one = {("ann", 1): ok(0.9), ("ann", 2): ok(0.1), ("bob", 1): ok(0.6), ("bob", 2): no_face}
    other = {("ann", 1): ok(0.5), ("bob", 1): ok(0.4), ("bob", 2): ok(0.0), ("cid", 1): ok(0.0)}
    found = outcomes.paired_difference(one, other, lambda key: key[0])
    assert found.mean == pytest.approx((0.4 + 0.2) / 2) and found.count == 2
    assert found.low == pytest.approx(0.2) and found.high == pytest.approx(0.4)
    assert outcomes.paired_difference(one, {}, lambda key: key[0]).count == 0


def test_a_change_as_a_share_of_the_plain_models():
    assert outcomes.share_of_base(3, 4) == 0.75 and math.isnan(outcomes.share_of_base(3, 0))
