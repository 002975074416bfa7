"""Intervals, claims, table, plot, sheet on made-up measures; the cache with a made-up painter."""

import csv
import io
import json
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from flexid.mini import world
from flexid.mini.study import figures, report, rows, sheet
from flexid.mini.study.evaluation import Clock, Evaluation, duration, measure, noise_seed
from flexid.mini.study.judge import Seen, disruption, hits, pose_error
from flexid.mini.study.prompts import Prompt, all_prompts
from flexid.mini.study.store import Store
from flexid.model_patches.evaluate.statistics import Figure
from PIL import Image

pytestmark = pytest.mark.pure

TOLD = {
    "alone": (0.02, 0.95),
    "vfa-1": (0.70, 0.60),
    "sip-vfa-cag": (0.66, 0.90),
}


def study(people=60, told=TOLD, estimators=True):
    """Measures with known means: FaceSim and the share of obeyed edits of each row."""
    rng, prompts = np.random.default_rng(0), all_prompts()
    measured = {}
    for key, (similarity, edit) in told.items():
        shape = (people, len(prompts))
        values = {name: np.full(shape, np.nan) for name in figures.METRICS}
        values["similarity"] = rng.normal(similarity, 0.05, shape)
        values["detected"] = np.ones(shape)
        values["trained_similarity"] = values["similarity"] + 0.1
        if estimators:
            for name in ("edit", "expression", "style"):
                values[name] = (rng.random(shape) < edit).astype(float)
            values["trained_edit"] = np.ones(shape)
        measured[key] = values
    chosen = tuple(rows.row_of(key) for key in told)
    made = rows.settings()
    return report.Study(
        chosen, prompts, tuple(range(people)), "tune", made, {}, {"a": "b"}, measured
    )


def test_the_interval_is_that_of_the_people():
    """Twelve equal pictures per person are one observation: the interval must know."""
    rng = np.random.default_rng(1)
    person = rng.normal(0.5, 0.2, (100, 1))
    found = figures.figure(np.repeat(person, 12, 1))
    assert found.count == 1200 and found.mean == pytest.approx(person.mean())
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * person.std() / 10, rel=0.12)
    independent = figures.figure(rng.normal(0.5, 0.2, (100, 12)))
    assert independent.high - independent.low < (found.high - found.low) / 2.5


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    weights = figures.draws(40)
    hits = 0
    for _ in range(200):
        found = figures.figure((rng.random((40, 3)) < 0.7).astype(float), weights)
        hits += found.low <= 0.7 <= found.high
    assert 0.88 <= hits / 200 <= 0.99


def test_pictures_that_say_nothing_do_not_count():
    values = np.array([[1.0, np.nan], [0.0, np.nan], [np.nan, np.nan]])
    found = figures.figure(values)
    assert (found.mean, found.count) == (0.5, 2)
    assert figures.figure(np.full((2, 2), np.nan)) is None


def test_the_claims_hold_where_the_measures_say_so():
    claims = figures.claims(study().measured)
    assert [claim.holds for claim in claims] == [True] * 7
    won = claims[5].found
    assert won.mean == pytest.approx(30 / 35, abs=0.1) and won.low < won.mean < won.high
    assert claims[6].found.mean == pytest.approx(1 - 0.66 / 0.70, abs=0.02)
    worse = study(told=TOLD | {"sip-vfa-cag": (0.5, 0.65)}).measured
    assert [claim.holds for claim in figures.claims(worse)[5:]] == [False, False]


def test_claims_without_their_rows_are_not_measured():
    claims = figures.claims(study(told={"alone": (0.0, 1.0)}).measured)
    assert [claim.holds for claim in claims] == [True, True, True, None, None, None, None]
    blind = figures.claims(study(estimators=False).measured)
    assert [claim.holds for claim in blind] == [None, None, True, True, None, None, True]
    assert "not measured" in report.claim_line(blind[0])


def test_the_claims_stand_on_the_independent_judge():
    measured = study().measured
    for values in measured.values():
        values["trained_similarity"][:] = 1
        values["trained_edit"][:] = 0
    assert all(claim.holds for claim in figures.claims(measured))
    for values in measured.values():
        values["similarity"][:] = np.nan
    assert [claim.holds for claim in figures.claims(measured)][2:4] == [None, None]


