"""SD 1.5 and SDXL through the stock loaders, on files of the published size.

They are random, so the pictures are noise; what is shown is that the files load, that every block
is reached and that a step runs. FLEXID_FULL_SIZE=1 turns the tests on: they take minutes, 12 GB of
disk and 20 GB of memory.
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


SDXL = {
    "CheckpointLoaderSimple": "sd_xl_base_1.0.safetensors",
    "FlexIDLoadFlexIP": "ip-adapter-plus_sdxl_vit-h.safetensors",
}
"""Node -> its file, in place of the template's."""


@pytest.fixture(scope="module")
def files(server):
    import full_size
    from flexid.bench import unet

    yield from written(
        server,
        {
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
        },
    )


@pytest.fixture(scope="module")
def sdxl(server):
    import full_size
    from flexid.bench import unet

    yield from written(
        server,
        {
            f"checkpoints/{SDXL['CheckpointLoaderSimple']}": (
                lambda path: full_size.write_checkpoint(unet.SDXL, path)
            ),
            f"ipadapter/{SDXL['FlexIDLoadFlexIP']}": (
                lambda path: full_size.write_ip_adapter(unet.SDXL, path)
            ),
        },
    )


def written(server, places):
    """Write files below the server's models folder; they are removed afterwards."""
    models = server.base / "models"
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


def paint_both(client, portrait, graph):
    """With the photo, and with the balance at 0."""
    client.upload(portrait)
    for node in graph.values():
        if node["class_type"] == "LoadImage":
            node["inputs"]["image"] = portrait.name
        if node["class_type"] == "FlexIDWindow":
            node["inputs"]["start"] = 0.0
    drawn = pixels(client, graph)
    for node in graph.values():
        if node["class_type"] == "FlexIDApplyFlexIP":
            node["inputs"]["balance"] = 0.0
    return drawn, pixels(client, graph)


@pytest.mark.parametrize("name", ["flexip", "subject_in_style", "style_transfer"])
def test_a_template_for_sd15_runs_on_full_size_files(files, client, portrait, name):
    graph = small(json.loads(APIS[name].read_text(encoding="utf-8")))
    drawn, alone = paint_both(client, portrait, graph)
    assert drawn.shape == (128, 128, 3)
    assert np.abs(drawn - alone).mean() > 1


def test_sdxl_runs_on_full_size_files(files, sdxl, client, portrait):
    graph = small(json.loads(APIS["flexip"].read_text(encoding="utf-8")))
    for node in graph.values():
        if node["class_type"] in SDXL:
            [name] = [key for key, one in node["inputs"].items() if ".safetensors" in str(one)]
            node["inputs"][name] = SDXL[node["class_type"]]
    drawn, alone = paint_both(client, portrait, graph)
    assert drawn.shape == (128, 128, 3)
    assert np.abs(drawn - alone).mean() > 1
