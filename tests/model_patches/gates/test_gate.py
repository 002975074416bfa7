import math

import pytest
from flexid.model_patches.gates.clock import Clock
from flexid.model_patches.gates.gate import OPEN, Gate, Moment
from flexid.model_patches.gates.window import Window, parse_points, window

pytestmark = pytest.mark.pure


def at(percent: float, progress: float | None = None) -> Moment:
    return Moment(0.5, percent, percent if progress is None else progress, 0.5)


def flux_percent_to_sigma(percent: float, shift: float = 1.15) -> float:
    if percent <= 0:
        return 1.0
    if percent >= 1:
        return 0.0
    return math.exp(shift) / (math.exp(shift) + 1 / (1 - percent) - 1)


def test_open_gate_is_one_everywhere():
    assert OPEN.weight(at(0.0)) == OPEN.weight(at(1.0)) == 1.0


def test_constant_window_is_closed_outside_and_open_on_both_edges():
    factor = window("constant", 0.2, 0.6, first=0.7)
    weights = [factor.weight(at(p)) for p in (0.0, 0.19, 0.2, 0.4, 0.6, 0.61, 1.0)]
    assert weights == [0, 0, 0.7, 0.7, 0.7, 0, 0]


def test_edges_absorb_float32_schedules():
    factor = window("constant", 0.2, 0.6)
    assert factor.weight(at(0.2 - 1e-6)) == 1.0
    assert factor.weight(at(0.6 + 1e-6)) == 1.0


@pytest.mark.parametrize(
    ("shape", "percent", "expected"),
    [
        ("linear", 0.2, 1.0),
        ("linear", 0.4, 0.75),
        ("linear", 0.6, 0.5),
        ("cosine", 0.2, 1.0),
        ("cosine", 0.3, 1.0 - 0.5 * (1 - math.cos(math.pi * 0.25)) / 2),
        ("cosine", 0.4, 0.75),
    ],
)
def test_fades(shape, percent, expected):
    assert window(shape, 0.2, 0.6, 1.0, 0.5).weight(at(percent)) == pytest.approx(expected)


def test_points_interpolate_and_hold_beyond_the_ends():
    factor = window("points", 0.0, 1.0, points="0.2:1, 0.4:0, 0.8:-0.5")
    weights = [factor.weight(at(p)) for p in (0.0, 0.3, 0.4, 0.6, 0.9)]
    assert weights == pytest.approx([1, 0.5, 0, -0.25, -0.5])


def test_axis_progress_reads_progress():
    factor = window("constant", 0.0, 0.5, axis="progress")
    assert factor.weight(at(0.9, progress=0.1)) == 1.0
    assert factor.weight(at(0.1, progress=0.9)) == 0.0


def test_gates_multiply():
    half = Gate((window("constant", 0, 1, first=0.5),))
    assert (half * half).weight(at(0.3)) == 0.25


@pytest.mark.parametrize("shift", [0.5, 1.15, 3.0])
def test_clock_inverts_percent_to_sigma(shift):
    clock = Clock(lambda p: flux_percent_to_sigma(p, shift))
    for percent in (0.0, 0.01, 0.2, 0.5, 0.99, 1.0):
        found = clock.percent(flux_percent_to_sigma(percent, shift))
        assert found == pytest.approx(percent, abs=1e-9)


def test_clock_reads_progress_between_steps():
    clock = Clock(flux_percent_to_sigma, [1.0, 0.75, 0.5, 0.0])
    progress = [clock.moment(sigma).progress for sigma in (1.0, 0.75, 0.6, 0.25, 0.0)]
    assert progress == pytest.approx([0, 1 / 3, (1 + 0.6) / 3, 2.5 / 3, 1])


def test_clock_without_schedule_uses_percent():
    moment = Clock(flux_percent_to_sigma).moment(flux_percent_to_sigma(0.3))
    assert moment.progress == moment.percent


def test_a_late_step_of_a_partial_denoise_is_early_in_progress():
    schedule = [flux_percent_to_sigma(0.5 + i / 20) for i in range(11)]
    moment = Clock(flux_percent_to_sigma, schedule).moment(schedule[0])
    assert moment.percent == pytest.approx(0.5)
    assert moment.progress == 0.0


@pytest.mark.parametrize(
    ("call", "facts"),
    [
        (lambda: Window(0.7, 0.2), ["0.7", "0.2", "start"]),
        (lambda: Window(-0.1, 1.0), ["-0.1", "[0, 1]"]),
        (lambda: Window(0.0, 1.2), ["1.2", "[0, 1]"]),
        (lambda: Window(float("nan"), 1.0), ["nan"]),
        (lambda: Window(axis="sigma"), ["sigma", "percent", "progress"]),
        (lambda: Window(points=()), ["at least one"]),
        (lambda: parse_points(""), ["empty", "0:1"]),
        (lambda: parse_points("0:1, half:2"), ["half:2", "time:weight"]),
        (lambda: parse_points("0:1:2"), ["0:1:2", "time:weight"]),
        (lambda: parse_points("0.5"), ["0.5", "time:weight"]),
        (lambda: parse_points("1.5:1"), ["1.5", "[0, 1]"]),
        (lambda: parse_points("0.5:inf"), ["inf", "finite"]),
        (lambda: window("points", 0, 1, points="0.8:1, 0.2:0"), ["0.8", "0.2", "rise"]),
    ],
)
def test_bad_windows_say_what_is_wrong(call, facts):
    with pytest.raises(ValueError) as error:
        call()
    for fact in facts:
        assert fact in str(error.value)
