"""The suite that holds EditIDv2's ways against constant weights: every number by hand."""

import json

import numpy as np
import pytest
from flexid.mini.study import editid_suite as suite
from flexid.mini.study import figures, report, rows
from flexid.mini.study.adapter_files import adapter_digests, check_adapters, find_adapters
from flexid.mini.study.curves import figure_of
from flexid.mini.study.editid_plot import KINDS, kind_of
from flexid.mini.study.editid_table import as_markdown
from flexid.mini.study.prompts import choose
from flexid.mini.study.store import Store
from flexid.model_patches.adapters.merge_rules import shares_of
from flexid.model_patches.evaluate.statistics import Figure
from pack import ROOT

pytestmark = pytest.mark.pure

OURS = rows.editid_row("balanced")
KEPT = (0.0, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
OBEYED = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)
"""FaceSim and edits of the line, from weight 0 to the largest."""


def study_of(ours, people=100, shifts=None):
    """Both judges see the same, of two prompts each. ours: (FaceSim, edits), numbers or one for
    each person. shifts: row key -> what each person's edits have more."""
    keys = (row.key for row in suite.line().rows)
    told = dict(zip(keys, zip(KEPT, OBEYED, strict=True), strict=True))
    measured = {}
    for key, pair in {**told, OURS.key: ours}.items():
        values = {name: np.full((people, 2), np.nan) for name in figures.METRICS}
        for name, value in zip(("similarity", "edit"), pair, strict=True):
            column = np.broadcast_to(np.asarray(value, float), people)[:, None]
            extra = (shifts or {}).get(key, 0.0) if name == "edit" else 0.0
            values[name] = np.repeat(column, 2, 1) + np.broadcast_to(extra, people)[:, None]
            values["trained_" + name] = values[name].copy()
        measured[key] = values
    chosen = (*suite.line().rows, OURS)
    seeds, made = tuple(range(people)), rows.settings()
    prompts = choose(["laughing", "left"])
    return report.Study(chosen, prompts, seeds, "held-out", made, {}, {"a": "b"}, measured)


def gain(*ours, **options):
    return suite.gain_of(study_of(ours, **options), OURS)


def test_a_way_is_compared_where_the_line_keeps_as_much_and_where_it_obeys_as_much():
    """FaceSim 0.65 lies halfway between weights that obey 0.6 and 0.5; edits of 0.66 lie at a
    FaceSim of 0.54."""
    found = gain(0.65, 0.66)
    assert found.edits.mean == pytest.approx(0.11) and found.similarity.mean == pytest.approx(0.11)
    assert (found.edits.low, found.edits.high) == pytest.approx((0.11, 0.11))
    assert found.edits.count == 200 and found.meets_aim


def test_a_way_on_the_line_gains_nothing():
    found = gain(0.6, 0.6)
    assert found.edits.mean == pytest.approx(0) and found.similarity.mean == pytest.approx(0)
    assert not found.meets_aim


def test_beyond_the_lines_best_a_way_is_compared_with_that():
    more_like = gain(0.95, 0.5)
    assert more_like.edits.mean == pytest.approx(0.5 - 0.3), "the largest weight's edits"
    assert more_like.similarity.mean == pytest.approx(0.95 - 0.7)
    freer = gain(0.3, 0.95)
    assert freer.similarity.mean == pytest.approx(0.3), "the prompt alone obeys most"
    assert freer.edits.mean == pytest.approx(0.95 - 0.825)


def test_beyond_the_lines_worst_nothing_is_said():
    """A larger weight might obey as few edits and keep more."""
    assert gain(0.85, 0.2).similarity is None
    assert gain(-0.1, 0.5).edits is None


def test_a_stretch_of_the_line_that_turns_back_is_passed_over():
    """FaceSim falls from the first weight to the second one: only what rises can reach 0.5."""
    study = study_of((0.5, 0.7))
    key = suite.line().rows[2].key
    for name, value in (("similarity", 0.3), ("edit", 0.85)):
        study.measured[key][name][:] = value
    found = suite.gain_of(study, OURS)
    # FaceSim goes 0.4, 0.3, 0.6: 0.5 lies two thirds of the way from (0.3, 0.85) to (0.6, 0.6).
    assert found.edits.mean == pytest.approx(0.7 - (0.85 - 2 / 3 * 0.25))
    assert found.similarity.mean == pytest.approx(0.5 - (0.6 - 0.4 * 0.3))


def test_the_interval_is_that_of_the_people():
    """Half gain 0.3, half lose 0.1: 0.1 +- 1.96 x 0.2 / 10. Equal pictures of a person are one."""
    told = np.where(np.arange(100) % 2, 0.9, 0.5)
    found = gain(0.6, told)
    half = (found.edits.high - found.edits.low) / 2
    assert found.edits.mean == pytest.approx(0.1) and half == pytest.approx(0.0392, rel=0.12)
    assert found.meets_aim
    few = gain(0.6, told[:8], people=8)
    assert few.edits.mean == pytest.approx(0.1) and few.edits.low < 0 and not few.meets_aim


