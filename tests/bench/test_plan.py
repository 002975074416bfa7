"""Sizes and rounds come from the time there is, and late rounds are left out."""

import pytest
from flexid.bench.plan import LEAST, MARGIN, Allowance, Budget, choose, duration, rounds_in

pytestmark = pytest.mark.pure


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_time_is_shared_by_weight(clock):
    budget = Budget(60, {"short": 1, "long": 2}, clock)
    assert budget.shares() == {"short": 20, "long": 40}
    assert budget.begin("short").left() == 20


@pytest.mark.parametrize("taken", [5, 30])
def test_what_a_section_leaves_over_or_overruns_the_next_ones_share(clock, taken):
    budget = Budget(60, {"first": 1, "second": 1, "third": 1}, clock)
    budget.begin("first")
    clock.now += taken
    assert budget.shares() == {"second": (60 - taken) / 2, "third": (60 - taken) / 2}
    budget.begin("second")
    assert budget.begin("third").left() == 60 - taken


def test_nothing_is_shared_out_that_is_not_there(clock):
    budget = Budget(60, {"first": 1, "second": 1}, clock)
    budget.begin("first")
    clock.now += 100
    assert budget.begin("second").left() == 0


def test_an_allowance_runs_from_its_start(clock):
    allowance = Allowance(10, clock)
    clock.now += 4
    assert allowance.left() == 6


@pytest.mark.parametrize(
    ("seconds", "size", "rounds"),
    [
        (10_000, 100, 5),  # time in abundance: full size, as many rounds as asked for
        (4 * 100 / MARGIN, 100, 4),
        (LEAST * 100 / MARGIN, 100, LEAST),
        (LEAST * 100 / MARGIN - 1, 50, 5),  # the largest size of which LEAST rounds fit
        (1, 10, LEAST),  # not even the smallest fits: a ratio still has its rounds
    ],
)
def test_the_largest_size_that_fits_is_chosen(seconds, size, rounds):
    assert choose([100, 50, 10], float, seconds, 5) == (size, rounds)


def test_a_plan_leaves_a_margin():
    size, rounds = choose([100, 50, 10], float, 1000, 50)
    assert rounds * size <= MARGIN * 1000


def test_work_that_takes_no_time_is_done_as_often_as_asked():
    assert rounds_in(10, 0.0, 7) == 7


def test_rounds_that_take_as_long_as_planned_are_all_done(clock):
    done = []
    for number in Allowance(50, clock).rounds(5):
        clock.now += 10
        done.append(number)
    assert done == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(("each", "count"), [(12, 4), (20, LEAST), (1000, LEAST)])
def test_slow_rounds_are_cut_but_never_below_the_least(clock, each, count):
    done = 0
    for _ in Allowance(50, clock).rounds(5):
        clock.now += each
        done += 1
    assert done == count


def test_durations_are_words():
    assert [duration(s) for s in (0.01, 45.4, 89, 100, 900)] == [
        "1 s", "45 s", "89 s", "2 min", "15 min",
    ]  # fmt: skip
