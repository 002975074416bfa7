"""The bundled detector on real photographs."""

import numpy as np
import pytest
from flexid.model_patches.face.boxes import keep_best, overlap, shrink
from flexid.model_patches.face.cascade import CascadeDetector, load_cascade
from flexid.model_patches.face.packages import need

pytestmark = pytest.mark.pure

ASTRONAUT_EYES = (207, 107), (245, 108)


@pytest.fixture(scope="module")
def detector():
    return load_cascade()


@pytest.fixture(scope="module")
def portrait():
    from skimage import data

    return data.astronaut()


def resized(photo, factor):
    cv2 = need("cv2")
    how = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
    return cv2.resize(photo, None, fx=factor, fy=factor, interpolation=how)


@pytest.mark.parametrize("factor", [0.3, 1, 3])
def test_the_portrait_has_one_face_at_every_scale(detector, portrait, factor):
    (face,) = detector.find(resized(portrait, factor))
    assert overlap(np.array([175, 69, 271, 165]) * factor, np.array([face.box]))[0] > 0.7
    assert 0.5 <= face.score < 1
    eyes = np.array(ASTRONAUT_EYES) * factor
    assert np.abs(face.points[:2] - eyes).max() < 7 * factor


@pytest.mark.parametrize("roll", [-35, -20, 20, 30])
def test_a_tilted_head_is_found_with_its_roll(detector, portrait, roll):
    cv2 = need("cv2")
    turn = cv2.getRotationMatrix2D((256, 256), -roll, 1)  # clockwise in the picture
    tilted = cv2.warpAffine(portrait, turn, (512, 512), borderMode=cv2.BORDER_REFLECT)
    (face,) = detector.find(tilted)
    assert face.angles[:2] == (0, 0)
    assert face.angles[2] == pytest.approx(roll, abs=9)
    eyes = np.array(ASTRONAUT_EYES) @ turn[:, :2].T + turn[:, 2]
    assert np.abs(face.points[:2] - eyes).max() < 12


def test_a_face_that_fills_the_frame_is_found_by_padding(detector, portrait):
    (face,) = detector.find(np.ascontiguousarray(portrait[75:165, 180:270]))
    x0, y0, x1, y1 = face.box
    assert 0 <= x0 < x1 <= 90 and 0 <= y0 < y1 <= 90
    assert (x1 - x0) > 60


def test_a_group_photo_gives_each_upright_face_once(detector):
    photo = need("insightface.data").get_image("t1", to_rgb=True)
    faces = detector.find(photo)
    known = np.array([(450, 276, 588, 414), (53, 269, 174, 390), (1116, 278, 1234, 397)])
    known = np.concatenate([known, [(731, 359, 846, 474)]])
    best = [overlap(np.array(face.box), known) for face in faces]
    assert len(faces) == 4
    assert sorted(int(row.argmax()) for row in best) == [0, 1, 2, 3]
    assert min(row.max() for row in best) > 0.6
    assert [face.score for face in faces] == sorted((f.score for f in faces), reverse=True)


def test_pictures_without_a_face_give_none(detector):
    from skimage import data

    assert detector.find(data.coffee()) == []
    noise = np.random.default_rng(0).integers(0, 255, (300, 300, 3), dtype=np.uint8)
    assert detector.find(noise) == []


@pytest.mark.parametrize("shape", [(1, 1), (1, 3000), (3000, 2), (23, 23)])
def test_tiny_and_thin_pictures_give_none(detector, shape):
    assert detector.find(np.full((*shape, 3), 90, np.uint8)) == []


@pytest.mark.parametrize("shape", [(800, 800), (2000, 20), (16, 9000), (3000, 4000)])
def test_the_work_does_not_grow_with_the_photo(shape, detector):
    """Counted in pixels that the cascade is asked about; a plain photo of 512 takes half of it."""
    asked = []

    class Counting:
        def find(self, stacks, step=1):
            asked.append(sum(stack.size for stack in stacks) // step**2)
            return detector.cascade.find(stacks, step)

    stripes = np.random.default_rng(0).integers(0, 255, (shape[0], 1, 3), dtype=np.uint8)
    CascadeDetector(Counting()).find(np.tile(stripes, (1, shape[1], 1)))
    assert sum(asked) < 5_000_000


def test_keep_best_drops_what_overlaps_a_better_one():
    boxes = np.array([(0, 0, 10, 10), (1, 1, 11, 11), (20, 20, 30, 30)], np.float64)
    assert keep_best(boxes, [0.4, 0.9, 0.5], 0.3) == [1, 2]


def test_shrink_only_ever_shrinks():
    small, scale = shrink(np.zeros((100, 2000, 3), np.uint8), 500)
    assert small.shape == (25, 500, 3) and scale == 0.25
    same, scale = shrink(np.zeros((3, 4, 3), np.uint8), 500)
    assert same.shape == (3, 4, 3) and scale == 1
