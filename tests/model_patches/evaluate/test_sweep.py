"""A sweep: its values, its table, its knee, its contact sheet, and what it refuses."""

import csv
import io
import math

import numpy as np
import pytest
import torch
from flexid.model_patches.evaluate import sweep as core
from flexid.model_patches.evaluate.charts import COLOURS
from flexid.model_patches.evaluate.sheet import CELL, COLUMNS, GAP, LINE, TALLEST, draw_sheet

pytestmark = pytest.mark.comfy


def test_even_geometric_and_own_values():
    assert core.list_values(0, 1, 5, core.EVEN) == [0, 0.25, 0.5, 0.75, 1]
    assert core.list_values(0, 0.9, 4, core.EVEN) == [0, 0.3, 0.6, 0.9], "no digits of binary"
    assert core.list_values(1, 0, 3, core.EVEN) == [1, 0.5, 0]
    assert core.list_values(1, 16, 5, core.GEOMETRIC) == [1, 2, 4, 8, 16]
    assert core.list_values(-1, -4, 3, core.GEOMETRIC) == [-1, -2, -4]
    assert core.list_values(0, 1, 5, core.EVEN, " 1, 0.5\n-2e1, ") == [1, 0.5, -20]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((0, 1, 1, core.EVEN), "has 1 values, expected 2 to 64"),
        ((0, 1, 65, core.EVEN), "has 65 values"),
        ((0.5, 0.5, 3, core.EVEN), "3 values hold 0.5 more than once"),
        ((0, 1, 3, core.GEOMETRIC), "first is 0 and last is 1; equal ratios need"),
        ((-1, 1, 3, core.GEOMETRIC), "first is -1 and last is 1"),
        ((0, 1, 3, "log"), "unknown spacing 'log'; choose even or geometric"),
        ((0, math.inf, 3, core.EVEN), "last is inf, expected finite"),
        ((0, 1, 3, core.EVEN, "0, x, 1"), "'x' is no number in '0, x, 1'"),
        ((0, 1, 3, core.EVEN, "0, nan"), "not all finite"),
        ((0, 1, 3, core.EVEN, "0.5"), "has 1 values"),
        ((0, 1, 3, core.EVEN, "0, 1, 0.0"), "hold 0 more than once"),
    ],
)
def test_other_values_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        core.list_values(*values)


def swept(likeness, change, better=core.LOWER):
    values = tuple(index / (len(likeness) - 1) for index in range(len(likeness)))
    measured = (
        core.Measured("likeness", tuple(likeness), core.HIGHER),
        core.Measured("change", tuple(change), better),
    )
    return core.Sweep("weight", values, measured)


def test_the_knee_by_hand_where_less_of_one_is_better():
    """Likeness is nearly whole at 0.5, and the change doubles after it."""
    one = swept([0.1, 0.5, 0.9, 0.95, 1.0], [0.0, 0.05, 0.1, 0.4, 0.8])
    assert one.find_knee() == 2
    text = core.write_report(one)
    assert "weight 0.5: likeness 0.9, change 0.1 (knee)" in text
    assert "knee: weight 0.5;" in text
    rows = list(csv.DictReader(io.StringIO(core.write_table(one))))
    assert [row["knee"] for row in rows] == ["", "", "knee", "", ""]
    assert rows[1] == {"weight": "0.25", "likeness": "0.5", "change": "0.05", "knee": ""}


def test_a_straight_line_and_too_few_figures_have_no_knee():
    straight = swept([0, 0.5, 1], [0, 0.5, 1])
    assert straight.find_knee() is None
    assert "no value lies above the line" in core.write_report(straight)
    few = swept([0, math.nan, 1, math.nan], [0, 0.5, 1, 2])
    assert few.find_knee() is None
    text = core.write_report(few)
    assert "likeness not measured" in text and "2 of 4 values have both figures" in text
    assert core.write_table(few).splitlines()[2] == "0.333333,,0.5,"
    alone = core.Sweep("b", (0.0, 1.0), ())
    assert alone.find_knee() is None and "knee: left out" in core.write_report(alone)


def test_a_failure_in_the_middle_leaves_the_other_values_their_places():
    one = swept([0.1, math.nan, 0.9, 0.95, 1.0], [0.0, 0.05, 0.1, 0.4, 0.8])
    assert one.find_knee() == 2


def test_directions_turn_the_knee():
    higher = swept([0.0, 0.8, 1.0], [1.0, 0.8, 0.0], core.HIGHER)
    assert higher.find_knee() == 1
    assert swept([0.0, 0.8, 1.0], [1.0, 0.8, 0.0]).find_knee() is None
    with pytest.raises(ValueError, match="unknown direction 'best'"):
        swept([0, 1, 2], [0, 1, 2], "best")


