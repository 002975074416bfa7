"""The metrics by hand-made cases whose answers are known."""

import math

import numpy as np
import pytest
import torch
from flexid.model_patches.evaluate import measures, statistics

pytestmark = pytest.mark.pure


def test_cosine_knows_neither_length_nor_precision():
    one, other = torch.tensor([3.0, 4.0]), torch.tensor([4.0, 3.0], dtype=torch.float16)
    assert measures.cosine(one * 20, other.float()) == pytest.approx(24 / 25)
    with pytest.raises(ValueError, match=r"\(2,\).*\(3,\)"):
        measures.cosine(one, torch.ones(3))
    with pytest.raises(ValueError, match="length 0"):
        measures.cosine(one, torch.zeros(2))


def test_nothing_found_is_a_miss():
    assert measures.hits(["sad", "happy", "sad"], ["sad", None, "happy"]) == [True, False, False]


def test_angles_differ_the_short_way_round():
    assert measures.pose_error([170, 0, -20], [-170, 10, -20]) == pytest.approx(10)
    with pytest.raises(ValueError, match="as many"):
        measures.pose_error([1, 2], [1, 2, 3])


def test_changes_inside_the_face_do_not_disrupt():
    plain = torch.rand(40, 60, 3, generator=torch.Generator().manual_seed(0))
    face = plain.clone()
    face[10:20, 20:30] = 1 - face[10:20, 20:30]
    box = [20, 10, 30, 20]
    assert measures.disruption(face, plain, [box], margin=0) == 0
    assert measures.disruption(face, plain, [[0, 30, 5, 35]]) > 0
    everywhere = (plain + 0.25).clamp(max=2)
    assert measures.disruption(everywhere, plain, [box]) == pytest.approx(0.25, abs=1e-6)


def test_the_margin_grows_the_box_and_stays_in_the_picture():
    plain, changed = torch.zeros(20, 20, 3), torch.zeros(20, 20, 3)
    changed[:10] = 1
    assert measures.disruption(changed, plain, [[0, 0, 20, 8]], margin=0.25) == 0
    assert measures.disruption(changed, plain, [[0, 0, 20, 8]], margin=0) > 0
    with pytest.raises(ValueError, match="cover the whole"):
        measures.disruption(changed, plain, [[-5, -5, 30, 30]])
    with pytest.raises(ValueError, match="one size"):
        measures.disruption(changed, plain[:10], [])


def test_the_interval_is_over_people_not_pictures():
    """Ten copies of each person's picture tell nothing more about people."""
    rng = np.random.default_rng(1)
    people = list(range(50))
    values = rng.normal(0.5, 0.1, 50).tolist()
    once = statistics.bootstrap(values, people)
    often = statistics.bootstrap(values * 10, people * 10)
    assert (once.mean, once.low, once.high) == pytest.approx((often.mean, often.low, often.high))
    error = 0.1 / math.sqrt(50)
    assert once.high - once.low == pytest.approx(2 * 1.96 * error, rel=0.25)
    assert once.low < np.mean(values) < once.high
    assert often.count == 500


def test_the_interval_holds_the_truth_as_often_as_it_says():
    inside = 0
    for seed in range(200):
        values = np.random.default_rng(seed).normal(size=40).tolist()
        found = statistics.bootstrap(values, range(40), seed, resamples=300)
        inside += found.low <= 0 <= found.high
    assert 0.88 <= inside / 200 <= 0.985


def draw_by_hand(values, draws, seed):
    """The interval written out: whole people are drawn, then all of their pictures count alike."""
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(values), size=(draws, len(values)))
    means = [np.nanmean(values[one]) for one in chosen if np.isfinite(values[one]).any()]
    return np.percentile(means, (2.5, 97.5))


def holes(shape, share, seed=3):
    """Values of which some are unknown; the first person has none."""
    rng = np.random.default_rng(seed)
    values = rng.normal(0.6, 0.2, shape)
    values[rng.random(shape) < share] = np.nan
    values[0] = np.nan
    return values


@pytest.mark.parametrize(("people", "share"), [(30, 0.3), (2, 0.0)])
def test_a_flat_mean_counts_pictures_and_draws_people(people, share):
    values = holes((people, 4), share)
    found = statistics.flat_figure(values, statistics.draw_people(people, 500, 7))
    assert found.mean == pytest.approx(np.nanmean(values))
    assert (found.low, found.high) == pytest.approx(tuple(draw_by_hand(values, 500, 7)))
    assert found.count == np.isfinite(values).sum()
    nothing = np.full((people, 4), np.nan)
    assert statistics.flat_figure(nothing, statistics.draw_people(people)) is None


def test_a_formula_draws_the_same_people_for_all_of_its_means():
    """Of a ratio of two measures that are one nothing is uncertain."""
    values, weights = holes((20, 3), 0.2), statistics.draw_people(20)
    twice = statistics.formula_figure(lambda mean: mean(2 * values) / mean(values), weights)
    assert (twice.mean, twice.low, twice.high) == pytest.approx((2, 2, 2))
    fewer = np.where(np.arange(20)[:, None] < 5, np.nan, values)
    ratio = statistics.formula_figure(lambda mean: mean(fewer) - mean(values), weights)
    assert ratio.count == np.isfinite(fewer).sum() and ratio.low < ratio.mean < ratio.high
    nothing = np.full((20, 3), np.nan)
    assert statistics.formula_figure(lambda mean: mean(nothing) + mean(values), weights) is None


def test_draws_cannot_be_changed_by_who_shares_them():
    with pytest.raises(ValueError, match="read-only"):
        statistics.draw_people(3)[0, 0] = 5


def test_verification_area_counts_ordered_pairs():
    assert statistics.verification_area([0.9, 0.4], [0.1, 0.5]) == pytest.approx(3 / 4)
    assert statistics.verification_area([0.5], [0.5]) == pytest.approx(1 / 2)
    with pytest.raises(ValueError, match="both kinds"):
        statistics.verification_area([0.5], [])
