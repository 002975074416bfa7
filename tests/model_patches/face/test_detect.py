"""From photos to Faces: batches, odd photos, what is missing, and the overlay."""

import numpy as np
import people
import pytest
import torch
from flexid.model_patches.face.align import arcface_crop, ffhq_crop
from flexid.model_patches.face.analyser import load_analyser
from flexid.model_patches.face.choose import IN_BOXES, IN_MASK, LEFT_TO_RIGHT, FaceChoice
from flexid.model_patches.face.detect import _line, detect_everybody, detect_faces
from flexid.model_patches.face.overlay import (
    CHOSEN,
    DIM,
    Mark,
    chosen_boxes,
    chosen_mask,
    draw_marks,
    draw_overlay,
)
from flexid.model_patches.face.pixels import photo_hash, to_uint8
from tiny_faces import FixedDetector, analyser, astronaut, noise

pytestmark = pytest.mark.pure

BOXES = [(100, 20, 160, 80), (10, 30, 50, 70), (170, 90, 190, 110)]
TWO = analyser(FixedDetector({200: BOXES}))


class ByPhoto:
    """Answers with the next of several lists of boxes at each call."""

    name, tried = "by photo", "everything"

    def __init__(self, *answers):
        self.answers = list(answers)

    def find(self, rgb):
        return FixedDetector({rgb.shape[1]: self.answers.pop(0)}).find(rgb)


class Recorder:
    """A recogniser and parser that remember the crop they saw."""

    name = "recorder"

    def embed(self, crop):
        return torch.full((512,), float(crop.mean()))

    def labels(self, crop):
        return torch.from_numpy(crop[..., 0].copy())


@pytest.fixture(scope="module")
def bundled():
    return load_analyser(None, "bundled", ["auto"], None)


def test_all_crops_come_from_the_one_detection():
    photo = noise(200, 120)
    recorder = Recorder()
    found = detect_faces(
        analyser(FixedDetector({200: BOXES}), recorder, recorder), photo, FaceChoice()
    )
    (face,) = found.faces
    rgb = to_uint8(photo[0])
    points = face.points.numpy()
    assert face.box == BOXES[0]
    assert np.array_equal(face.ffhq_crop.numpy(), ffhq_crop(rgb, points))
    assert face.embedding[0] == pytest.approx(arcface_crop(rgb, points).mean(), rel=1e-4)
    assert torch.equal(face.labels, face.ffhq_crop[..., 0])
    assert face.photo_hash == photo_hash(rgb)
    assert (face.photo, face.detector, face.recogniser) == (0, "fixed", "recorder")
    assert face.ffhq_crop.dtype == torch.uint8


def test_without_recogniser_and_parser_the_fields_are_none():
    (face,) = detect_faces(TWO, noise(200, 120), FaceChoice()).faces
    assert face.embedding is None and face.labels is None and face.recogniser == ""


def test_the_choice_applies_to_each_photo_of_a_batch():
    detector = ByPhoto(BOXES, BOXES[1:2], [BOXES[2], BOXES[0]])
    found = detect_faces(analyser(detector), noise(200, 120, photos=3), FaceChoice(LEFT_TO_RIGHT))
    assert [face.photo for face in found.faces] == [0, 1, 2]
    assert [face.box for face in found.faces] == [BOXES[1], BOXES[1], BOXES[0]]
    assert len({face.photo_hash for face in found.faces}) == 3


def test_several_faces_of_one_photo_keep_the_asked_order():
    found = detect_faces(TWO, noise(200, 120), FaceChoice(LEFT_TO_RIGHT, "2, 0"))
    assert [face.box for face in found.faces] == [BOXES[2], BOXES[1]]
    assert detect_faces(TWO, noise(200, 120), FaceChoice(index="all")).faces[2].box == BOXES[2]


