"""α over a run: the paper's two readings, the window, and which layers a text names."""

import json

import pytest
from flexid.model_patches.gates.clock import Clock
from flexid.model_patches.gates.gate import NOISE, PICTURE, Moment
from flexid.model_patches.gates.schedule import Schedule, Selection, parse_blocks

pytestmark = pytest.mark.pure


def at(time, t=0.5):
    return Moment(t, time, time, t)


@pytest.fixture(scope="module")
def published(golden):
    return json.loads((golden / "editidv2_scalars.json").read_text())["alpha"]


def test_courses_are_the_formulas_at_twenty_steps(published):
    """Sigmas of a run of 20 steps at shift 1.15, and what equation 8 gives there."""
    sigmas = [*published["sigma"], 0.0]
    percents = dict(zip(sigmas, published["percent_from_sigma"], strict=False))

    def sigma_at(percent):
        nearest = min(percents, key=lambda sigma: abs(percents[sigma] - percent))
        return nearest

    clock = Clock(sigma_at, sigmas)
    decay = Schedule("paper_decay", axis="progress")
    rise = Schedule("sigma_rise")
    for step, sigma in enumerate(published["sigma"]):
        moment = clock.moment(sigma)
        assert decay.value(moment) == pytest.approx(published["step_index_decay"][step], abs=1e-9)
        assert rise.value(moment) == pytest.approx(published["sigma_rise"][step], abs=1e-9)


def test_alpha_zero_scales_both_formulas():
    half = Moment(0.25, 0.5, 0.5, 0.25)
    assert Schedule("paper_decay", 0.8).value(half) == pytest.approx(0.4)
    assert Schedule("sigma_rise", 0.8).value(half) == pytest.approx(0.6)
    assert Schedule("constant", 0.8).value(half) == 0.8


def test_a_range_is_a_straight_line():
    line = Schedule("range", 0.2, 1.0, 0.25, 0.75)
    assert [line.value(at(time)) for time in (0.25, 0.5, 0.75)] == pytest.approx([0.2, 0.6, 1.0])
    assert Schedule("range", 0.2, 1.0, 0.5, 0.5).value(at(0.5)) == 0.2


@pytest.mark.parametrize("course", ["constant", "paper_decay", "sigma_rise", "range"])
def test_alpha_is_exactly_1_outside_the_window(course):
    schedule = Schedule(course, 0.3, 0.6, 0.2, 0.7)
    assert [schedule.value(at(time)) for time in (0.0, 0.19, 0.71, 1.0)] == [1.0] * 4
    assert all(schedule.value(at(time)) != 1.0 for time in (0.2, 0.5, 0.7))


def test_the_axis_says_which_time():
    partial = Moment(0.5, 0.6, 0.2, 0.5)
    assert Schedule("paper_decay", axis="percent").value(partial) == pytest.approx(0.4)
    assert Schedule("paper_decay", axis="progress").value(partial) == pytest.approx(0.8)


def test_neutral_is_1_all_the_time():
    assert Schedule().is_neutral and Schedule("range").is_neutral
    assert not Schedule(alpha=0.9).is_neutral
    assert not Schedule("range", 1.0, 0.9).is_neutral
    for course in ("paper_decay", "sigma_rise"):
        assert not Schedule(course).is_neutral
        assert {Schedule(course).value(NOISE), Schedule(course).value(PICTURE)} == {0.0, 1.0}


def test_describe_names_both_ends():
    assert Schedule("sigma_rise").describe() == "0.000 → 1.000"


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"course": "wave"}, "'wave'.*constant, paper_decay, sigma_rise, range"),
        ({"alpha": 1.6}, r"alpha is 1.6.*\[0, 1.5\]"),
        ({"alpha": float("nan")}, "alpha is nan"),
        ({"alpha_end": -0.1}, "alpha_end is -0.1"),
        ({"start": 0.8, "end": 0.2}, "starts at 0.8 and ends at 0.2"),
        ({"axis": "steps"}, "'steps'.*percent, progress"),
    ],
)
def test_other_numbers_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        Schedule(**values)


def test_blocks_are_groups_numbers_and_ranges():
    assert parse_blocks("all") == (Selection("all"),)
    assert parse_blocks(" double , 12, 3 - 5:0.5, single:1e-1,") == (
        Selection("double"),
        Selection(None, 12, 12),
        Selection(None, 3, 5, 0.5),
        Selection("single", alpha=0.1),
    )
    named = [
        [
            one.holds(number, group)
            for number, group in ((0, "double"), (4, "double"), (10, "single"))
        ]
        for one in parse_blocks("all, double, single, 3-5")
    ]
    assert named == [[True] * 3, [True, True, False], [False, False, True], [False, True, False]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "at least one of all, double, single"),
        (" , ", "at least one"),
        ("doubles", "Cannot read 'doubles'"),
        ("1:", "Cannot read '1:'"),
        ("1:0.5.5", "Cannot read '1:0.5.5'"),
        ("-1", "Cannot read '-1'"),
        ("5-3", "runs from 5 to 3.*Swap"),
        ("0:2", r"alpha of '0:2' in blocks is 2.*\[0, 1.5\]"),
        ("0:1e999", "is inf"),
    ],
)
def test_other_blocks_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        parse_blocks(text)