def test_the_table_shows_each_row_once_with_its_interval():
    text = report.table(study())
    lines = {line[:15].strip(): line for line in text.splitlines()}
    assert "60 tune people x 12 prompts" in text
    assert "0.70 ±0.0" in lines["rigid VFA 1"] and "±" in lines["SIP + VFA + CAG"]
    assert "0.80 ±0.0" in lines["rigid VFA 1"]  # by the networks of the training
    assert all(title in text for title in figures.TABLE.values())
    assert lines["prompt alone"].rstrip().endswith("-")  # no disruption against itself
    assert text.count("\nyes  ") == 7


def test_numbers_are_shown_in_their_units():
    found = Figure(0.123, 0.103, 0.143, 9)
    assert report.format_figure("similarity", found) == "0.12 ±0.02"
    assert report.format_figure("edit", found) == "12 ±2 %"
    assert report.format_figure("disruption", found) == "12.3 ±2.0 %"
    assert report.format_figure("pose_error", found) == "0.1 ±0.0°"
    assert report.format_figure("trained_pose_error", found) == "0.1 ±0.0°"
    assert report.format_figure("trained_edit", found) == "12 ±2 %"
    assert report.format_figure("edit", None) == "-"


def test_csv_and_json_agree_and_are_readable():
    made = study()
    table = list(csv.DictReader(io.StringIO(report.as_csv(made.figures))))
    document = json.loads(report.to_json(made))
    assert {line["row"] for line in table} == set(TOLD) == set(document["rows"])
    for line in table:
        found = document["rows"][line["row"]]["figures"][line["metric"]]
        assert float(line["mean"]) == pytest.approx(found["mean"], abs=1e-4)
        assert float(line["low"]) <= float(line["mean"]) <= float(line["high"])
    assert document["rows"]["alone"]["by prompt"]["oil"]["similarity"] < 0.1
    assert document["weights"] == {"a": "b"} and len(document["claims"]) == 7


@pytest.mark.parametrize("independent", [True, False])
@pytest.mark.parametrize("estimators", [True, False])
def test_the_plot_shows_every_row(tmp_path, estimators, independent):
    pytest.importorskip("matplotlib")
    from flexid.mini.study.plot import colour, plot

    made = study(estimators=estimators)
    for values in made.measured.values():
        if not independent:
            values["similarity"][:] = values["edit"][:] = np.nan
    plot(made, tmp_path / "p.png")
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.width > 1000
        pixels = np.asarray(picture.convert("RGB")).reshape(-1, 3)
    for row in made.rows:
        wanted = [int(colour(row)[k : k + 2], 16) for k in (1, 3, 5)]
        assert (np.abs(pixels - np.array(wanted)).max(1) <= 2).sum() > 150, row.title


def test_titles_of_rows_in_one_place_hide_neither_each_other_nor_the_point():
    pytest.importorskip("matplotlib")
    from flexid.mini.study.plot import label
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Sheet

    sheet = Sheet(figsize=(8, 6))
    axes = sheet.add_subplot()
    axes.set(xlim=(0, 100), ylim=(0, 1))
    renderer = FigureCanvasAgg(sheet).get_renderer()
    same = Figure(0.5, 0.5, 0.5, 9)
    crowd = [rows.rigid_row(1.0), rows.VFA_CAG, rows.WHOLE, rows.SIP_ONLY]
    label(axes, [(row, same, same) for row in crowd], renderer)
    boxes = [text.get_window_extent(renderer) for text in axes.texts]
    assert [text.get_text() for text in axes.texts] == [row.title for row in crowd]
    for one, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[:one])
        assert not box.contains(*axes.transData.transform((50, 0.5)))


# What is seen in a picture

ANGRY_LEFT = Prompt("a", "t", expression="angry", yaw=-30, style="oil")
SEEN = Seen(0.5, (0, 0, 9, 9), "angry", (-20.0, 0.0, 0.0), "oil")


def test_an_edit_is_obeyed_when_all_of_it_is():
    whole = {"expression": True, "pose": True, "style": True, "edit": True}
    assert hits(ANGRY_LEFT, SEEN) == whole
    for change, missed in [
        ({"expression": "happy"}, "expression"),
        ({"angles": (20.0, 0.0, 0.0)}, "pose"),
        ({"angles": (-14.0, 0.0, 0.0)}, "pose"),
        ({"style": "photo"}, "style"),
    ]:
        told = hits(ANGRY_LEFT, replace(SEEN, **change))
        assert told == whole | {missed: False, "edit": False}


def test_without_a_face_nothing_of_the_face_is_obeyed():
    told = hits(ANGRY_LEFT, Seen(style="oil"))
    assert told == {"expression": False, "pose": False, "style": True, "edit": False}
    assert pose_error(ANGRY_LEFT, Seen(style="oil")) is None


