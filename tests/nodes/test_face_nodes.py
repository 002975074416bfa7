"""Load Face Analyser and Detect Faces as ComfyUI runs them."""

import inspect

import folder_paths
import numpy as np
import pytest
import torch
from flexid.mini.random_faces import write_recogniser
from flexid.nodes.face import (
    BUNDLED_ONLY,
    NODES,
    FlexIDDetectFaces,
    FlexIDLoadFaceAnalyser,
)
from PIL import Image
from tiny_faces import astronaut, write_scrfd

import nodes

pytestmark = pytest.mark.comfy

LOAD = {"detector": "auto", "provider": "auto", "parsing": "auto"}
DETECT = {
    "order": "largest",
    "index": "0",
    "point_x": 0.5,
    "point_y": 0.5,
    "on_missing": "error",
}


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Model, temp and input folders of this test alone, two roots for insightface."""
    table = {
        "insightface": ([str(tmp_path / "one"), str(tmp_path / "two")], set()),
        "facexlib": ([str(tmp_path / "facexlib")], set()),
    }
    for name, entry in table.items():
        monkeypatch.setitem(folder_paths.folder_names_and_paths, name, entry)
    (tmp_path / "facexlib").mkdir()
    monkeypatch.setattr(folder_paths, "temp_directory", str(tmp_path / "temp"))
    monkeypatch.setattr(folder_paths, "input_directory", str(tmp_path))
    return tmp_path


def pack_options():
    schema = FlexIDLoadFaceAnalyser.define_schema()
    combo = next(one for one in schema.inputs if one.id == "pack")
    return combo.options, combo.default


def area(box):
    return box["width"] * box["height"]


@pytest.mark.parametrize("node", NODES)
def test_schema_matches_execute_and_every_input_has_a_tooltip(node, models):
    schema = node.define_schema()
    names = [one.id for one in schema.inputs]
    assert names and set(names) == set(inspect.signature(node.execute).parameters)
    assert all(one.tooltip for one in schema.inputs)
    assert node.__name__ == schema.node_id and schema.search_aliases
    assert schema.category == "FlexID/face"
    assert "FlexID" not in schema.display_name


def test_packs_of_every_root_are_offered_and_the_default_is_one_that_is_there(models):
    assert pack_options() == (["antelopev2", "buffalo_l", BUNDLED_ONLY], BUNDLED_ONLY)
    write_recogniser(models / "two" / "models" / "flexid_mini" / "r.onnx", 0)
    options, default = pack_options()
    assert options == ["antelopev2", "buffalo_l", "flexid_mini", BUNDLED_ONLY]
    assert default == "flexid_mini"
    write_scrfd(models / "one" / "models" / "buffalo_l" / "buffalo_l" / "det_kps.onnx")
    assert pack_options()[1] == "buffalo_l"


def test_a_missing_pack_names_folders_files_address_and_terms(models):
    (models / "two" / "models" / "antelopev2").mkdir(parents=True)
    with pytest.raises(FileNotFoundError) as caught:
        FlexIDLoadFaceAnalyser.execute(pack="antelopev2", **LOAD)
    said = str(caught.value)
    for root in ("one", "two"):
        assert str(models / root / "models" / "antelopev2") in said
    for fact in ("does not exist", "it is empty", "glintr100.onnx", "huggingface.co/DIAMONIK7777"):
        assert fact in said
    assert "non-commercial research" in said and BUNDLED_ONLY in said
    for unread in ("1k3d68.onnx", "2d106det.onnx", "genderage.onnx"):
        assert unread not in said
    with pytest.raises(FileNotFoundError, match=r"github.*v0\.7/buffalo_l\.zip"):
        FlexIDLoadFaceAnalyser.execute(pack="buffalo_l", **LOAD)
    with pytest.raises(FileNotFoundError, match="mine.*another pack"):
        FlexIDLoadFaceAnalyser.execute(pack="mine", **LOAD)


def test_loading_says_what_is_in_use_on_the_node_and_on_an_output(models):
    write_recogniser(models / "two" / "models" / "flexid_mini" / "r.onnx", 0)
    output = FlexIDLoadFaceAnalyser.execute(pack="flexid_mini", **LOAD)
    analyser, description = output.result
    assert description == analyser.description == output.ui.as_dict()["text"][0]
    for fact in ("bundled", "arcface (flexid_mini, r.onnx) on", "parsing_bisenet.pth"):
        assert fact in description


def test_parsing_auto_takes_the_file_and_off_does_not(models):
    (models / "facexlib" / "parsing_bisenet.pth").write_text("not weights")
    with pytest.raises(ValueError, match="neither a safetensors nor a torch file"):
        FlexIDLoadFaceAnalyser.execute(pack=BUNDLED_ONLY, **LOAD)
    off = {**LOAD, "parsing": "off"}
    assert FlexIDLoadFaceAnalyser.execute(pack=BUNDLED_ONLY, **off).result[0].parser is None


def test_fingerprint_changes_when_a_file_does(models):
    path = models / "one" / "models" / "tiny" / "r.onnx"
    write_recogniser(path, 0)
    before = FlexIDLoadFaceAnalyser.fingerprint_inputs(pack="tiny", **LOAD)
    assert before == FlexIDLoadFaceAnalyser.fingerprint_inputs(pack="tiny", **LOAD)
    path.write_bytes(path.read_bytes() + b"\0")
    assert before != FlexIDLoadFaceAnalyser.fingerprint_inputs(pack="tiny", **LOAD)


def test_the_bundled_path_from_photo_to_faces(models):
    analyser = FlexIDLoadFaceAnalyser.execute(pack=BUNDLED_ONLY, **LOAD).result[0]
    output = FlexIDDetectFaces.execute(analyser, astronaut(), **DETECT)
    faces, overlay, boxes, mask, count, report = output.result
    assert count == len(faces) == 1
    assert overlay.shape == (1, 512, 512, 3) and 0 <= overlay.min() and overlay.max() <= 1
    assert boxes[0][0]["x"] == pytest.approx(172, abs=8)
    assert mask.shape == (1, 512, 512) and mask.sum() == area(boxes[0][0])
    assert "1 chosen" in report
    (shown,) = output.ui["images"]
    assert (models / "temp" / shown["filename"]).is_file()
    assert output.ui["text"] == (report,)


def test_load_image_has_already_turned_the_photo_by_its_exif_tag(models):
    """So nothing here looks at EXIF: a photo from a phone arrives upright."""
    upright = (astronaut()[0] * 255).round().to(torch.uint8).numpy()
    stored = Image.fromarray(np.rot90(upright).copy())
    exif = stored.getexif()
    exif[0x112] = 6  # the viewer turns it clockwise by 90 degrees
    stored.save(models / "phone.png", exif=exif)
    image, _ = nodes.LoadImage().load_image("phone.png")
    assert torch.equal((image[0] * 255).round().to(torch.uint8), torch.from_numpy(upright))
    analyser = FlexIDLoadFaceAnalyser.execute(pack=BUNDLED_ONLY, **LOAD).result[0]
    assert FlexIDDetectFaces.execute(analyser, image, **DETECT).result[4] == 1