def test_core_boxes_and_masks_choose():
    box = {"x": 0, "y": 0, "width": 80, "height": 100}
    found = detect_faces(TWO, noise(200, 120), FaceChoice(IN_BOXES), boxes=[[box]])
    assert found.faces[0].box == BOXES[1]
    mask = torch.zeros(1, 12, 20)
    mask[:, 9:, 17:] = 1
    found = detect_faces(TWO, noise(200, 120), FaceChoice(IN_MASK), mask=mask)
    assert found.faces[0].box == BOXES[2]


def test_an_unused_empty_mask_does_not_matter():
    """Load Image always gives a mask; it may stay connected while another order is used."""
    assert detect_faces(TWO, noise(200, 120), FaceChoice(), mask=torch.zeros(1, 64, 64)).faces


def test_skip_photo_goes_on_and_the_report_says_so():
    detector = ByPhoto([], BOXES[:1], [])
    found = detect_faces(
        analyser(detector), noise(200, 120, photos=3), FaceChoice(), on_missing="skip photo"
    )
    assert [face.photo for face in found.faces] == [1]
    assert found.report.count("SKIPPED") == 2
    assert "Photo 3 (200x120): 0 found, 0 chosen; SKIPPED, no face was found" in found.report
    assert chosen_boxes(found)[0] == [] and chosen_mask(found)[0].sum() == 0


def test_the_report_names_faces_first_and_the_analyser_last():
    found = detect_faces(TWO, noise(200, 120, photos=2), FaceChoice(index="1,0"))
    lines = found.report.splitlines()
    assert lines[0].startswith("Photo 1 (200x120): ") and lines[3].startswith("Photo 2 ")
    assert [line.split(":")[0] for line in lines[1:3]] == ["  face 1", "  face 0"]
    assert [(face.photo, face.number) for face in found.faces] == [(0, 1), (0, 0), (1, 1), (1, 0)]
    assert found.report.endswith(TWO.description)


def test_angles_that_round_to_nothing_have_no_minus():
    face = people.face(angles=(-0.3, -0.0, 0.4))
    assert "yaw +0, pitch +0, roll +0 degrees" in _line(face)


def test_skip_photo_also_covers_a_face_that_cannot_be_chosen():
    detector = ByPhoto(BOXES, BOXES[:1])
    found = detect_faces(
        analyser(detector), noise(200, 120, photos=2), FaceChoice(index="1"), "skip photo"
    )
    assert [face.photo for face in found.faces] == [0]
    assert "only 1 can be chosen" in found.report


@pytest.mark.parametrize(
    ("channels", "dtype"), [(1, torch.float32), (3, torch.float16), (4, torch.bfloat16)]
)
def test_grey_alpha_and_half_photos_work(bundled, channels, dtype):
    photo = astronaut()
    if channels == 1:
        photo = photo.mean(-1, keepdim=True)
    if channels == 4:
        photo = torch.cat([photo, torch.ones_like(photo[..., :1])], -1)
    (face,) = detect_faces(bundled, photo.to(dtype), FaceChoice()).faces
    assert np.abs(np.array(face.box) - (172, 66, 274, 168)).max() < 8


def test_a_transparent_surrounding_becomes_white_not_hidden_colour(bundled):
    photo = torch.cat([astronaut(), torch.zeros(1, 512, 512, 1)], -1)
    photo[:, 40:200, 160:290, 3] = 1
    (face,) = detect_faces(bundled, photo, FaceChoice()).faces
    assert face.ffhq_crop[256, 2].tolist() == [255, 255, 255]


def test_a_view_that_is_not_contiguous_works(bundled):
    photo = astronaut().flip(2).transpose(1, 2).contiguous().transpose(1, 2)
    assert not photo.is_contiguous()
    (face,) = detect_faces(bundled, photo, FaceChoice()).faces
    assert face.box[0] == pytest.approx(512 - 274, abs=8)


