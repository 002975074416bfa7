"""Who is where in a finished picture: in place, swapped, missing, drawn twice, unknown."""

import csv
import io
from dataclasses import replace

import pytest
import torch
import who_world
from flexid.model_patches.identity.who import COLOURS, COLUMNS, Wanted, look_who
from who_world import LEFT, RIGHT, analyser, person, picture

pytestmark = pytest.mark.comfy

HALVES = torch.zeros(2, 1, 4, 4)
HALVES[0, :, :, :2], HALVES[1, :, :, 2:] = 1, 1


def wanted(regions=True, ann="red", bob="blue"):
    masks = list(HALVES) if regions else [None, None]
    return [
        Wanted(name, person(colour), mask)
        for name, colour, mask in (("Ann", ann, masks[0]), ("Bob", bob, masks[1]))
    ]


def look(image, *boxes, people=None):
    return look_who(analyser(*(boxes or (LEFT, RIGHT))), image, people or wanted())


def rows(done):
    return list(csv.DictReader(io.StringIO(done.table)))


def test_everybody_is_in_place():
    done = look(picture(red=LEFT, blue=RIGHT))
    assert done.all_well
    assert done.report == (
        "Picture 1: 2 of 2 people found, 2 face(s)\n"
        "  Ann: in place, likeness 1.00\n"
        "  Bob: in place, likeness 1.00\n"
        "Likeness: cosine of the recogniser's embeddings; the person from 0.2."
    )
    first, second = rows(done)
    assert tuple(first) == COLUMNS and (first["person"], second["person"]) == ("Ann", "Bob")
    assert [first[key] for key in ("x0", "y0", "x1", "y1")] == ["20", "20", "100", "120"]
    assert float(first["likeness"]) == pytest.approx(1, abs=1e-3)
    assert first["share in region"] == "1.00"


def test_swapped_people_are_named():
    done = look(picture(blue=LEFT, red=RIGHT))
    assert not done.all_well
    assert "Ann: in the place of Bob, likeness 1.00" in done.report
    assert "Bob: in the place of Ann, likeness 1.00" in done.report


def test_a_missing_person_is_named_and_who_is_there_instead():
    done = look(picture(green=LEFT, blue=RIGHT))
    assert not done.all_well and "1 of 2 people found, 2 face(s)" in done.report
    assert "Ann: missing; their region shows somebody else, like them by 0.00" in done.report
    assert "one more face: nobody of these, most like " in done.report
    assert rows(done)[0]["likeness"] == "" and rows(done)[0]["verdict"] == "missing"
    alone = look(picture(blue=LEFT), LEFT)
    assert "Ann: missing; their region shows Bob, like them by 0.00" in alone.report


def test_a_person_drawn_twice_is_said():
    image = picture(red=LEFT) + picture(red=RIGHT)
    done = look(image, people=wanted()[:1])
    assert "1 of 1 people found, 2 face(s)" in done.report
    assert "one more face: Ann once more, likeness 1.00" in done.report


def test_a_face_outside_of_every_region_and_people_without_one():
    top = torch.zeros(1, 10, 10)
    top[:, :1] = 1
    done = look(picture(red=LEFT), LEFT, people=[Wanted("", person("red"), top)])
    assert "person 1: outside of their region, likeness 1.00" in done.report
    anywhere = look(picture(blue=LEFT, red=RIGHT), people=wanted(regions=False))
    assert anywhere.all_well and "Ann: found, likeness 1.00" in anywhere.report
    assert rows(anywhere)[0]["share in region"] == ""


def test_each_picture_of_a_batch_has_its_own_lines():
    both = torch.cat([picture(red=LEFT, blue=RIGHT), picture(blue=LEFT, red=RIGHT)])
    done = look(both)
    assert [row["picture"] for row in rows(done)] == ["1", "1", "2", "2"]
    assert [row["verdict"] for row in rows(done)][:2] == ["in place"] * 2
    assert done.overlay.shape == (2, 200, 300, 3)
    turns = torch.cat([HALVES[0], HALVES[1]])  # a mask for each picture
    moved = look(both, people=[Wanted("Ann", person("red"), turns)])
    assert moved.all_well


def test_no_face_at_all_is_a_report_and_no_error():
    done = look_who(analyser(), picture(), wanted())
    assert "0 of 2 people found, 0 face(s)" in done.report
    assert "No face was found by fixed." in done.report and not done.all_well


def test_the_overlay_shows_faces_and_regions_in_each_ones_colour():
    done = look(picture(red=LEFT, blue=RIGHT))
    shown = (done.overlay[0] * 255).round().int()
    for box, colour in ((LEFT, COLOURS[0]), (RIGHT, COLOURS[1])):
        assert shown[box[3], (box[0] + box[2]) // 2].tolist() == list(colour)  # its lower edge
    assert shown[199, 75].tolist() == list(COLOURS[0])  # the region's
    plain = look(picture(red=LEFT), LEFT, people=wanted(regions=False)[1:])
    assert (plain.overlay[0, LEFT[3], 60] * 255).round().tolist() == [150, 150, 150]


def test_what_cannot_be_compared_is_refused():
    deaf = replace(analyser(LEFT), recogniser=None)
    with pytest.raises(ValueError, match="has 0 recognisers, expected 1"):
        look_who(deaf, picture(), wanted())
    blank = replace(person("red"), features={})
    with pytest.raises(ValueError, match="identity of Ann holds 0 .* colours set to corrected"):
        look(picture(), people=[Wanted("Ann", blank)])
    other = replace(person("red"), provenance={"recogniser": "another"})
    with pytest.raises(ValueError, match="with the recogniser another, the face analyser has colo"):
        look(picture(), people=[Wanted("Ann", other)])


def test_names_that_the_overlay_cannot_draw_stay_in_the_report():
    people = [Wanted("安, 妮", person("red"), HALVES[0])]
    done = look(picture(red=LEFT), LEFT, people=people)
    assert "安, 妮: in place" in done.report and rows(done)[0]["person"] == "安, 妮"
    assert who_world.SIZE == (done.overlay.shape[2], done.overlay.shape[1])
