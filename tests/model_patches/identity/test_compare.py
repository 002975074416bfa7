"""Finished pictures against a person: hand-computed figures, failures that count, refusals."""

import csv
import io
import math
import re

import compare_world
import pytest
import tiny_faces
import torch
from compare_world import BLUE, GREEN, HALF_RED, RED, analyser, identity, picture
from flexid.model_patches.evaluate.outcomes import NO_FACE_GENERATED
from flexid.model_patches.face.mesh import MeshFinder
from flexid.model_patches.identity import compare as core
from flexid.model_patches.identity import compare_report as report

pytestmark = pytest.mark.comfy


def batch(*pictures):
    return torch.cat(pictures)


def finder():
    geometry = pytest.importorskip("comfy_extras.mediapipe.face_geometry")  # of newer ComfyUIs
    return MeshFinder(compare_world.Landmarker(), geometry.transformation_matrix_from_detection)


def known(reference=None, meshes=None):
    return core.know_by_photos(analyser(), picture() if reference is None else reference, meshes)


def compare(images, people=None, **options):
    return core.compare_identity(analyser(), images, people or [known()], **options)


def values(found, measure):
    return [one.value for one in found.outcomes(measure)]


def lines(found):
    return list(csv.DictReader(io.StringIO(report.write_table(found))))


def test_likeness_of_the_person_a_stranger_and_somebody_between():
    found = compare(batch(picture(RED), picture(GREEN), picture(HALF_RED)))
    assert values(found, core.LIKENESS) == pytest.approx([1, 0, math.sqrt(0.5)], abs=0.01)
    assert report.strict_likeness(found) == pytest.approx(1.707 / 3, abs=0.01)
    assert report.detection_rate(found) == 1


def test_a_picture_without_a_face_counts_0_and_is_said():
    found = compare(batch(picture(RED), picture(None)))
    assert found.outcomes(core.LIKENESS)[1].reason == NO_FACE_GENERATED
    assert report.strict_likeness(found) == pytest.approx(0.5, abs=0.01)
    assert report.mean_of(found, core.LIKENESS) == pytest.approx(1, abs=0.01)
    assert report.detection_rate(found) == 0.5
    text = report.write_report(found)
    assert "found 1 of 2 times (50%)" in text
    assert "where 1 without the person count 0; 1 where found" in text
    assert [one["status"] for one in lines(found)] == ["found", "no face"]
    assert lines(found)[1]["likeness"] == "" and lines(found)[1]["pose"] == ""


def test_no_face_anywhere_is_0_likeness_and_no_other_figure():
    found = compare(batch(picture(None), picture(None)))
    numbers = report.numbers_of(found)
    assert numbers["likeness"] == 0 and numbers["detection_rate"] == 0
    others = numbers.keys() - {"likeness", "detection_rate"}
    assert all(math.isnan(numbers[name]) for name in others)
    assert "pose change (degrees) not measured, measured in 0 of 2" in report.write_report(found)
    assert report.draw_chart(found).std() > 0


def test_of_several_faces_the_one_like_the_person_counts():
    found = compare(picture(GREEN, second=RED))
    assert values(found, core.LIKENESS) == pytest.approx([1], abs=0.01)
    assert found.rows[0].faces == 2


def test_a_turned_head_is_a_pose_change_by_five_points_and_by_the_landmarker():
    images = batch(picture(yaw=0), picture(yaw=30))
    by_points = compare(images)
    assert values(by_points, core.POSE) == pytest.approx([0, 30], abs=0.3)
    assert lines(by_points)[1]["yaw_change"].startswith(("30", "29.9"))
    meshes = finder()
    by_mesh = compare(images, [known(meshes=meshes)], finder=meshes)
    assert values(by_mesh, core.POSE)[0] == pytest.approx(0, abs=0.01)
    assert values(by_mesh, core.POSE)[1] == pytest.approx(30, abs=7)
    # Its solver expects a near camera, and these faces are seen from far away.
    assert core.LANDMARKS not in by_points.rows[0].values
    assert values(by_mesh, core.LANDMARKS)[0] == pytest.approx(0, abs=1e-6)
    assert values(by_mesh, core.LANDMARKS)[1] > 0.05
    assert values(by_mesh, core.SHAPE) == pytest.approx([0, 0], abs=1e-5), "a turn is no shape"


