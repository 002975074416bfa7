"""β of ID guidance over a run."""

import json

import pytest
from flexid.model_patches.gates.beta import SHAPES, Beta
from flexid.model_patches.gates.gate import Moment

pytestmark = pytest.mark.pure


def at(time):
    return Moment(1 - time, time, time, 1 - time)


def test_the_cosine_decay_is_the_golden_one(golden):
    held = json.loads((golden / "editidv2_scalars.json").read_text())["beta_cosine"]
    decay = Beta("cosine_decay")
    found = [held["beta0"] * decay.weight(at(step / 20)) for step in range(20)]
    assert found == pytest.approx(held["by_step_fraction"], abs=1e-12)


@pytest.mark.parametrize(
    ("shape", "values"),
    [
        ("window", (0.0, 0.5, 1.0, 0.5, 0.0)),
        ("constant", (1.0, 1.0, 1.0, 1.0, 1.0)),
        ("cosine_decay", (0.9045, 0.7270, 0.5, 0.2730, 0.0955)),
        ("rise", (0.0955, 0.2730, 0.5, 0.7270, 0.9045)),
    ],
)
def test_the_course_between_start_and_end(shape, values):
    beta = Beta(shape, 0.2, 0.8)
    times = (0.2, 0.35, 0.5, 0.65, 0.8)
    assert [beta.weight(at(time)) for time in times] == pytest.approx(values, abs=1e-4)
    assert beta.weight(at(0.19)) == beta.weight(at(0.81)) == 0.0


def test_it_follows_its_axis_and_a_window_may_be_a_point():
    beta = Beta("constant", 0.5, 1.0, "progress")
    assert beta.weight(Moment(0.5, 0.1, 0.9, 0.5)) == 1.0
    assert Beta("window", 0.5, 0.5).weight(at(0.5)) == 1.0


@pytest.mark.parametrize(
    ("values", "said"),
    [(("square",), "square"), (("rise", 0.8, 0.2), "0.8"), (("rise", 0.0, 1.0, "hours"), "hours")],
)
def test_what_does_not_fit_is_refused(values, said):
    with pytest.raises(ValueError, match=said):
        Beta(*values)
    assert len(SHAPES) == 4