def test_without_estimators_nothing_is_told():
    told = hits(ANGRY_LEFT, Seen(0.5, (0, 0, 9, 9)))
    assert set(told.values()) == {None}


def test_what_is_not_asked_is_not_judged():
    told = hits(Prompt("a", "t", style="oil"), SEEN)
    assert told == {"expression": None, "pose": None, "style": True, "edit": True}


def test_a_tilt_may_go_either_way():
    prompt = Prompt("a", "t", tilt=18)
    for roll, hit, error in ((15.0, True, 3.0), (-15.0, True, 3.0), (4.0, False, 14.0)):
        seen = replace(SEEN, angles=(0.0, 0.0, roll))
        assert hits(prompt, seen)["pose"] is hit
        assert pose_error(prompt, seen) == pytest.approx(error)


def test_disruption_looks_outside_of_both_faces():
    plain = np.full((100, 100, 3), 100, np.uint8)
    changed = plain.copy()
    changed[30:50, 30:50] = 255
    there = Seen(box=(32, 32, 48, 48))
    nowhere = Seen()
    assert disruption(changed, plain, [nowhere, there]) == pytest.approx(0, abs=1e-6)
    share = 400 * 155 / 255 / 10_000
    assert disruption(changed, plain, [nowhere, nowhere]) == pytest.approx(share, rel=1e-3)
    assert disruption(plain, plain, [Seen(box=(0, 0, 100, 100))]) is None


# The cache


class Painter:
    """Paints every picture in one colour that row, person and prompt decide; notes what it did."""

    def __init__(self, stop_at=None):
        self.painted, self.sitters, self.stop_at = [], [], stop_at

    def sitter(self, photo, sip):
        self.sitters.append((int(photo[0, 0, 0]), sip))
        return SimpleNamespace(face=SimpleNamespace(embedding=torch.ones(512)))

    def paint(self, row, sitter, prompts, seeds):
        if self.stop_at is not None and len(self.painted) >= self.stop_at:
            raise KeyboardInterrupt
        pairs = zip(prompts, seeds, strict=True)
        self.painted += [(row.key, prompt.id, seed) for prompt, seed in pairs]
        return np.stack([np.full((8, 8, 3), seed % 251, np.uint8) for seed in seeds])


class Judge:
    def __init__(self, style="oil"):
        self.looks, self.remembered, self.style = 0, [], style

    def remember(self, photo):
        self.remembered.append(int(photo[0, 0, 0]))
        return torch.ones(512)

    def look(self, rgb, wanted):
        self.looks += 1
        return Seen(int(rgb[0, 0, 0]) / 255, None, None, None, self.style)


def evaluation(folder, painter, judge, files=None, told=("vfa-1", "sip"), people=3, **changes):
    chosen = tuple(rows.row_of(key) for key in told)
    made, prompts = rows.settings(**changes), all_prompts()[:2]
    digests = {"pulid/flexid_mini_pulid.safetensors": "1"} if files is None else files
    plan = report.Study(chosen, prompts, tuple(range(people)), "tune", made, {}, digests)

    def photo(person):
        return np.full((8, 8, 3), person, np.uint8)

    store = Store(folder, digests, made, {})
    judges = judge if isinstance(judge, dict) else {"training": judge}
    return Evaluation(plan, painter, judges, store, photo, lambda _: None)


def test_an_interrupted_evaluation_goes_on_and_ends_the_same(tmp_path):
    whole, judge = Painter(), Judge()
    expected = evaluation(tmp_path / "whole", whole, judge).run()
    assert len(whole.painted) == 3 * 3 * 2 == judge.looks
    first = Painter(stop_at=8)
    with pytest.raises(KeyboardInterrupt):
        evaluation(tmp_path / "broken", first, Judge()).run()
    again = evaluation(tmp_path / "broken", Painter(), Judge())
    assert again.to_paint() == 18 - len(first.painted)
    found = again.run()
    assert sorted(first.painted + again.painter.painted) == sorted(whole.painted)
    for key, values in expected.measured.items():
        for name, one in values.items():
            assert np.array_equal(one, found.measured[key][name], equal_nan=True), (key, name)


def test_a_second_run_paints_and_looks_at_nothing(tmp_path):
    evaluation(tmp_path, Painter(), Judge()).run()
    painter, judge = Painter(), Judge()
    evaluation(tmp_path, painter, judge).run()
    assert (painter.painted, painter.sitters, judge.looks) == ([], [], 0)
    assert judge.remembered == []
    evaluation(tmp_path, painter, judge, people=4).run()
    assert {seed for _, _, seed in painter.painted} == {
        noise_seed(3, prompt) for prompt in all_prompts()[:2]
    }


