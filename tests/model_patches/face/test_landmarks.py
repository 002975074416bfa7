"""106 landmarks by a small model of 2d106det's contract, through insightface's own class."""

import numpy as np
import pytest
import tiny_faces
import torch
from flexid.model_patches.face.analyser import load_analyser
from flexid.model_patches.face.pack import role_of

pytestmark = pytest.mark.comfy

POINTS = np.random.default_rng(1).uniform(-0.9, 0.9, (106, 2))


@pytest.fixture
def pack(tmp_path):
    folder = tmp_path / "buffalo"
    tiny_faces.write_scrfd(folder / "det_10g.onnx")
    tiny_faces.write_landmarker(folder / "2d106det.onnx", POINTS)
    return folder


def load(folder):
    return load_analyser(folder, "pack", ["CPU"], None)


def test_points_are_those_of_the_crop_around_the_box(pack):
    analyser = load(pack)
    assert "Landmarks: 106 points (buffalo, 2d106det.onnx)" in analyser.description
    photo = np.zeros((200, 300, 3), np.uint8)
    found = analyser.landmarks.find(photo, (50.0, 40.0, 150.0, 160.0))
    # The crop is 1.5 times the box's longer side, around its centre.
    expected = torch.tensor([100.0, 100.0]) + torch.from_numpy(POINTS).float() * 0.75 * 120
    torch.testing.assert_close(found, expected, atol=0.5, rtol=0)


def test_a_pack_without_the_file_has_none(pack):
    (pack / "2d106det.onnx").unlink()
    assert load(pack).landmarks is None and "Landmarks" not in load(pack).description


def test_only_106_points_are_landmarks(pack):
    assert role_of(pack / "2d106det.onnx") == "landmarks"
    tiny_faces.write_landmarker(pack / "1k3d68.onnx", np.zeros((68, 3)))
    assert role_of(pack / "1k3d68.onnx") == "other"


def test_points_that_are_not_finite_are_refused(pack):
    tiny_faces.write_landmarker(pack / "2d106det.onnx", np.full((106, 2), np.nan))
    with pytest.raises(RuntimeError, match=r"or not finite ones; expected \(106, 2\)"):
        load(pack).landmarks.find(np.zeros((99, 99, 3), np.uint8), (9.0, 9.0, 50.0, 50.0))