def test_an_8k_photo_is_searched_small_and_cropped_at_full_size(bundled):
    large = torch.full((1, 6000, 8000, 3), 0.5, dtype=torch.float16)
    portrait = torch.from_numpy((to_uint8(astronaut()[0]) / 255).astype(np.float16))
    factor = 4
    portrait = portrait.repeat_interleave(factor, 0).repeat_interleave(factor, 1)
    large[0, 3000 : 3000 + 512 * factor, 5000 : 5000 + 512 * factor] = portrait
    found = detect_faces(bundled, large, FaceChoice())
    (face,) = found.faces
    expected = np.array([172, 66, 274, 168]) * factor + (5000, 3000, 5000, 3000)
    assert np.abs(np.array(face.box) - expected).max() < 8 * factor
    small = detect_faces(bundled, astronaut(), FaceChoice()).faces[0]
    apart = face.ffhq_crop.float() - small.ffhq_crop.float()
    assert apart.abs().mean() < 16  # the same face, cut at full size
    overlay = draw_overlay(large, found)
    assert overlay.shape == (1, 1152, 1536, 3)


def test_the_same_photo_gives_the_same_face(bundled):
    one, two = (detect_faces(bundled, astronaut(), FaceChoice()).faces[0] for _ in range(2))
    assert one.photo_hash == two.photo_hash and one.box == two.box
    assert torch.equal(one.ffhq_crop, two.ffhq_crop)


def test_overlay_colours_chosen_and_other_faces_and_leaves_the_photo():
    photo = torch.full((1, 120, 200, 3), 0.5)
    found = detect_faces(TWO, photo, FaceChoice(LEFT_TO_RIGHT, "1"))
    picture = (draw_overlay(photo, found)[0] * 255).round().to(torch.uint8)
    assert tuple(picture[80, 130].tolist()) == CHOSEN
    assert tuple(picture[70, 30].tolist()) == DIM
    assert picture[5, 5].tolist() == [128, 128, 128]
    assert photo.unique().tolist() == [0.5]