def test_an_opened_mouth_is_an_expression_change():
    meshes = finder()
    found = compare(picture(mouth=0.6), [known(meshes=meshes)], finder=meshes)
    assert values(found, core.EXPRESSION) == pytest.approx([0.6 / 3], abs=0.01)
    assert values(found, core.POSE) == pytest.approx([0], abs=0.01)


def test_against_the_plain_pictures():
    plain = batch(picture(GREEN, yaw=20), picture(None, background=0.25))
    images = batch(picture(RED, yaw=10), picture(RED, background=0.5))
    found = compare(images, plain=plain)
    assert values(found, core.PLAIN_LIKENESS)[0] == pytest.approx(0, abs=0.01)
    assert values(found, core.GAIN) == pytest.approx([1, 1], abs=0.01), "no face counts 0"
    assert values(found, core.FROM_PLAIN)[0] == pytest.approx(10, abs=0.4)
    assert found.outcomes(core.FROM_PLAIN)[1].reason == NO_FACE_GENERATED
    outside = values(found, core.OUTSIDE)
    assert outside[0] < 0.001 and outside[1] == pytest.approx(64 / 255, abs=0.003)
    text = report.write_report(compare(images[:1], plain=plain[:1]))
    assert re.search("(49|50|51)% of the plain pictures' (19|20)", text), "10 degrees of 20"


def test_a_face_that_fills_the_picture_leaves_nothing_outside():
    """A failure of that one measure, not of the run."""
    image = torch.ones(1, 128, 100, 3)
    whole = tiny_faces.FixedDetector({100: [(0.0, 0.0, 100.0, 128.0)]})
    looker = tiny_faces.analyser(whole, analyser().recogniser)
    found = core.compare_identity(looker, image, [known()], image)
    assert found.rows[0].faces == 1
    assert found.outcomes(core.OUTSIDE)[0].reason == "undefined"


def test_copy_paste_is_1_at_the_reference_and_minus_1_at_the_other_photo():
    other = core.embed_photos(analyser(), picture(GREEN))
    person = core.add_other(known(), other)
    found = compare(batch(picture(RED), picture(GREEN), picture(HALF_RED)), [person])
    assert values(found, core.COPY_PASTE) == pytest.approx([1, -1, 0], abs=0.02)
    same = core.add_other(known(), core.embed_photos(analyser(), picture(RED)))
    undefined = compare(picture(RED), [same])
    assert undefined.outcomes(core.COPY_PASTE)[0].reason == "undefined"
    assert math.isnan(report.numbers_of(undefined)["copy_paste"])


def test_several_people_get_a_face_each():
    people = [
        core.know_by_identity(analyser(), name, identity(colour))
        for name, colour in (("Ann", RED), ("Bob", BLUE))
    ]
    found = compare(batch(picture(BLUE, second=RED), picture(RED, second=GREEN)), people)
    assert [row.person for row in found.rows] == ["Ann", "Bob"] * 2
    ok = [one.ok for one in found.outcomes(core.LIKENESS)]
    assert ok == [True, True, True, False], "a stranger is not Bob"
    assert report.strict_likeness(found) == pytest.approx(0.75, abs=0.01)
    text = report.write_report(found)
    assert "Bob: likeness 0.5, found in 1 of 2" in text and "95 % of people" in text
    assert "an identity knows no pose" in text
    assert math.isnan(report.numbers_of(found)["pose_change"])


def test_several_photos_are_one_person():
    person = known(batch(picture(RED, yaw=40), picture(GREEN)))
    found = compare(picture(HALF_RED, yaw=40), [person])
    assert values(found, core.LIKENESS) == pytest.approx([1], abs=0.01)
    assert values(found, core.POSE) == pytest.approx([0], abs=0.3), "of the first photo"


