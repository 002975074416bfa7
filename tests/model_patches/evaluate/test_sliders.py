"""Sliders by hand-made courses: order, price, evenness."""

import math

import numpy as np
import pytest
import torch
from flexid.model_patches.evaluate import sliders
from flexid.model_patches.evaluate.statistics import draw_people

pytestmark = pytest.mark.pure


def everybody(*values):
    """(points, 3 people, 2 pictures), the same for everybody."""
    return np.stack([np.full((3, 2), float(value)) for value in values])


def test_a_course_that_only_rises_has_correlation_1():
    weights = draw_people(3)
    found = sliders.course_correlation(everybody(0.1, 0.2, 0.4), weights)
    assert (found.mean, found.low, found.high, found.count) == (1.0, 1.0, 1.0, 18)
    assert sliders.course_correlation(everybody(0.4, 0.2, 0.1), weights).mean == -1.0
    assert sliders.course_correlation(everybody(0.1, 0.4, 0.2), weights).mean == 0.5


def test_prices_are_compared_where_both_keep_as_much():
    """Ours keeps 0.4 and obeys 0.8 in the middle. Theirs has 0.4 halfway between two points."""
    ours = sliders.Course(everybody(0.4, 0.4, 0.4), everybody(0.9, 0.8, 0.7))
    kept = [0.1 + 0.12 * number for number in range(11)]
    theirs = sliders.Course(
        everybody(*kept), everybody(*(1 - 0.1 * number for number in range(11)))
    )
    found = sliders.gain_at_equal(ours, theirs, 1, draw_people(3))
    assert found.mean == pytest.approx(0.8 - 0.75) and found.low == pytest.approx(found.mean)
    assert found.count == 6
    poor = sliders.Course(everybody(*[0.2] * 11), theirs.obeyed)
    assert sliders.gain_at_equal(ours, poor, 1, draw_people(3)) is None


def test_a_course_is_read_where_it_first_rises_to_a_value():
    along, values = (0.2, 0.6, 0.4, 0.8), (10.0, 20.0, 30.0, 40.0)
    assert sliders.read_at(along, values, 0.5) == pytest.approx(17.5)
    assert sliders.read_at(along, values, 0.7) == pytest.approx(37.5)
    assert math.isnan(sliders.read_at(along, values, 0.9))
    assert math.isnan(sliders.read_at((0.5, 0.4), (1, 2), 0.45)), "falling"


def turned(degrees):
    angle = math.radians(degrees)
    return torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)


def test_the_jump_is_the_largest_step_over_the_mean():
    even = [number * turned(d) for number, d in enumerate((0, 10, 20, 30), 1)]
    assert sliders.largest_jump(even) == pytest.approx(1.0), "whatever the lengths"
    steps = 1 - np.cos(np.deg2rad([10, 30]))
    found = sliders.largest_jump([turned(d) for d in (0, 10, 40)])
    assert found == pytest.approx(steps[1] / steps.mean())
    for broken in ([turned(0), None, turned(3)], [turned(0), turned(0)], [turned(0)], []):
        assert math.isnan(sliders.largest_jump(broken))
