"""Real photographs that Python packages bring: which face is found, and that nothing else is."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from flexid.model_patches.face.boxes import overlap
from flexid.model_patches.face.cascade import load_cascade
from flexid.model_patches.face.choose import LARGEST, FaceChoice
from flexid.model_patches.face.detect import detect_faces
from PIL import Image
from tiny_faces import analyser

pytestmark = pytest.mark.pure

FRIENDS = ((450, 276, 588, 414), (53, 269, 174, 390), (1116, 278, 1234, 397), (731, 359, 846, 474))
"""The upright ones; two more turn their heads away."""
FACES = {
    "skimage/data/astronaut.png": ((175, 69, 271, 165),),
    "insightface/data/images/t1.jpg": FRIENDS,
    "insightface/data/images/Tom_Hanks_54745.png": ((9, 14, 103, 108),),
    "matplotlib/mpl-data/sample_data/grace_hopper.jpg": ((160, 112, 372, 324),),
}
NOBODY = [
    *(f"skimage/data/{name}" for name in (
        "coffee.png", "chelsea.png", "rocket.jpg", "motorcycle_left.png", "coins.png", "ihc.png",
        "retina.jpg", "hubble_deep_field.jpg", "gravel.png", "grass.png", "brick.png", "moon.png",
        "page.png",
    )),
    "insightface/data/images/mask_black.jpg",
]  # fmt: skip
"""A cup, a cat, machines, textures, text, a mask without a wearer."""


def photograph(name):
    """(H, W, 3) uint8; skips when the package is absent."""
    package, _, inside = name.partition("/")
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    with Image.open(Path(found.submodule_search_locations[0]) / inside) as picture:
        return np.array(picture.convert("RGB"))


@pytest.fixture(scope="module")
def detector():
    return load_cascade()


@pytest.mark.parametrize("name", FACES)
def test_every_upright_face_is_found_once_and_nothing_else(detector, name):
    found = detector.find(photograph(name))
    shared = np.stack([overlap(np.array(face.box), np.array(FACES[name])) for face in found])
    assert sorted(shared.argmax(1).tolist()) == list(range(len(FACES[name])))
    assert shared.max(1).min() > 0.6
    assert min(face.score for face in found) > 0.55, "a true face far above the threshold"


@pytest.mark.parametrize("name", FACES)
def test_the_largest_face_is_a_face(detector, name):
    image = torch.from_numpy(photograph(name))[None].float() / 255
    (face,) = detect_faces(analyser(detector), image, FaceChoice(LARGEST)).faces
    sizes = [box[2] - box[0] for box in FACES[name]]
    expected = FACES[name][int(np.argmax(sizes))]
    assert overlap(np.array(face.box), np.array([expected]))[0] > 0.6


@pytest.mark.parametrize("name", NOBODY)
def test_no_face_is_found_where_there_is_none(detector, name):
    assert detector.find(photograph(name)) == []
