"""Templates for SD 1.5 through the stock loaders, on files of the published size.

They are random, so the pictures are noise; what is shown is that the files load, that every block
is reached and that a step runs. FLEXID_FULL_SIZE=1 turns the test on: it takes minutes, 4 GB of
disk and 8 GB of memory.
"""

import copy
import io
import json
import os

import numpy as np
import pytest
from PIL import Image
from templates import APIS

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(
        os.environ.get("FLEXID_FULL_SIZE") != "1", reason="FLEXID_FULL_SIZE=1 turns it on"
    ),
]


@pytest.fixture(scope="module")
def files(server):
    import full_size
    from flexid.bench import unet

    models = server.base / "models"
    places = {
        "checkpoints/v1-5-pruned-emaonly-fp16.safetensors": (
            lambda path: full_size.write_checkpoint(unet.SD15, path)
        ),
        "clip_vision/CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors": full_size.write_vit_h,
        "ipadapter/ip-adapter-plus_sd15.safetensors": (
            lambda path: full_size.write_ip_adapter(unet.SD15, path)
        ),
        "ipadapter/ip-adapter-plus-face_sd15.safetensors": (
            lambda path: full_size.write_ip_adapter(unet.SD15, path)
        ),
    }
    for name, write in places.items():
        path = models / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        write(path)
    yield models
    for name in places:
        (models / name).unlink()


def small(graph, side=128):
    """One step at a small size, without the face files: the whole photo is looked at."""
    graph = copy.deepcopy(graph)
    faces = {key for key, node in graph.items() if node["class_type"] == "FlexIDDetectFaces"}
    faces |= {key for key, node in graph.items() if node["class_type"] == "FlexIDLoadFaceAnalyser"}
    graph = {key: node for key, node in graph.items() if key not in faces}
    for node in graph.values():
        node["inputs"].pop("faces", None)
        if node["class_type"] == "EmptyLatentImage":
            node["inputs"] |= {"width": side, "height": side}
        if node["class_type"] == "KSampler":
            node["inputs"]["steps"] = 1
    return graph


def pixels(client, graph):
    [(_, data)] = client.pictures(client.queue(graph))
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)


@pytest.mark.parametrize("name", ["flexip", "subject_in_style", "style_transfer"])
def test_a_template_for_sd15_runs_on_full_size_files(files, client, portrait, name):
    client.upload(portrait)
    graph = small(json.loads(APIS[name].read_text(encoding="utf-8")))
    for node in graph.values():
        if node["class_type"] == "LoadImage":
            node["inputs"]["image"] = portrait.name
        if node["class_type"] == "FlexIDWindow":
            node["inputs"]["start"] = 0.0
    drawn = pixels(client, graph)
    for node in graph.values():
        if node["class_type"] == "FlexIDApplyFlexIP":
            node["inputs"]["balance"] = 0.0
    alone = pixels(client, graph)
    assert drawn.shape == (128, 128, 3)
    assert np.abs(drawn - alone).mean() > 1