def test_other_weights_repaint_the_rows_that_read_them(tmp_path):
    evaluation(tmp_path, Painter(), Judge()).run()
    painter = Painter()
    evaluation(
        tmp_path, painter, Judge(), {"pulid/flexid_mini_pulid.safetensors": "2"}, told=("vfa-1",)
    ).run()
    assert {row for row, _, _ in painter.painted} == {"vfa-1"}
    painter = Painter()
    evaluation(tmp_path, painter, Judge(), steps=3).run()
    assert {row for row, _, _ in painter.painted} == {"alone", "vfa-1", "sip"}


def test_new_estimators_look_again_and_repaint_nothing(tmp_path):
    evaluation(tmp_path, Painter(), Judge(), {}).run()
    painter, judge = Painter(), Judge()
    digests = {"flexid/flexid_mini_estimators.safetensors": "3"}
    evaluation(tmp_path, painter, judge, digests).run()
    assert painter.painted == [] and judge.looks == 18


def test_a_new_judge_looks_and_the_other_one_does_not(tmp_path):
    """Nor does it change the name under which pictures are kept."""
    first = evaluation(tmp_path, Painter(), Judge())
    first.run()
    painter, known, new = Painter(), Judge(), Judge("comic")
    digests = {world.PULID: "1", world.JUDGE_RECOGNISER: "4", world.JUDGE_ESTIMATORS: "5"}
    second = evaluation(tmp_path, painter, {"independent": new, "training": known}, digests)
    study = second.run()
    assert painter.painted == [] and (known.looks, new.looks) == (0, 18)
    assert new.remembered == [0, 1, 2]
    for row in second.rows:
        assert first.store.painter(row) == second.store.painter(row)
    prompt = replace(all_prompts()[0], style="comic")
    assert measure(prompt, Seen(style="comic"))["style"] is True
    assert set(measure(prompt, None).values()) == {None}
    one = study.measured["vfa-1"]
    assert np.array_equal(one["similarity"], one["trained_similarity"])


def test_an_absent_judge_says_nothing(tmp_path):
    measured = evaluation(tmp_path, Painter(), Judge()).run().measured["vfa-1"]
    assert np.isnan(measured["similarity"]).all() and np.isnan(measured["edit"]).all()
    assert not np.isnan(measured["trained_similarity"]).any()


def test_all_rows_of_a_person_start_from_the_same_noise(tmp_path):
    painter = Painter()
    evaluation(tmp_path, painter, Judge()).run()
    seeds = {}
    for row, prompt, seed in painter.painted:
        seeds.setdefault(row, []).append((prompt, seed))
    assert seeds["alone"] == seeds["vfa-1"] == seeds["sip"]
    assert len({seed for _, seed in seeds["alone"]}) == 6


def test_the_time_left_is_told():
    told = []
    clock = Clock(10, told.append)
    clock.count_painted(5, "a row")
    assert "5 of 10 pictures" in told[0] and told[0].endswith("left")
    assert [duration(s) for s in (45, 700, 3900)] == ["45 s", "12 min", "1 h 05 min"]


# The contact sheet


def test_the_sheet_shows_every_picture_where_it_belongs():
    colours = [(200, 30, 30), (30, 200, 30), (30, 30, 200), (200, 200, 30)]
    cells = [
        sheet.Cell(Image.new("RGB", (9, 9), colour), 0.5, {"style": hit})
        for colour, hit in zip(colours, (True, False, None, True), strict=True)
    ]
    lines = [sheet.Line("a pencil sketch of a person", "style: sketch", cells)] * 3
    grey = Image.new("RGB", (9, 9), (90, 90, 90))
    made = sheet.compose("title", "subtitle", ["a", "b", "c", "d"], lines, grey, "foot " * 60)
    pixels = np.asarray(made)
    unit = sheet.SCALE
    for number in range(3):
        top = sheet.HEAD + number * (sheet.CELL + sheet.UNDER + sheet.GAP)
        for column, colour in enumerate([(90, 90, 90), *colours]):
            left = sheet.MARGIN + sheet.LABEL + sheet.GAP + column * (sheet.CELL + sheet.GAP)
            middle = pixels[(top + sheet.CELL // 2) * unit, (left + sheet.CELL // 2) * unit]
            assert tuple(middle) == colour, (number, column)
    good = [int(sheet.GOOD[k : k + 2], 16) for k in (1, 3, 5)]
    assert (pixels.reshape(-1, 3) == good).all(1).sum() > 100
    assert made.width <= 2600 and made.height <= 2200
