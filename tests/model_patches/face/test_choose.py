"""Orders, indices, boxes and masks, over plain detections."""

import pytest
import torch
from flexid.model_patches.face.choose import (
    BOTTOM_TO_TOP,
    IN_BOXES,
    IN_MASK,
    LARGEST,
    LEFT_TO_RIGHT,
    NEAREST,
    ORDERS,
    PLAIN_ORDERS,
    RIGHT_TO_LEFT,
    SMALLEST,
    TOP_TO_BOTTOM,
    FaceChoice,
    NoSuchFace,
    boxes_per_photo,
    mask_per_photo,
    parse_index,
    pick,
    rank,
)
from tiny_faces import face_at

pytestmark = pytest.mark.pure

SIZE = (400, 200)
FACES = [
    face_at((200, 50, 240, 90)),
    face_at((10, 100, 70, 160)),
    face_at((330, 20, 350, 40)),
]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (LARGEST, [1, 0, 2]),
        (SMALLEST, [2, 0, 1]),
        (LEFT_TO_RIGHT, [1, 0, 2]),
        (RIGHT_TO_LEFT, [2, 0, 1]),
        (TOP_TO_BOTTOM, [2, 0, 1]),
        (BOTTOM_TO_TOP, [1, 0, 2]),
    ],
)
def test_orders(order, expected):
    assert rank(FACES, FaceChoice(order), SIZE) == expected


def test_plain_orders_are_those_that_need_only_the_faces():
    assert set(PLAIN_ORDERS) == set(ORDERS) - {NEAREST, IN_BOXES, IN_MASK}


def test_equal_faces_keep_the_detectors_order():
    twins = [face_at((0, 0, 10, 10)), face_at((50, 0, 60, 10))]
    assert rank(twins, FaceChoice(LARGEST), SIZE) == [0, 1]


def test_a_doubtful_hit_counts_less_than_a_sure_face():
    """A table's corner is large and hardly a face; among sure faces only the size decides."""
    corner, face = face_at((0, 0, 150, 150), 0.52), face_at((200, 0, 300, 100), 0.7)
    assert rank([corner, face], FaceChoice(LARGEST), SIZE) == [1, 0]
    sure, surer = face_at((0, 0, 110, 110), 0.62), face_at((200, 0, 300, 100), 0.95)
    assert rank([surer, sure], FaceChoice(LARGEST), SIZE) == [1, 0]
    lone = [face_at((0, 0, 10, 10), 0.5), face_at((0, 0, 30, 30), 0.5)]
    assert rank(lone, FaceChoice(LARGEST), SIZE) == [1, 0]


@pytest.mark.parametrize(
    ("point", "first"), [((0, 1), 1), ((0.9, 0.1), 2), ((0.5, 0.5), 0), ((0.55, 0.35), 0)]
)
def test_nearest_reads_the_point_as_fractions(point, first):
    assert rank(FACES, FaceChoice(NEAREST, point=point), SIZE)[0] == first


def test_boxes_rank_by_the_order_of_the_boxes():
    boxes = [(320, 10, 360, 60), (0, 90, 100, 200)]
    assert rank(FACES, FaceChoice(IN_BOXES), SIZE, boxes=boxes) == [2, 1]


def test_a_box_around_a_person_means_the_larger_face_and_takes_each_once():
    everything = (0, 0, 400, 200)
    boxes = [everything, everything]
    assert rank(FACES, FaceChoice(IN_BOXES), SIZE, boxes=boxes) == [1, 0]


def test_a_box_that_only_touches_a_face_does_not_choose_it():
    assert rank(FACES, FaceChoice(IN_BOXES), SIZE, boxes=[(0, 0, 20, 110)]) == []


@pytest.mark.parametrize("scale", [1, 0.25, 2])
def test_a_mask_of_any_size_chooses_what_it_covers(scale):
    mask = torch.zeros(int(200 * scale), int(400 * scale))
    mask[:, : int(100 * scale)] = 1
    assert rank(FACES, FaceChoice(IN_MASK), SIZE, mask=mask) == [1]


def test_masks_rank_by_how_much_they_cover():
    mask = torch.zeros(200, 400)
    mask[:, 320:] = 1
    mask[:, 200:220] = 1
    assert rank(FACES, FaceChoice(IN_MASK), SIZE, mask=mask) == [2, 0]


def test_a_one_pixel_mask_covers_everything():
    assert rank(FACES, FaceChoice(IN_MASK), SIZE, mask=torch.ones(1, 1)) == [0, 1, 2]


@pytest.mark.parametrize(
    ("index", "expected"), [("0", [7]), (" 2 , 0 ", [9, 7]), ("all", [7, 8, 9]), ("ALL", [7, 8, 9])]
)
def test_pick(index, expected):
    assert pick([7, 8, 9], FaceChoice(index=index)) == expected


def test_pick_beyond_the_last_says_how_many_there_are():
    with pytest.raises(NoSuchFace, match="face 3 is asked for.*only 3"):
        pick([7, 8, 9], FaceChoice(index="0,3"))


def test_core_boxes_come_as_one_dict_a_list_or_lists_per_photo():
    box = {"x": 1, "y": 2, "width": 3, "height": 4, "score": 0.5}
    corners = (1.0, 2.0, 4.0, 6.0)
    assert boxes_per_photo(box, 2) == [[corners], [corners]]
    assert boxes_per_photo([box, box], 2) == [[corners, corners]] * 2
    assert boxes_per_photo([[box]], 3) == [[corners]] * 3
    assert boxes_per_photo([[box], []], 2) == [[corners], []]


def test_one_mask_serves_every_photo():
    assert len(mask_per_photo(torch.ones(4, 5), 3)) == 3
    assert [one.shape for one in mask_per_photo(torch.ones(2, 4, 5), 2)] == [(4, 5)] * 2


GOOD = {"x": 0, "y": 0, "width": 5, "height": 5}
BAD = [
    (lambda: FaceChoice("widest"), "'widest'.*largest"),
    (lambda: FaceChoice(point=(0.5, float("nan"))), "nan"),
    (lambda: parse_index("first"), "'first'"),
    (lambda: parse_index(""), "got ''"),
    (lambda: parse_index("-1"), "'-1'"),
    (lambda: parse_index("0,,1"), "'0,,1'"),
    (lambda: parse_index("1,1"), "twice"),
    (lambda: rank(FACES, FaceChoice(IN_BOXES), SIZE), "connect the input 'boxes'"),
    (lambda: rank(FACES, FaceChoice(IN_MASK), SIZE), "connect the input 'mask'"),
    (lambda: boxes_per_photo([], 1), "empty"),
    (lambda: boxes_per_photo("box", 1), "'box'"),
    (lambda: boxes_per_photo([3], 1), r"\[3\]"),
    (lambda: boxes_per_photo([[GOOD]] * 2, 3), "2 photos, the batch has 3"),
    (lambda: boxes_per_photo({"x": 0, "y": 0, "width": 5}, 1), "x, y, width, height"),
    (lambda: boxes_per_photo({**GOOD, "height": 0}, 1), "above 0.*'height': 0"),
    (lambda: mask_per_photo(torch.zeros(4, 5), 1), "all 0"),
    (lambda: mask_per_photo(torch.ones(2, 4, 5), 3), r"1 or 3.*\(2, 4, 5\)"),
    (lambda: mask_per_photo(torch.ones(1, 1, 4, 5), 1), r"\(1, 1, 4, 5\)"),
]


@pytest.mark.parametrize(("call", "said"), BAD)
def test_bad_choices_are_refused_with_the_value(call, said):
    with pytest.raises(ValueError, match=said):
        call()
