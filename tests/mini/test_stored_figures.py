"""The figures in mini/evaluation follow from each other by the measures that everything shares."""

import csv
import json

import numpy as np
import pytest
from flexid.mini.study import figures, flexip_suite
from flexid.mini.study.figures import draws, figure
from flexid.model_patches.evaluate.ranks import spearman
from flexid.model_patches.evaluate.sliders import Course, course_correlation, gain_at_equal
from pack import ROOT

pytestmark = pytest.mark.pure
STORED = ROOT / "mini" / "evaluation"
PEOPLE = 100
ROUND = 6e-5
"""Half of the last digit of a prompt's mean, and of a row's."""


def read(name):
    return json.loads((STORED / name).read_text(encoding="utf-8"))


@pytest.fixture(params=["figures.json", "flexip.json"])
def stored(request):
    return read(request.param)


def told(row):
    """Metric -> (people, prompts): every person as the prompt's mean, NaN where nobody has one."""
    by_prompt = row["by prompt"]
    return {
        metric: np.array([[one.get(metric, np.nan) for one in by_prompt.values()]] * PEOPLE)
        for metric in figures.METRICS
    }


def test_every_mean_is_that_of_all_pictures(stored):
    """Prompts weigh alike, since each has a picture of every person. A pose error is of the faces
    that were found; few were not."""
    assert stored["people"]["count"] == PEOPLE
    compared = 0
    for key, row in stored["rows"].items():
        for metric, values in told(row).items():
            there = row["figures"][metric]
            found = figure(values)
            assert (found is None) == (there is None), (key, metric)
            if there is None:
                continue
            loose = 0.05 if metric.endswith("pose_error") else ROUND
            assert found.mean == pytest.approx(there["mean"], abs=loose), (key, metric)
            if not metric.endswith("pose_error"):
                assert found.count == there["count"], (key, metric)
            compared += 1
    assert compared > 100


def test_every_claim_follows_from_the_rows():
    stored = read("figures.json")
    measured = {
        key: {
            metric: np.full((2, 3), np.nan if there is None else there["mean"])
            for metric, there in row["figures"].items()
        }
        for key, row in stored["rows"].items()
    }
    for claim, there in zip(figures.claims(measured), stored["claims"], strict=True):
        assert claim.text == there["claim"] and claim.holds == there["holds"]
        assert claim.found.mean == pytest.approx(there["found"]["mean"], abs=1e-4)


def test_the_table_holds_what_the_document_holds():
    rows = read("figures.json")["rows"]
    lines = list(csv.DictReader((STORED / "figures.csv").open(encoding="utf-8")))
    assert len(lines) == sum(
        there is not None for r in rows.values() for there in r["figures"].values()
    )
    for line in lines:
        there = rows[line["row"]]["figures"][line["metric"]]
        found = {name: float(line[name]) for name in ("mean", "low", "high")}
        assert found == {name: there[name] for name in found}, line
        assert int(line["pictures"]) == there["count"]


def points(stored, start, name):
    """(points, people, prompts) of one slider's means."""
    means = [one[name]["mean"] for one in stored["points"] if one["row"].startswith(f"{start}-")]
    assert len(means) == flexip_suite.POINTS
    return np.stack([np.full((2, 1), mean) for mean in means])


def test_the_slider_s_figures_follow_from_its_points():
    stored, people = read("flexip.json"), draws(2)
    courses = [
        Course(*(points(stored, start, name) for name in ("identity", "edit")))
        for start in ("flexip", "plain")
    ]
    for name, stack in (("rho_identity", courses[0].kept), ("rho_edit", courses[0].obeyed)):
        found = course_correlation(stack, people)
        assert found.mean == pytest.approx(stored[name]["mean"], abs=1e-12), name
    assert spearman(range(11), points(stored, "plain", "identity")[:, 0, 0]) > 0.9
    gained = gain_at_equal(*courses, flexip_suite.MIDDLE, people)
    assert gained.mean == pytest.approx(stored["edits_gained"]["mean"], abs=1e-9)
    jumps = (stored[name]["mean"] for name in ("baseline_jump", "jump", "jump_gain"))
    theirs, ours, gain = jumps
    assert theirs - ours == pytest.approx(gain, abs=1e-9), "the same pictures, paired"