def test_figures_for_other_values_are_refused():
    with pytest.raises(ValueError, match="3 values and 2 numbers of likeness"):
        core.Sweep("w", (0, 1, 2), (core.Measured("likeness", (1, 2), core.HIGHER),))


def test_points_of_the_chart():
    one = core.Measured("likeness", (0.1, 0.2), core.HIGHER)
    assert core.place_points(core.Sweep("w", (3, 4), (one,))) == (
        [(3, 0.1), (4, 0.2)], ("w", "likeness")
    )  # fmt: skip
    both = core.Sweep("w", (3, 4), (one, core.Measured("change", (5, 6), core.LOWER)))
    points, titles = core.place_points(both)
    assert points == [(0.1, 5), (0.2, 6)] and titles[1] == "change (lower is better)"


# The contact sheet


def flat(red, height=60, width=60, pictures=1, channels=3):
    image = torch.zeros(pictures, height, width, channels)
    image[..., 0] = red
    return image


def pixels(sheet):
    return (sheet[0].numpy() * 255).round().astype(int)


def captions(count):
    return [[f"weight {number}"] for number in range(count)]


def reds(picture, value):
    """Where pixels of exactly this red are."""
    return np.argwhere((picture == (value, 0, 0)).all(-1))


def test_columns_are_values_and_rows_are_pictures():
    batches = [torch.cat([flat(0.2 * n), flat(0.2 * n + 0.1)]) for n in range(1, 4)]
    picture = pixels(draw_sheet(batches, captions(3), framed=1))
    places = {}
    for value in (0.2, 0.3, 0.4, 0.5, 0.6, 0.7):
        found = reds(picture, round(value * 255))
        assert len(found) == 60 * 60, value
        places[value] = found.mean(0)
    assert places[0.2][1] == places[0.3][1] < places[0.4][1] < places[0.6][1]
    assert places[0.2][0] == places[0.4][0] < places[0.3][0]
    frame = np.argwhere((picture == COLOURS[5]).all(-1))
    assert abs(frame[:, 1].mean() - places[0.4][1]) < 30
    assert frame[:, 1].min() > places[0.2][1] and frame[:, 1].max() < places[0.6][1]


def test_many_values_get_a_second_band_and_the_sheet_stays_bounded():
    batches = [flat((number + 1) / 20) for number in range(COLUMNS + 2)]
    picture = pixels(draw_sheet(batches, captions(len(batches))))
    first, last = (reds(picture, round(n / 20 * 255)).mean(0) for n in (1, COLUMNS + 1))
    assert last[0] > first[0] and last[1] == first[1]
    many = [flat(0.5, 300, 300, pictures=9) for _ in range(33)]
    assert draw_sheet(many, captions(33)).shape[1] <= TALLEST


def test_small_pictures_leave_room_for_the_whole_caption():
    """Pixels of letters: none is cut while it needs less than a large picture."""
    line = "change outside 0.131"
    small, large = (pixels(draw_sheet([flat(0.5, side, side)], [[line]])) for side in (60, CELL))
    letters = [(one[: 2 * GAP + LINE, GAP:] < 128).all(-1).sum() for one in (small, large)]
    assert letters[0] == letters[1] > 100
    assert reds(small, 128)[:, 1].mean() == pytest.approx((small.shape[1] - 1) / 2, abs=0.5), (
        "centred"
    )
    long = pixels(draw_sheet([flat(0.5)], [["change " * 20 + "0.131"]]))
    assert long.shape[1] == CELL + 2 * GAP


def test_shapes_and_channels_are_kept():
    odd = [flat(0.5, 40, 120), flat(0.5, 120, 40), torch.full((1, 60, 60, 1), 0.5)]
    picture = pixels(draw_sheet(odd, captions(3)))
    assert len(reds(picture, 128)) == 2 * 40 * 120
    clear = torch.cat([flat(0.5), torch.zeros(1, 60, 60, 1)], -1)
    assert not len(reds(pixels(draw_sheet([clear], captions(1))), 128)), "transparent is white"


def test_pictures_that_are_none_are_refused():
    broken = flat(0.5, pictures=2)
    broken[1, 3, 3] = math.nan
    with pytest.raises(ValueError, match="1 of 2 pictures of value 2 hold NaN"):
        draw_sheet([flat(0.1), broken], captions(2))
    with pytest.raises(ValueError, match=r"value 1 have the shape \(0, 8, 8, 3\)"):
        draw_sheet([torch.zeros(0, 8, 8, 3)], captions(1))
    with pytest.raises(ValueError, match="0 columns and 0 captions"):
        draw_sheet([], [])
