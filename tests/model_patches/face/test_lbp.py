"""The cascade's evaluation, against scikit-image's own class for the same trained file."""

import numpy as np
import pytest
from flexid.model_patches.face.boxes import shrink
from flexid.model_patches.face.lbp import WINDOW, read_cascade
from flexid.model_patches.face.packages import need

pytestmark = pytest.mark.pure


@pytest.fixture(scope="module")
def path():
    return need("skimage.data").lbp_frontal_face_cascade_filename()


@pytest.fixture(scope="module")
def cascade(path):
    return read_cascade(path)


def grey(name, long_side):
    photo = getattr(need("skimage.data"), name)()
    return need("cv2").cvtColor(shrink(photo, long_side)[0], need("cv2").COLOR_RGB2GRAY)


def corners(hits):
    return set(zip(hits.stack.tolist(), hits.picture.tolist(), hits.x.tolist(), hits.y.tolist(),
                   strict=True))  # fmt: skip


@pytest.mark.parametrize(("name", "long_side"), [("astronaut", 130), ("chelsea", 200)])
def test_the_same_windows_pass_as_in_scikit_image(path, cascade, name, long_side):
    picture = grey(name, long_side)
    passed = (
        need("skimage.feature")
        .Cascade(path)
        .detect_multi_scale(
            picture,
            scale_factor=1.5,
            step_ratio=1.0,
            min_size=(WINDOW, WINDOW),
            max_size=(WINDOW + 1, WINDOW + 1),
            min_neighbor_number=1,
            intersection_score_threshold=2.0,
        )
    )
    expected = {(0, 0, window["c"], window["r"]) for window in passed}
    assert len(expected) >= 2
    assert corners(cascade.find([picture[None]])) == expected


def test_stacks_of_several_sizes_are_answered_one_by_one(cascade):
    one, other = grey("astronaut", 130), grey("chelsea", 200)
    alone, beside = (corners(cascade.find([picture[None]])) for picture in (one, other))
    both = corners(cascade.find([np.stack([np.zeros_like(one), one]), other[None]]))
    assert both == {(0, 1, x, y) for _, _, x, y in alone} | {(1, 0, x, y) for _, _, x, y in beside}


def test_a_step_leaves_windows_out_and_adds_none(cascade):
    picture = grey("chelsea", 200)
    every, second = (corners(cascade.find([picture[None]], step)) for step in (1, 2))
    assert second == {place for place in every if place[2] % 2 == place[3] % 2 == 0}


@pytest.mark.parametrize("shape", [(1, WINDOW - 1, 90), (2, 90, 1), (0, 40, 40)])
def test_pictures_smaller_than_the_window_have_none(cascade, shape):
    hits = cascade.find([np.zeros(shape, np.uint8)])
    assert not len(hits.x)
    assert not len(cascade.find([]).x)