def test_what_differs_between_people_alone_is_paired_away():
    """Some people are easier to edit, by every way: that is no doubt about the gain."""
    shift = np.linspace(-0.1, 0.1, 100)
    shifts = {row.key: shift for row in (*suite.line().rows, OURS)}
    found = gain(0.65, 0.66, shifts=shifts)
    assert found.edits.mean == pytest.approx(0.11)
    assert found.edits.high - found.edits.low < 1e-9


def test_a_small_gain_does_not_meet_the_aim():
    assert not gain(0.65, 0.59).meets_aim, "0.04 of edits and of FaceSim"


def test_an_interval_needs_nearly_all_draws():
    samples = np.full(1001, 0.2)
    samples[1:21] = np.nan
    assert figure_of(samples, 7) == Figure(0.2, 0.2, 0.2, 7)
    samples[1:31] = np.nan
    assert figure_of(samples, 7) is None
    assert figure_of(np.array([np.nan, *[0.2] * 1000]), 7) is None


def test_the_document_says_it_by_both_judges_and_the_table_shows_it():
    study = study_of((0.65, 0.66))
    study.measured[OURS.key]["trained_edit"][:] = 0.1
    gains = suite.measure(study, [OURS])
    document = json.loads(json.dumps(suite.to_json(study, gains, {}), allow_nan=False))
    told = document["beats_line"][OURS.key]
    assert told["edits"]["mean"] == pytest.approx(0.11) and told["meets_aim"]
    assert told["trained_similarity"] is None and not told["trained_meets_aim"]
    assert [point["weight"] for point in document["line"]] == [0, *suite.LINE]
    assert document["line"][3]["edit"]["mean"] == pytest.approx(0.6)
    table = as_markdown(document).splitlines()
    assert len(table) == 2 + len(document["line"]) + 1
    assert len({line.count("|") for line in table}) == 1
    assert "| **+11 (11 to 11)** | **+0.11 (0.11 to 0.11)** | 0.65" in table[-1]
    assert table[-1].endswith("| -45 (-45 to -45) | - |")


DOCUMENT = ROOT / "mini/evaluation/editid.json"


@pytest.mark.skipif(not DOCUMENT.exists(), reason="it was not measured yet")
def test_the_page_quotes_the_measured_figures():
    """It may leave rows out; what it shows is what the file says."""
    page = (ROOT / "mini/README.md").read_text(encoding="utf-8")
    section = page.partition("\n## EditIDv2 against")[2].partition("\n## ")[0]
    quoted = [line for line in section.splitlines() if line.startswith("|")]
    known = as_markdown(json.loads(DOCUMENT.read_text(encoding="utf-8"))).splitlines()
    assert len(quoted) > 2 and not set(quoted) - set(known)


def test_without_the_independent_judge_nothing_is_claimed():
    study = study_of((0.6, 0.6))
    study.measured["alone"]["edit"][:] = np.nan
    with pytest.raises(ValueError, match="no independent judge"):
        suite.measure(study, [OURS])


def test_all_ways_are_tried_where_nothing_else_is_asked_for():
    plain = suite.choose_rows(None, ())
    assert plain == (*suite.CONTROLS, *suite.GUIDANCE, *suite.BESIDE)
    everything = suite.choose_rows(None, (*suite.ABLATION, *suite.MERGES, "another"))
    assert len(suite.ABLATION) == 6 and len(everything) == len(plain) + 2 * 6 + len(suite.MERGES)
    assert {kind_of(row) for row in everything} == KINDS.keys() - {"other"}
    assert all(rows.row_of(row.key) == row for row in everything)
    assert suite.choose_rows([rows.ALONE, OURS, OURS], ()) == (OURS,)
    with pytest.raises(ValueError, match="0 of 1 rows are beside the line"):
        suite.choose_rows([rows.rigid_row(0.75)], ())


@pytest.mark.parametrize("merge", suite.MERGES.values(), ids=suite.MERGES)
def test_the_merges_have_a_weight_for_each_file(merge):
    based = merge.method == "task_arithmetic"
    count = len(merge.adapters) + (not based)
    shares = shares_of(merge.method, merge.weights, count, True, based)
    assert len(shares) == count and set(merge.adapters) <= set(suite.ABLATION)


def test_a_row_is_painted_anew_when_its_adapter_changes(tmp_path):
    row = rows.adapter_row("mine", 0.75)
    assert (row.key, row.adapter) == ("adapter-mine-0.75", "mine")
    assert rows.row_of("adapter-my-own_2-1.25").adapter == "my-own_2"
    file, names = tmp_path / "mine.safetensors", []
    for content in (b"one", b"two"):
        file.write_bytes(content)
        found = find_adapters(tmp_path)
        check_adapters([row], found)
        store = Store(tmp_path, adapter_digests(found), rows.settings(), {})
        names.append((store.painter(row), store.painter(rows.rigid_row(0.75))))
    assert names[0][0] != names[1][0] and names[0][1] == names[1][1]
    with pytest.raises(ValueError, match=r"adapter-other-1 needs other\.safetensors.*mine"):
        check_adapters([rows.adapter_row("other", 1.0)], found)


def test_controls_of_a_row_are_part_of_its_name(tmp_path):
    store = Store(tmp_path, {}, rows.settings(), {})
    controls = (*suite.CONTROLS, *suite.GUIDANCE, *suite.BESIDE)
    names = {store.painter(row) for row in controls}
    assert len(names) == len(controls)
