"""The slider of two streams: exact ends, monotone laws, products that commute."""

import math

import pytest
from flexid.model_patches.gates.balance import LAWS, weigh
from flexid.model_patches.gates.gate import Gate, Moment
from flexid.model_patches.gates.window import Window

pytestmark = pytest.mark.pure


@pytest.mark.parametrize("law", LAWS)
def test_both_ends_are_exact(law):
    follow, keep = weigh(0.0, law), weigh(1.0, law)
    assert (follow.preserve, follow.personal) == (0.0, 1.0)
    assert (keep.preserve, keep.personal) == (1.0, 0.0)
    assert math.copysign(1.0, keep.personal) == 1.0


@pytest.mark.parametrize("law", LAWS)
def test_each_law_is_monotone_and_within_0_and_1(law):
    course = [weigh(step / 1000, law) for step in range(1001)]
    preserve, personal = [one.preserve for one in course], [one.personal for one in course]
    assert preserve == sorted(preserve) and personal == sorted(personal, reverse=True)
    assert all(0.0 <= weight <= 1.0 for weight in preserve + personal)
    assert len(set(preserve)) > 500


def test_the_laws_are_what_they_are_called():
    assert (weigh(0.3).preserve, weigh(0.3).personal) == (0.3, 0.7)
    middle = weigh(0.5, "crossfade")
    assert (middle.preserve, middle.personal) == (1.0, 1.0)
    assert weigh(0.25, "crossfade").preserve == 0.5
    assert weigh(0.25, "crossfade").personal == 1.0
    for step in range(101):
        one = weigh(step / 100, "equal_power")
        assert math.isclose(one.preserve**2 + one.personal**2, 1.0, abs_tol=1e-12)


def test_its_gates_multiply_with_any_other_in_any_order():
    moment = Moment(0.5, 0.5, 0.5, 0.5)
    window = Gate((Window(0.0, 1.0, points=((0.0, 0.4), (1.0, 1.2))),))
    for gate in weigh(0.3, "equal_power").gates:
        assert (gate * window).weight(moment) == (window * gate).weight(moment)
    closed, _ = weigh(0.0).gates
    assert (closed * window).weight(moment, 2.0) == 0.0
    one, other = weigh(0.5, "crossfade").gates
    assert (one * window).weight(moment) == window.weight(moment) == (other * window).weight(moment)


@pytest.mark.parametrize("value", [-0.01, 1.01, math.nan, math.inf])
def test_a_balance_outside_the_slider_is_refused(value):
    with pytest.raises(ValueError, match=r"The balance is .*; expected .*\[0, 1\]"):
        weigh(value)


def test_an_unknown_law_is_refused():
    with pytest.raises(ValueError, match="Unknown balance law 'square'.*linear, crossfade"):
        weigh(0.5, "square")
