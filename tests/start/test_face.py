"""What the demo says about the face in its photo before it paints anything."""

import json
import sys
from pathlib import Path

import pytest
from flexid.mini import world as mini_world
from flexid.setup import demo, face
from flexid.setup.console import SetupError
from flexid.setup.environment import Environment

pytestmark = pytest.mark.pure


@pytest.fixture
def here(tmp_path):
    """This Python, and a models folder with a recogniser."""
    pytest.importorskip("onnxruntime")
    pytest.importorskip("skimage")
    mini_world.WRITERS[mini_world.RECOGNISER](tmp_path / mini_world.RECOGNISER, 1)
    return Environment(Path(sys.executable), tmp_path, tmp_path, "cpu")


def photo(name, path):
    from PIL import Image
    from skimage import data

    Image.fromarray(getattr(data, name)()).save(path)
    return path


def test_the_face_of_a_photo_is_named_and_its_crop_is_kept(here, tmp_path, capsys):
    picture = photo("astronaut", tmp_path / "me.png")
    found = face.find_face(here, tmp_path, picture, "bundled", tmp_path)
    x0, y0, x1, y1 = found["box"]
    assert 160 < x0 < 190 and 50 < y0 < 85 and 255 < x1 < 285 and 150 < y1 < 180
    assert Path(found["crop"]).is_file() and len(found["embedding"]) == 512
    said = capsys.readouterr().out
    assert "face: 1 found, took number 0, score 0.6" in said and "4 % of the picture" in said


def test_a_photo_without_a_face_ends_with_the_next_step_before_a_server_starts(
    here, tmp_path, monkeypatch
):
    picture = photo("coffee", tmp_path / "cup.png")
    monkeypatch.setattr(demo, "ensure_world", lambda _: tmp_path)
    monkeypatch.setattr(demo, "start", lambda *_: pytest.fail("a server was started"))
    with pytest.raises(SetupError) as stopped:
        demo.demo(here, picture, None, tmp_path / "out", demo.Phases({}))
    said = str(stopped.value)
    assert said.startswith("no face was found in cup.png (600 x 400 pixels)")
    assert "Next: crop the picture" in said.splitlines()[-1]


def test_a_photo_that_cannot_be_searched_gives_the_reason(here, tmp_path):
    (tmp_path / "me.png").write_text("no picture")
    with pytest.raises(SetupError, match=r"(?s)me\.png could not be searched.*cannot identify"):
        face.find_face(here, tmp_path, tmp_path / "me.png", "bundled", tmp_path)


@pytest.mark.parametrize(
    ("count", "share", "line"),
    [
        (1, 0.05, "face: 1 found, took number 0, score 0.56, 5 % of the picture"),
        (10, 0.004, "face: 10 found, took number 0, score 0.56, under 1 % of the picture; to take "
                    "another, crop the picture to it"),
    ],
)  # fmt: skip
def test_the_line_on_the_console(count, share, line):
    found = {"count": count, "number": 0, "score": 0.56, "share": share}
    assert face.describe(json.loads(json.dumps(found))) == line
