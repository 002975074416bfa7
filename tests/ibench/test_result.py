"""What the pictures of several rows say together: table, page, plot, published figures."""

import csv
import io
import json
import math
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import pytest
from flexid.ibench.anchors import read_anchors
from flexid.ibench.columns import COLUMNS
from flexid.ibench.measure import Measured
from flexid.ibench.plot import draw_plot, find_points, measure_freedom
from flexid.ibench.report import write_page
from flexid.ibench.rows import row_of
from flexid.ibench.table import Result, write_csv, write_json
from flexid.model_patches.evaluate.outcomes import NO_FACE_GENERATED, failed, valid

pytestmark = pytest.mark.comfy


def measured(row, person, prompt, likeness, pose=None, plain_pose=None, align=None):
    values = {"likeness": failed(NO_FACE_GENERATED) if likeness is None else valid(likeness)}
    for name, value in (("pose", pose), ("plain_pose", plain_pose), ("prompt", align)):
        if value is not None:
            values[name] = valid(value)
    plain = None if row == "alone" else Path("/out/pictures/plain.png")
    picture = Path(f"/out/pictures/{row}{person}{prompt}.png")
    return Measured(row, person, prompt, ("long",), (), picture, plain, values, 1)


def result(align=(None, None), mode="corrected", **changes):
    """Two people, two prompts; of 李 one picture has no face."""
    rows = row_of("alone"), row_of("vfa-1")
    every = (
        measured("alone", "Zoë", "p1", 0.1, 20.0, align=align[0]),
        measured("alone", "Zoë", "p2", 0.1, 20.0, align=align[0]),
        measured("alone", "李", "p1", 0.0, 20.0, align=align[0]),
        measured("alone", "李", "p2", 0.0, 20.0, align=align[0]),
        measured("vfa-1", "Zoë", "p1", 0.8, 5.0, 20.0, align=align[1]),
        measured("vfa-1", "Zoë", "p2", 0.6, 5.0, 20.0, align=align[1]),
        measured("vfa-1", "李", "p1", 0.3, 15.0, 20.0, align=align[1]),
        measured("vfa-1", "李", "p2", None, align=align[1]),
    )
    base = {"source": "data", "rows": rows, "measured": every, "settings": {}, "files": {}}
    return Result(**base, mode=mode, judges={"pack/a.onnx": "1"}, **changes)


def column(key):
    return next(one for one in COLUMNS if one.key == key)


def test_means_over_people_with_failures_as_0_and_flat_means_in_compat():
    likeness = column("likeness")
    assert result().shown("vfa-1", likeness).mean == pytest.approx((0.7 + 0.15) / 2)
    assert result(mode="compat").shown("vfa-1", likeness).mean == pytest.approx(1.7 / 3)
    pose = result().shown("vfa-1", column("pose"))
    assert pose.mean == pytest.approx((5 + 15) / 2) and pose.count == 3
    assert result().shown("vfa-1", column("copy_paste")) is None, "left out, not 0"
    gained = result().difference("vfa-1", "alone", "likeness")
    assert gained.mean == pytest.approx((0.6 + 0.3) / 2) and gained.count == 3


def test_one_prompt_with_two_seeds_is_two_pairs(tmp_path):
    """Differences are of the same noise, and the page shows both pictures."""
    every = [
        replace(measured(row, "Zoë", "p", value), seed=seed, picture=Path(f"/out/{row}{seed}.png"))
        for row, values in (("alone", (0.1, 0.3)), ("vfa-1", (0.5, 0.4)))
        for seed, value in enumerate(values)
    ]
    both = replace(result(), measured=tuple(every))
    gained = both.difference("vfa-1", "alone", "likeness")
    assert gained.mean == pytest.approx((0.4 + 0.1) / 2) and gained.count == 2
    page = write_page(both, tmp_path, {})
    assert all(f"vfa-1{seed}.png" in page for seed in (0, 1))


def ranked(mode="corrected", kid=None):
    """Three rows with a person: two are equally like, one paints what the prompt says."""
    keys = ("alone", "vfa-1", "vfa-0.75", "vfa-0.5")
    figures = {
        "alone": (0.0, 0.9),
        "vfa-1": (0.8, 0.2),
        "vfa-0.75": (0.8, 0.1),
        "vfa-0.5": (0.3, 0.4),
    }
    every = tuple(
        measured(key, "Zoë", "p1", figures[key][0], align=figures[key][1]) for key in keys
    )
    rows = tuple(map(row_of, keys))
    sets = {key: {"kid": value} for key, value in zip(keys, kid, strict=True)} if kid else {}
    return replace(result(mode=mode), rows=rows, measured=every, sets=sets)


