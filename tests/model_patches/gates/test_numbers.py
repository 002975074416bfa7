"""Numbers that reach a gate are finite and in range, wherever they come from."""

import math

import pytest
from flexid.model_patches.gates.gate import Gate, Moment
from flexid.model_patches.gates.numbers import (
    LARGEST_WEIGHT,
    check_number,
    check_weight,
    parse_weights,
)
from flexid.model_patches.gates.window import Window, parse_points

pytestmark = pytest.mark.pure


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1.01, -0.01, 1e308])
def test_a_number_outside_is_named_with_its_range(value):
    with pytest.raises(ValueError, match=r"start is .*finite number in \[0, 1\]"):
        check_number("start", value, 0.0, 1.0)


@pytest.mark.parametrize("value", [0, 0.0, 1.0, 0.5])
def test_a_number_inside_comes_back(value):
    assert check_number("start", value, 0.0, 1.0) == value


@pytest.mark.parametrize("weight", [math.nan, math.inf, 1e308, -101.0])
def test_no_weight_of_a_window_overflows(weight):
    with pytest.raises(ValueError, match="weight.*100"):
        Window(points=((0.0, weight),))
    with pytest.raises(ValueError, match="weight.*100"):
        parse_points(f"0:1, 0.5:{weight}")


def test_the_largest_weights_together_are_finite():
    assert check_weight("weight", LARGEST_WEIGHT) == LARGEST_WEIGHT
    windows = tuple(Window(points=((0.0, LARGEST_WEIGHT),)) for _ in range(8))
    assert math.isfinite(Gate(windows).weight(Moment(0.5, 0.5, 0.5, 0.5), LARGEST_WEIGHT))


@pytest.mark.parametrize(
    ("text", "expected"),
    [("", None), ("  ", None), ("1", [1.0]), ("1, 0.5", [1.0, 0.5]), ("1;2", [1.0, 2.0])],
)
def test_parse_weights(text, expected):
    assert parse_weights(text) == expected