@pytest.mark.parametrize("width", [64, 640, 3000])
def test_badges_grow_with_the_picture_and_differ_by_number(width):
    box = (width * 0.3, width * 0.3, width * 0.6, width * 0.6)
    other = (width * 0.65, width * 0.3, width * 0.95, width * 0.6)
    photo = torch.full((1, width, width, 3), 0.5)
    detector = analyser(FixedDetector({width: [box, other]}))
    found = detect_faces(detector, photo, FaceChoice(LEFT_TO_RIGHT, "all"))
    picture = draw_overlay(photo, found)[0]
    side = picture.shape[0]
    badges = [
        picture[: int(side * 0.3), int(side * x) : int(side * (x + 0.2))] for x in (0.3, 0.65)
    ]
    green = [(badge - torch.tensor(CHOSEN) / 255).abs().amax(-1) < 0.05 for badge in badges]
    inked = [badge.amax(-1) < 0.1 for badge in badges]
    height = green[0].any(1).sum()
    assert height >= max(10, side // 28)
    assert all(mask.any() for mask in inked)  # the number itself
    assert not torch.equal(inked[0], inked[1])


def test_a_face_outside_of_the_boxes_has_no_number():
    photo = torch.full((1, 120, 200, 3), 0.5)
    box = {"x": 0, "y": 0, "width": 80, "height": 100}
    found = detect_faces(TWO, photo, FaceChoice(IN_BOXES), boxes=box)
    picture = draw_overlay(photo, found)[0]
    assert (picture[21:60, 101:159].amin(-1) > 0.1).all()  # no ink at the unchosen face


def test_chosen_boxes_and_mask_fit_core_nodes():
    found = detect_faces(TWO, noise(200, 120), FaceChoice(index="0,1"))
    (frame,) = chosen_boxes(found)
    assert frame[0] == {
        "x": 100,
        "y": 20,
        "width": 60,
        "height": 60,
        "label": "face 0",
        "score": 0.9,
    }
    mask = chosen_mask(found)
    assert mask.shape == (1, 120, 200)
    assert mask[0, 20:80, 100:160].min() == 1 and mask[0, 30:70, 10:50].min() == 1
    assert mask.sum() == 60 * 60 + 40 * 40
    again = detect_faces(TWO, noise(200, 120), FaceChoice(IN_BOXES), boxes=chosen_boxes(found))
    assert again.faces[0].box == found.faces[0].box


def nan_photo():
    photo = noise(200, 120, photos=2)
    photo[1, 7, 7, 0] = float("nan")
    detect_faces(TWO, photo, FaceChoice())


def nobody(**more):
    detect_faces(
        load_analyser(None, "bundled", ["auto"], None), noise(60, 40), FaceChoice(), **more
    )


BAD = [
    (nan_photo, ["photo 2", "200x120", "NaN"]),
    (nobody, ["photo 1", "60x40", "no face", "lbp cascade", "512, then 1280", "antelopev2"]),
    (lambda: nobody(on_missing="skip photo"), ["photo 1", "no face", "lbp cascade"]),
    (lambda: nobody(on_missing="ignore"), ["'ignore'", "skip photo"]),
    (
        lambda: detect_faces(TWO, noise(3, 2000), FaceChoice()),
        ["photo 1 (3x2000 pixels)", "short side is 3 px", "at least 16"],
    ),
    (
        lambda: detect_faces(TWO, noise(20, 160), FaceChoice()),
        ["photo 1 (20x160 pixels)", "strip", "by fixed, which tried nothing"],
    ),
    (
        lambda: detect_faces(TWO, noise(200, 120), FaceChoice(index="3")),
        ["photo 1", "face 3", "only 3", "10, 30, 50, 70", "overlay"],
    ),
    (
        lambda: detect_faces(
            TWO,
            noise(200, 120),
            FaceChoice(IN_BOXES),
            boxes={"x": 0, "y": 0, "width": 9, "height": 9},
        ),
        ["no detected face lies in the given boxes", "100, 20, 160, 80"],
    ),
    (
        lambda: detect_faces(
            TWO, noise(200, 120), FaceChoice(IN_MASK), mask=torch.eye(120, 200)[None]
        ),
        ["no detected face lies in the given mask"],
    ),
    (
        lambda: detect_faces(
            TWO, noise(200, 120), FaceChoice(IN_MASK), mask=torch.zeros(1, 64, 64)
        ),
        ["(1, 64, 64)", "all 0", "Load Image"],
    ),
    (
        lambda: detect_faces(TWO, noise(200, 120), FaceChoice(IN_BOXES)),
        ["connect the input 'boxes'"],
    ),
]


@pytest.mark.parametrize(("call", "facts"), BAD)
def test_what_cannot_work_says_why_and_what_to_do(call, facts):
    with pytest.raises(ValueError) as caught:
        call()
    for fact in facts:
        assert fact in str(caught.value)


def test_everybody_is_found_from_left_to_right_and_nobody_is_no_error():
    photos = noise(200, 120, photos=3)
    found = detect_everybody(analyser(ByPhoto(BOXES, [], BOXES[:1])), photos)
    assert [(face.photo, face.box[0]) for face in found.faces] == [
        (0, 10), (0, 100), (0, 170), (2, 100),
    ]  # fmt: skip
    assert [len(photo.detections) for photo in found.photos] == [3, 0, 1]
    assert detect_everybody(analyser(ByPhoto([])), noise(200, 120)).faces == ()
    with pytest.raises(ValueError, match="NaN or infinite"):
        detect_everybody(TWO, noise(200, 120) * float("nan"))


def test_marks_are_drawn_where_they_are_in_pixels_of_the_photo():
    image = torch.zeros(1000, 3072, 3)
    mark = Mark((1000.0, 400.0, 2000.0, 800.0), "Ann 0.5", (10, 200, 30))
    drawn = draw_marks(image, [mark])
    assert drawn.shape == (500, 1536, 3)
    green = (drawn[:, :, 1] * 255).round() == 200
    rows, columns = green.any(1).nonzero().flatten(), green.any(0).nonzero().flatten()
    assert (columns[0], columns[-1], rows[-1]) == (500, 1000, 400)
    assert rows[0] < 200  # the label stands above the box
    unnamed = draw_marks(image, [Mark(mark.box, "", mark.colour, thin=True)])
    assert (unnamed > 0).sum() < (drawn > 0).sum()
    assert torch.equal(draw_marks(image, []), image[::2, ::2])