def test_the_mean_rank_is_over_columns_that_all_rows_have(tmp_path):
    """By hand: likeness ranks 1.5, 1.5, 3 (or 2, 1, 3 in the order of the rows); the prompt ranks
    2, 3, 1; of KID less is better: 3, 1, 2. The prompt alone is not ranked."""
    rank = column("mean_rank")

    def shown(result):
        return [
            result.shown(row.key, rank) and result.shown(row.key, rank).mean for row in result.rows
        ]

    assert shown(ranked()) == [None, 1.75, 2.25, 2.0]
    assert shown(ranked("compat")) == [None, 2.0, 2.0, 2.0]
    whole = ranked(kid=(1.0, 9.0, 3.0, 5.0))
    assert shown(whole) == [None, *(pytest.approx(one / 3) for one in (6.5, 5.5, 6.0))]
    holed = ranked(kid=(1.0, math.nan, 3.0, 5.0))
    assert shown(holed) == [None, 1.75, 2.25, 2.0], "a column that a row lacks ranks nobody"
    told = json.loads(write_json(whole))
    assert told["ranked"] == ["likeness", "prompt", "kid"]
    assert [row["mean_rank"] for row in told["rows"]][1] == pytest.approx(6.5 / 3)
    page = write_page(whole, tmp_path, {})
    assert "over Likeness, Prompt (CLIP), KID × 1000." in page and ">Mean rank<" in page


def test_two_rows_have_no_rank(tmp_path):
    assert result().mean_ranks == {} and column("mean_rank") not in result().columns()
    assert json.loads(write_json(result()))["ranked"] == []
    assert "Mean rank" not in write_page(result(), tmp_path, {})


def test_csv_has_a_line_for_each_picture_and_says_what_failed():
    lines = list(csv.DictReader(io.StringIO(write_csv(result()))))
    assert len(lines) == 8
    last = lines[-1]
    assert (last["row"], last["person"], last["likeness"]) == ("vfa-1", "李", "")
    assert last["status"] == "likeness: no_face_gen" and lines[4]["likeness"] == "0.8"


def test_json_is_finite_and_whole():
    found = json.loads(
        write_json(result(left_out={"flexip": "lacks a file"}, anchors=read_anchors())),
        parse_constant=lambda name: pytest.fail(f"{name} is no JSON"),
    )
    alone, rigid = found["rows"]
    assert rigid["measures"]["likeness"]["failures"] == {"no_face_gen": 1}
    assert rigid["minus alone"]["likeness"]["mean"] == pytest.approx(0.45)
    assert "minus alone" in rigid and alone["minus alone"] == {}
    assert rigid["groups"]["long"]["likeness"]["total"] == 4
    assert found["left_out"] and len(found["published"]) == 6


def test_the_page_shows_failures_absences_and_published_figures(tmp_path):
    text = write_page(
        result(left_out={"flexip": "lacks <a> file"}, anchors=read_anchors()), tmp_path, {}
    )
    assert "flexip: lacks &lt;a&gt; file" in text and "<a> file" not in text
    assert "face found in 3 of 4" in text and text.count('class="failed"') == 1
    assert "published, FlexID" in text and "0.6707" in text
    assert "李" in text and 'charset="utf-8"' in text
    for name in ("DynamicID, Table 2", "FlexIP, Table 1", "EditIDv2, Table 1"):
        assert name in text
    assert "nan" not in re.sub(r"[a-z]nan|nan[a-z]", "", text.lower())


def test_freedom_is_a_share_of_the_plain_model_s_own_changes():
    alone, rigid = result().rows
    assert measure_freedom(result(), rigid).mean == pytest.approx(100 * (25 / 3) / 20)
    assert measure_freedom(result(), alone).mean == 100
    assert measure_freedom(result(), row_of("flexid")) is None, "nothing was painted"


def test_published_points_stand_in_the_plot_where_the_axes_are_theirs():
    points, across = find_points(result(align=(0.26, 0.24), anchors=read_anchors()))
    assert "prompt obeyed" in across
    assert [one.title for one in points if not one.published] == ["prompt alone", "rigid VFA 1"]
    theirs = {one.title: (one.x.mean, one.y.mean) for one in points if one.published}
    assert theirs["FlexID, FlexID"] == (0.26055799, 0.6707494)
    assert theirs["EditIDv2, EditIDv2"] == (0.253, 0.659) and len(theirs) == 12


def test_the_plot_is_drawn_and_needs_two_points():
    drawing = ET.fromstring(draw_plot(result(align=(0.26, 0.24), anchors=read_anchors())))
    texts = ["".join(one.itertext()) for one in drawing.iter("{http://www.w3.org/2000/svg}text")]
    assert "rigid VFA 1" in texts and "PuLID (Flux), EditIDv2" in texts
    assert "freedom" in draw_plot(result())
    assert draw_plot(replace(result(), rows=result().rows[:1])) is None, "one point is no plot"


def test_every_published_table_is_whole():
    anchors = read_anchors()
    assert {one.paper for one in anchors} == {"FlexID", "EditIDv2", "DynamicID", "FlexIP"}
    for one in anchors:
        for method, values in one.methods.items():
            assert len(values) == len(one.columns), method
            assert all(value is None or math.isfinite(value) for value in values)
    theirs = {name for one in anchors for name in one.columns}
    shared = {one.theirs for one in COLUMNS if one.theirs} - {"AntiFaceSim"}
    assert shared <= theirs
