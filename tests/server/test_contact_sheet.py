"""The contact sheet on a real server: all is painted, columns differ, it is laid out."""

import io
import json

import numpy as np
import pytest
from flexid.mini import world
from flexid.mini.study.judges import TRAINING, open_judges
from flexid.model_patches.face.analyser import load_analyser
from flexid.setup import contact, demo
from flexid.setup.face import find_face
from PIL import Image

pytestmark = pytest.mark.server


@pytest.fixture
def small(monkeypatch):
    """Two steps instead of a whole run."""
    made = contact.settings() | {"steps": 2}
    monkeypatch.setattr(contact, "settings", lambda: made)


def cells(pictures):
    """(line, column) -> (H, W, 3) uint8."""
    return {
        tuple(int(part) for part in name.split("_")[1:3]): np.asarray(Image.open(io.BytesIO(data)))
        for name, data in pictures
    }


def test_the_sheet_from_photo_to_png(client, environment, models, portrait, tmp_path, small):
    detector = contact.choose_detector(own_photo=False)
    found = find_face(environment, models, portrait, detector, tmp_path)
    graph, entry = contact.paint(client, client.upload(portrait), detector, demo.run_with_progress)
    pictures = client.pictures(entry)
    pixels = cells(pictures)
    assert set(pixels) == {(line, column) for line in range(3) for column in range(4)}
    for (line, column), one in pixels.items():
        assert one.shape == (128, 128, 3) and one.std() > 5
        others = [pixels[line, other] for other in range(4) if other != column]
        assert all(not np.array_equal(one, other) for other in others), (line, column)
    made = tmp_path / "sheet.png"
    contact.compose(environment, models, found, pictures, made, own_photo=False)
    sheet = np.asarray(Image.open(made)).astype(int)
    assert sheet.shape[1] > 1500 and sheet.std() > 10
    assert client.queue(json.loads(json.dumps(graph)))["status"]["status_str"] == "success"


@pytest.mark.skipif(not world.is_trained(), reason="mini/weights is not whole yet")
def test_the_sheet_shows_the_person(client, portrait):
    """The graph of `start.py demo` as a user gets it, with the trained models."""
    name = client.upload(portrait)
    _, entry = contact.paint(client, name, contact.OWN, demo.run_with_progress)
    pixels = cells(client.pictures(entry))
    pack = (world.WEIGHTS / world.DETECTOR).parent
    judge = open_judges(load_analyser(pack, "pack", ["CPU"], None), world.WEIGHTS)[TRAINING]
    embedding = judge.remember(np.array(Image.open(portrait).convert("RGB")))
    likeness = np.array(
        [[judge.look(pixels[line, column], embedding).similarity for column in range(4)]
         for line in range(3)]
    )  # fmt: skip
    alone, rigid, gated, whole = likeness.mean(0)
    assert rigid > 0.5 and min(gated, whole) > alone + 0.2, likeness
