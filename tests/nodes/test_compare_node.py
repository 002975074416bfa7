"""Compare Identity as a node: references, landmarker, single numbers, refusals, interruption."""

import inspect
import math

import comfy.model_management
import compare_world
import pytest
import torch
from compare_world import BLUE, GREEN, RED, analyser, identity, picture
from flexid.nodes.compare import NUMBERS, FlexIDCompareIdentity

pytestmark = pytest.mark.comfy


def run(images, **options):
    done = FlexIDCompareIdentity.execute(analyser(), images, **options)
    chart, text, table, *numbers = done.result
    assert chart.shape[0] == 1 and done.ui["text"] == (text,) and done.ui["images"]
    return text, table, dict(zip(NUMBERS, numbers, strict=True))


def test_a_photo_and_every_optional_input():
    pytest.importorskip("comfy_extras.mediapipe.face_geometry")  # of newer ComfyUIs
    images = torch.cat([picture(RED, yaw=30), picture(RED, yaw=30, mouth=0.6)])
    plain = torch.cat([picture(GREEN, yaw=30)] * 2)
    text, table, numbers = run(
        images,
        reference=picture(RED),
        plain=plain,
        other_photo=picture(GREEN),
        landmarker=compare_world.Landmarker(),
    )
    assert (
        text.count("left out: ") == 1
        and "left out: prompt alignment" in text
        and table.count("\n") == 3
    )
    assert numbers["likeness"] == pytest.approx(1, abs=0.01)
    assert numbers["gain"] == pytest.approx(1, abs=0.01)
    assert numbers["detection_rate"] == 1
    assert numbers["expression_change"] == pytest.approx(0.1, abs=0.01)
    assert numbers["copy_paste"] == pytest.approx(1, abs=0.02)
    assert math.isnan(numbers.pop("prompt_alignment"))
    assert all(isinstance(one, float) and math.isfinite(one) for one in numbers.values())


def test_what_needs_an_absent_input_is_nan_and_never_0():
    text, _, numbers = run(picture(RED), reference=picture(RED))
    left = {"gain", "landmark_change", "expression_change", "change_outside", "copy_paste"}
    left.add("prompt_alignment")
    assert {name for name, value in numbers.items() if math.isnan(value)} == left
    assert text.count("left out: ") == 4


def test_compat_leaves_failures_out_and_reads_the_detector_s_points():
    images = torch.cat([picture(RED, yaw=30), picture(None)])
    *_, corrected = run(images, reference=picture(RED))
    text, _, compat = run(images, reference=picture(RED), mode="compat")
    assert corrected["likeness"] == pytest.approx(0.5, abs=0.01)
    assert compat["likeness"] == pytest.approx(1, abs=0.01) and "compat: pictures" in text
    assert math.isnan(corrected["landmark_change"]) and compat["landmark_change"] == 0


def test_a_prompt_without_clip_is_refused():
    with pytest.raises(ValueError, match="1 of the 3 inputs for prompt alignment"):
        run(picture(RED), reference=picture(RED), prompt="a man laughs")


def test_identities_instead_of_a_photo():
    people = {"identity0": identity(RED), "identity1": identity(BLUE)}
    text, table, numbers = run(picture(BLUE, second=RED), identities=people)
    assert numbers["likeness"] == pytest.approx(1, abs=0.01)
    assert "person 2,2,1" in table and "1 picture, 2 people: found 2 of 2 times" in text


def test_an_identity_and_another_photo_give_copy_paste():
    one = {"identity0": identity(RED)}
    *_, numbers = run(picture(GREEN), identities=one, other_photo=picture(GREEN))
    assert numbers["copy_paste"] == pytest.approx(-1, abs=0.02)


@pytest.mark.parametrize(
    ("options", "found"),
    [
        ({}, "0 reference photos and 0 identities"),
        (
            {"reference": picture(RED), "identities": {"identity0": identity(RED)}},
            "1 reference photos and 1 identities",
        ),
        (
            {
                "identities": {"identity0": identity(RED), "identity1": identity(BLUE)},
                "other_photo": picture(RED),
            },
            "other_photo shows one person, and 2 are compared",
        ),
        ({"reference": picture(RED), "plain": torch.zeros(2, 200, 300, 3)}, "plain has 2"),
        ({"reference": picture(None)}, "no face was found"),
    ],
)
def test_refusals_name_both_values(options, found):
    with pytest.raises(ValueError, match=found):
        run(picture(RED), **options)


def test_an_interrupt_stops_between_pictures():
    looker = analyser()
    comfy.model_management.interrupt_current_processing()
    try:
        with pytest.raises(comfy.model_management.InterruptProcessingException):
            FlexIDCompareIdentity.execute(looker, torch.cat([picture()] * 3), reference=picture())
    finally:
        comfy.model_management.interrupt_current_processing(False)
    assert looker.detector.pictures == 2, "the reference and one picture"


def test_core_still_has_the_landmarker_that_the_node_reads():
    """The contract of `FaceLandmarkerModel`, which the tests' stand-in imitates."""
    core = pytest.importorskip("comfy_extras.nodes_mediapipe")  # of newer ComfyUIs
    assert core.FaceDetectionType.io_type == "FACE_DETECTION_MODEL"
    names = list(inspect.signature(core.FaceLandmarkerModel.detect_batch).parameters)
    assert names == ["self", "images", "num_faces", "score_thresh", "variant"]
    assert "self.canonical_data" in inspect.getsource(core.FaceLandmarkerModel.__init__)
