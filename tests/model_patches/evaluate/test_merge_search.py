"""What a search of merge weights concludes: pairs, intervals over people, the choice."""

import csv
import io
import math

import numpy as np
import pytest
from flexid.model_patches.evaluate.charts import COLOURS, draw_trade_off
from flexid.model_patches.evaluate.merge_search import (
    Axis,
    Scores,
    Search,
    place_points,
    write_report,
    write_table,
)

pytestmark = pytest.mark.comfy

LABELS = ("1, 0", "0.5, 0.5", "0, 1")
LIKENESS, FREEDOM = Axis("likeness", "higher"), Axis("freedom", "higher")
MEANS = {"x": (0.60, 0.58, 0.30), "y": (0.2, 0.5, 0.9)}


def search(means=MEANS, people=4, prompts=2, axes=(LIKENESS, FREEDOM), noise=0.01, **changes):
    """Every person is off by an amount of their own, the same for all weights."""
    off = np.random.default_rng(3).normal(0, noise, people)
    places = [(p, one, two) for p in range(3) for one in range(people) for two in range(prompts)]
    x, y = ({place: means[k][place[0]] + off[place[1]] for place in places} for k in "xy")
    scores = Scores(x, y if axes[1] else None)
    return Search(LABELS, 3 * people * prompts, people, scores, axes, **changes)


def test_the_best_y_that_keeps_x():
    assert search().best == 1
    assert search(tolerance=0.0).best == 0
    assert search(tolerance=1.0).best == 2
    assert search(axes=(LIKENESS, None)).best == 0
    assert search(axes=(Axis("distance", "lower"), FREEDOM)).best == 2
    assert search(axes=(LIKENESS, Axis("change", "lower")), tolerance=1.0).best == 0


def test_differences_are_paired():
    """People differ far more than weights do; in pairs that drops out."""
    found = search(noise=5.0)
    apart = found.difference(found.scores.x, 1, 0)
    assert apart.mean == pytest.approx(-0.02) and apart.high - apart.low < 1e-9
    own = found.figures(found.scores.x)[0]
    assert own.high - own.low > 1
    assert found.stability() == 1.0, "the same amount for all weights changes no order"


def test_an_unsure_choice_is_called_so():
    places = [(p, one, 0) for p in range(3) for one in range(6)]
    noise = np.random.default_rng(0).normal(0, 1, len(places))
    found = Search(LABELS, 18, 6, Scores(dict(zip(places, noise, strict=True))), (LIKENESS, None))
    assert 0.2 < found.stability() < 0.95
    assert "draws of these people" in write_report(found)


def test_only_whole_pairs_count_and_the_rest_is_named():
    found = search()
    for missing in ((2, 3, 1), (0, 0, 1)):
        del found.scores.x[missing]
    assert found.missing == [12, 23] and len(found.cells) == 6
    text = write_report(found)
    assert text.startswith("22 of 24 trials done, 6 pairs") and "missing trials: 12, 23" in text
    assert found.figures(found.scores.x)[1].count == 6


def test_a_figure_that_is_missing_leaves_the_pair_out_everywhere():
    found = search()
    found.scores.y[(1, 2, 0)] = math.nan
    assert [one.count for one in found.figures(found.scores.y)] == [7, 7, 7]
    assert [one.count for one in found.figures(found.scores.x)] == [8, 8, 8]
    assert "freedom: 1 pairs left out" in write_report(found)


def test_before_there_is_a_pair():
    found = Search(LABELS, 6, 2, Scores({(0, 0, 0): 0.5}), (LIKENESS, None))
    assert found.best is None and found.missing == [1, 2, 3, 4, 5]
    assert "best weights: none yet" in write_report(found)
    assert list(csv.DictReader(io.StringIO(write_table(found))))[0]["likeness"] == ""


def test_one_person_has_no_interval():
    found = search(people=1)
    assert math.isnan(found.stability()) and "they need two people" in write_report(found)


def test_table_and_report_say_the_same():
    found = search()
    rows = list(csv.DictReader(io.StringIO(write_table(found))))
    assert [row["weights"] for row in rows] == list(LABELS)
    assert [row["best"] for row in rows] == ["", "best", ""]
    figure = found.figures(found.scores.y)[1]
    assert float(rows[1]["freedom low"]) == pytest.approx(figure.low, rel=1e-5)
    assert figure.low < figure.mean < figure.high and rows[0]["pairs"] == "8"
    text = write_report(found)
    assert "best weights: 0.5, 0.5, the best freedom within 0.05 of the best likeness" in text
    assert "best less 1, 0: likeness -0.02" in text and "best less 0, 1: likeness 0.28" in text


def test_a_tolerance_below_0_is_refused():
    with pytest.raises(ValueError, match="tolerance is -0.1"):
        search(tolerance=-0.1)


def test_the_chart_shows_intervals():
    found = search(noise=0.05)
    points, figures, titles = place_points(found)
    ends = [((a.low, a.high), (b.low, b.high)) for a, b in figures]
    with_ends = draw_trade_off(points, found.labels, titles, found.best, "best", ends)
    pixels = (with_ends[0].numpy() * 255).round().astype(int)
    crosses = (pixels == np.array(COLOURS[4])).all(-1)
    assert crosses.any(0).sum() > 30 and crosses.any(1).sum() > 30
    alone = place_points(search(axes=(LIKENESS, None)))
    assert [x for x, _ in alone[0]] == [1, 2, 3] and "likeness" in alone[2][1]