def test_what_is_left_out_is_named_and_empty():
    found = compare(picture())
    text = report.write_report(found)
    for what in ("landmarks, shape and expression", "plain pictures", "copy-paste"):
        assert f"{what} (connect " in text
    assert "mediapipe_face_fp32.safetensors" in text
    [line] = lines(found)
    assert tuple(line) == report.COLUMNS
    assert line["expression"] == line["outside"] == line["copy_paste"] == ""
    assert float(line["likeness"]) == pytest.approx(1, abs=0.01)


def test_unequal_numbers_and_sizes_are_refused_before_anything_is_looked_at():
    looker = analyser()
    person = known()
    with pytest.raises(ValueError, match="images have 2 pictures, plain has 1"):
        core.compare_identity(looker, batch(picture(), picture()), [person], picture())
    smaller = picture()[:, :100]
    with pytest.raises(ValueError, match=r"\(200, 300\) .* plain has \(100, 300\)"):
        core.compare_identity(looker, picture(), [person], smaller)
    broken = batch(picture(), picture(), picture())
    broken[1, 5, 5, 0] = math.nan
    for options in ({}, {"plain": broken}):
        images = batch(*[picture()] * 3) if options else broken
        with pytest.raises(ValueError, match=r"1 of 3 pictures .* NaN .*\(number 2\)"):
            core.compare_identity(looker, images, [person], **options)
    with pytest.raises(ValueError, match="the image batch is empty"):
        core.compare_identity(looker, torch.zeros(0, 64, 64, 3), [person])
    with pytest.raises(ValueError, match="0 people to compare with, expected 1"):
        core.compare_identity(looker, picture(), [])
    assert looker.detector.pictures == 0


def test_a_reference_without_a_face_or_recogniser_is_refused():
    with pytest.raises(ValueError, match="The reference cannot be used: photo 1 .*no face"):
        known(picture(None))
    with pytest.raises(ValueError, match="The other photo cannot be used: photo 1"):
        core.embed_photos(analyser(), picture(None))
    nobody = tiny_faces.analyser(compare_world.PaintedDetector())
    with pytest.raises(ValueError, match="has 0 recognisers, expected 1"):
        core.know_by_photos(nobody, picture())
    with pytest.raises(ValueError, match="holds 0 of the recogniser's embeddings"):
        core.know_by_identity(analyser(), "Ann", core.Identity())

    class Blind(compare_world.Landmarker):
        def _look(self, rgb):
            return []

    with pytest.raises(ValueError, match="The landmarker finds 0 faces"):
        known(meshes=MeshFinder(Blind(), finder().solve))


def test_a_face_that_the_landmarker_misses_is_a_failure_of_its_measures_alone():
    class Sleepy(compare_world.Landmarker):
        def _look(self, rgb):
            return [] if rgb[0, 0, 0] else super()._look(rgb)

    meshes = MeshFinder(Sleepy(), finder().solve)
    found = compare(batch(picture(), picture(yaw=30)), [known(meshes=meshes)], finder=meshes)
    assert [one.ok for one in found.outcomes(core.LIKENESS)] == [True, True]
    for measure in (core.POSE, core.EXPRESSION):
        assert [one.ok for one in found.outcomes(measure)] == [True, False]
    assert "expression change 0, measured in 1 of 2" in report.write_report(found)


def test_the_caller_hears_of_each_picture_and_may_stop():
    heard = []
    images = batch(picture(), picture())
    compare(images, plain=images, watch=lambda done, total: heard.append((done, total)))
    assert heard == [(1, 4), (2, 4), (3, 4), (4, 4)]

    class Stop(Exception):
        pass

    def stop(done, total):
        raise Stop

    looker = analyser()
    with pytest.raises(Stop):
        core.compare_identity(looker, images, [known()], watch=stop)
    assert looker.detector.pictures == 1
