"""Charts: every value, failure and knee is where it belongs, whatever the numbers are."""

import math

import numpy as np
import pytest
from flexid.model_patches.evaluate.charts import (
    BACK,
    COLOURS,
    FAILURE,
    INK,
    LEFT,
    MARGIN,
    MOST_BAR,
    NARROWEST,
    PANEL_HEIGHT,
    WIDEST,
    Panel,
    draw_panels,
    draw_trade_off,
    nice_ticks,
)

pytestmark = pytest.mark.comfy


def pixels(chart):
    assert chart.shape[0] == 1 and chart.shape[3] == 3
    return (chart[0].numpy() * 255).round().astype(int)


def where(picture, colour):
    return (picture == np.array(colour)).all(-1)


def panel(*values, marks=(), colours=None):
    labels = tuple(str(number + 1) for number in range(len(values)))
    return Panel("likeness", values, colours or (0,) * len(values), labels, marks)


def test_bars_are_as_high_as_their_values():
    picture = pixels(draw_panels([panel(1.0, 0.5)], ["Ann"], "plain"))
    blue = where(picture, COLOURS[0])
    heights = blue.sum(0)
    columns = np.flatnonzero(heights > 10)
    first, second = columns[columns < columns.mean()], columns[columns > columns.mean()]
    assert heights[first].max() == pytest.approx(2 * heights[second].max(), abs=3)
    assert not where(picture, FAILURE).any()


def test_few_bars_spread_over_the_whole_field():
    picture = pixels(draw_panels([panel(1, 1)], ["Ann"], "plain"))
    columns = np.flatnonzero(where(picture, COLOURS[0]).any(0))
    [gap] = np.flatnonzero(np.diff(columns) > 1)
    first, second = columns[: gap + 1], columns[gap + 1 :]
    assert second.mean() - first.mean() == pytest.approx((NARROWEST - LEFT - MARGIN) / 2, abs=1)
    assert np.ptp(first) < MOST_BAR


def test_a_failure_is_a_cross_and_no_bar():
    picture = pixels(draw_panels([panel(math.nan, 0.5)], ["Ann"], "plain"))
    crosses = np.flatnonzero(where(picture, FAILURE).any(0))
    bars = np.flatnonzero(where(picture, COLOURS[0]).any(0))
    assert len(crosses) and crosses.max() < bars.min()


def test_negative_values_hang_below_zero():
    picture = pixels(draw_panels([panel(0.4, -0.4)], ["Ann"], "plain"))
    rows = [
        np.flatnonzero(where(picture, COLOURS[0])[:, side].any(1))
        for side in (slice(0, 300), slice(320, None))
    ]
    assert rows[0].max() <= rows[1].min() + 1


def test_people_have_colours_and_plain_pictures_lines():
    many = panel(0.9, 0.8, marks=(0.1, math.nan), colours=(0, 1))
    picture = pixels(draw_panels([many], ["Ann", "Bob"], "plain picture"))
    assert where(picture, COLOURS[0]).sum() > 200 and where(picture, COLOURS[1]).sum() > 200
    alone = pixels(draw_panels([panel(0.9, 0.8)], ["Ann"], "plain picture"))
    assert where(picture, INK).sum() > where(alone, INK).sum()


@pytest.mark.parametrize("values", [(0.0,), (math.nan,), (-1e-9, 1e9), tuple([0.3] * 900)])
def test_odd_values_are_drawn(values):
    picture = pixels(draw_panels([panel(*values)] * 3, ["Ann"], "plain"))
    assert picture.shape[1] <= WIDEST and picture.shape[0] > 3 * PANEL_HEIGHT
    assert not where(picture, BACK).all()


def test_no_panel_is_refused():
    for panels in ([], [Panel("likeness", (), (), ())]):
        with pytest.raises(ValueError, match="one panel with one value at least"):
            draw_panels(panels, ["Ann"], "plain")


@pytest.mark.parametrize(("low", "high"), [(0, 1), (-0.3, 0.31), (0, 3e-7), (1e5, 9e5), (-7, -2)])
def test_ticks_are_round_and_inside(low, high):
    ticks = nice_ticks(low, high, 4)
    assert 2 <= len(ticks) <= 5 and low - 1e-9 <= min(ticks) and max(ticks) <= high + 1e-9
    assert all(len(f"{tick:g}") <= 7 for tick in ticks)


def test_the_knee_is_ringed_and_nothing_else():
    points, labels = [(0, 1), (0.8, 0.8), (1, 0)], ["0", "0.5", "1"]
    with_knee = pixels(draw_trade_off(points, labels, ("likeness", "freedom"), 1))
    without = pixels(draw_trade_off(points, labels, ("likeness", "freedom"), None))
    ring = np.argwhere(where(with_knee, COLOURS[5]))
    assert len(ring) > 50 and not where(without, COLOURS[5]).any()
    height, width = with_knee.shape[:2]
    y, x = ring.mean(0)
    assert x > 0.6 * width and y < 0.45 * height, "towards the upper right"


def test_points_that_are_not_finite_are_left_out():
    points = [(0.1, 0.2), (math.nan, 0.5), (0.3, 0.1)]
    assert pixels(draw_trade_off(points, ["a", "b", "c"], ("x", "y"), None)).std() > 0
    assert pixels(draw_trade_off([(0.5, 0.5)], ["a"], ("x", "y"), None)).std() > 0
    with pytest.raises(ValueError, match="0 of 1 points are finite"):
        draw_trade_off([(math.nan, 1.0)], ["a"], ("x", "y"), None)
