"""What the painter makes of ComfyUI's answers: one finite picture, or an error that says why."""

import asyncio
import itertools

import pytest
import torch
from flexid.ibench.clip_files import find_pair, reads_text, sees_pictures
from flexid.ibench.graphs import Place
from flexid.ibench.networks import INCEPTION, INCEPTION_FILE
from flexid.ibench.painter import CATCH, Painter, PaintError, make_catch
from flexid.model_patches.files.header import Header
from model_folders import Folders
from safetensors.torch import save_file

pytestmark = pytest.mark.comfy

GRAPH = {
    "1": {"class_type": "Paint", "inputs": {}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}},
}


class Executor:
    """Gives these pictures to the node that catches, as ComfyUI would."""

    def __init__(self, painter, *pictures):
        self.success, self.status_messages = bool(pictures), []
        self.painter, self.pictures, self.graph = painter, pictures, None

    async def execute_async(self, graph, name, extra, outputs):
        assert outputs == ["2"] and graph["2"] == {
            "class_type": CATCH,
            "inputs": {"images": ["1", 0]},
        }
        graph["1"]["is_changed"] = "ComfyUI writes here"
        for picture in self.pictures:
            make_catch(self.painter.caught)().catch(picture)


@pytest.fixture
def paint():
    made = object.__new__(Painter)
    made.caught, made.numbers, made.loop = [], itertools.count(), asyncio.new_event_loop()

    def run(*pictures):
        made.executor = Executor(made, *pictures)
        return made.paint(GRAPH, Place("2"))

    yield run
    made.loop.close()


def test_one_picture_comes_out_and_the_graph_stays_as_it_was(paint):
    found = paint(torch.full((1, 4, 6, 4), 1.5))
    assert found.shape == (4, 6, 3) and found.max() == 1, "as SaveImage clamps"
    assert GRAPH["2"]["class_type"] == "SaveImage" and "is_changed" not in GRAPH["1"]


@pytest.mark.parametrize(
    "pictures, words",
    [
        ([torch.zeros(2, 4, 4, 3)], "2 pictures, expected 1"),
        ([torch.full((1, 4, 4, 3), float("nan"))], "NaN or infinite pixels, expected 0"),
        ([], "stopped without an error message"),
    ],
)
def test_anything_else_is_refused(paint, pictures, words):
    with pytest.raises(PaintError, match=words):
        paint(*pictures)


def write(path, shapes):
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({key: torch.zeros(shape, dtype=torch.uint8) for key, shape in shapes.items()}, path)
    return path


VISION = {
    "visual_projection.weight": (768, 1024),
    "vision_model.embeddings.patch_embedding.weight": (1024, 3, 14, 14),
}
TEXT = {
    "text_projection.weight": (768, 768),
    "text_model.embeddings.token_embedding.weight": (8, 768),
}


def test_both_halves_of_clip_are_found_by_content(tmp_path):
    folders = Folders(tmp_path)
    assert find_pair(folders) is None
    vision = write(tmp_path / "clip_vision" / "a.safetensors", VISION)
    without = {key: shape for key, shape in TEXT.items() if "projection" not in key}
    write(tmp_path / "text_encoders" / "clip_l.safetensors", without)
    assert find_pair(folders) is None, "many text encoders come without their projection"
    text = write(tmp_path / "text_encoders" / "whole_l.safetensors", TEXT)
    assert find_pair(folders) == (vision, text)
    text.unlink()
    whole = write(tmp_path / "clip_vision" / "b.safetensors", VISION | TEXT)
    assert find_pair(folders) == (vision, whole)


def test_other_clip_models_are_not_taken_for_it():
    big = {**VISION, "visual_projection.weight": (1024, 1280)}
    assert sees_pictures(Header(VISION, {})) and not sees_pictures(Header(big, {}))
    openai = {"visual.proj": (1024, 768), "visual.conv1.weight": (1024, 3, 14, 14)}
    assert sees_pictures(Header(openai, {})) and not reads_text(Header(openai, {}))
    openai |= {"text_projection": (768, 768), "token_embedding.weight": (49408, 768)}
    assert reads_text(Header(openai, {}))


def test_fid_s_network_is_found_by_content_or_by_name(tmp_path):
    folders = Folders(tmp_path)
    write(tmp_path / "flexid" / "face.safetensors", {"encoder_2.x": (1,)})
    assert INCEPTION.find(folders) is None
    named = tmp_path / "flexid" / INCEPTION_FILE
    named.write_bytes(b"an old format, whose header nobody can read")
    assert INCEPTION.find(folders) == named
    named.unlink()
    mark = {"Mixed_7c.branch_pool.conv.weight": (1, 1, 1, 1)}
    other = write(tmp_path / "flexid" / "mine.safetensors", mark)
    assert INCEPTION.find(folders) == other
