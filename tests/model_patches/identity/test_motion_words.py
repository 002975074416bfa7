"""Lines of text -> targets, and targets -> the words that the text encoder reads."""

import pytest
from flexid.model_patches.face.landmark_pose import Sliders
from flexid.model_patches.identity.motion_words import (
    EXPRESSIONS,
    MOST_TARGETS,
    ORIENTATIONS,
    Target,
    angles_for,
    pair_targets,
    parse_targets,
    parse_words,
    write_words,
)

pytestmark = pytest.mark.comfy

FRONT = (0.0, 0.0, 0.0)


def test_lines_become_targets():
    text = """
        happy, slightly left; mouth 0.5; brows -.3
        Facing Up

        a tired old face, side view
        ; yaw 12
    """
    base = Target("sad", "front view", sliders=Sliders(yaw=3.0, smile=1.0))
    found = parse_targets(text, base)
    assert found == [
        Target("happy", "slightly left", "", Sliders(yaw=3.0, smile=1.0, mouth=0.5, brows=-0.3)),
        Target("sad", "facing up", "", base.sliders),
        Target(None, "front view", "a tired old face, side view", base.sliders),
        Target("sad", "front view", "", Sliders(yaw=12.0, smile=1.0)),
    ]


def test_no_line_is_one_target_by_the_widgets():
    base = Target("happy")
    assert parse_targets(" \n ", base) == [base]


def test_words_of_the_lists_are_known_wherever_they_stand():
    for expression in EXPRESSIONS:
        for orientation in ORIENTATIONS:
            found = parse_words(f"{orientation.upper()} , {expression}")
            assert found == (expression, orientation, "")
    assert parse_words("happy, sad") == (None, None, "happy, sad")
    assert parse_words("very happy") == (None, None, "very happy")
    assert parse_words("") == (None, None, "")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("happy\nsad; frown 1", "Line 2 of the targets sets 'frown', expected one of yaw, pitch"),
        ("happy; mouth", "Line 1 of the targets has 'mouth', expected a name and a number"),
        ("happy; mouth wide", "has 'mouth wide', expected a name and a number such as 'mouth 0.5'"),
        ("happy; mouth 2", "Line 1 of the targets: mouth is 2, expected -1 to 1"),
        ("happy; yaw nan", "Line 1 of the targets: yaw is nan, expected -120 to 120"),
        ("happy\n" * (MOST_TARGETS + 1), "65 targets, expected at most 64"),
    ],
)
def test_lines_that_mean_nothing_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        parse_targets(text, Target())


def test_orientation_is_absolute_and_sliders_turn_further():
    seen = (25.0, -5.0, 8.0)
    assert angles_for(Target(), seen) == seen
    assert angles_for(Target(orientation="front view"), seen) == (0.0, 0.0, 8.0)
    turned = Target(orientation="slightly left", sliders=Sliders(yaw=-10.0, pitch=4.0, roll=1.0))
    assert angles_for(turned, seen) == (-40.0, 4.0, 9.0)


@pytest.mark.parametrize(
    ("expression", "angles", "words"),
    [
        ("happy", FRONT, "in a happy expression, in front view"),
        ("angry", (12.0, 0.0, 0.0), "in an angry expression, in side view"),
        ("sad", (9.9, 10.1, 0.0), "in a sad expression, facing up, in front view"),
        (None, (-10.0, -11.0, 90.0), "facing down, in side view"),
    ],
)
def test_words_follow_the_authors_rule(expression, angles, words):
    """More than 10 degrees up or down is said; less than 10 to the side is the front."""
    assert write_words(expression, angles) == words


def test_targets_and_driving_photos_pair():
    one, two = [Target("happy")], [Target("happy"), Target("sad")]
    assert pair_targets(two, 0) == pair_targets(two, 1) == pair_targets(two, 2) == two
    assert pair_targets(one, 3) == one * 3
    with pytest.raises(ValueError, match="2 lines of targets and 3 driving photos"):
        pair_targets(two, 3)
    with pytest.raises(ValueError, match="65 driving photos, expected at most 64"):
        pair_targets(one, MOST_TARGETS + 1)
