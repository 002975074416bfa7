"""Edited identities on a real server: a list of them runs what follows once for each."""

import imr_world
import landmark_faces
import pytest
import torch
from flexid.model_patches.identity.identity import Encoding, Identity
from flexid.model_patches.identity.motion import SeenMotion, keep_motion
from flexid.model_patches.identity.store import save_identity

pytestmark = pytest.mark.server

ENCODERS = {"t5": "flexid_mini_t5.safetensors", "clip_l": "flexid_mini_clip_l.safetensors"}
ANALYSER = {"pack": "flexid_mini", "detector": "auto", "provider": "CPU", "parsing": "off"}


@pytest.fixture(scope="module")
def names(server):
    """Small IMR files and an identity that knows its landmarks, where the server finds them."""
    folder = server.base / "models" / "dynamicid"
    folder.mkdir(parents=True, exist_ok=True)
    files = imr_world.write_files(folder, ".safetensors")  # as wide as the demo's CLIP-L
    generator = torch.Generator().manual_seed(1)
    tokens = torch.randn(1, 4, imr_world.WIDTH, generator=generator)
    motion = SeenMotion(landmark_faces.seen_from((0.0, 0.0, 0.0)), (0.0, 0.0, 0.0), (512, 512))
    made = Encoding("dynamicid", "", tokens, 0 * tokens, keep_motion([motion], tokens))
    somebody = Identity({"dynamicid": made}, {"arcface": torch.randn(1, 512, generator=generator)})
    save_identity(somebody, server.base / "input" / "identities" / "somebody.safetensors")
    return dict(zip(("file", "keypoints"), (path.name for path in files), strict=True))


def edit_inputs():
    from flexid.nodes.imr import FlexIDEditExpressionAndPose

    schema = FlexIDEditExpressionAndPose.define_schema()
    defaults = {one.id: getattr(one, "default", None) for one in schema.inputs}
    return {name: default for name, default in defaults.items() if default is not None}


def graph(names, photo, targets):
    def node(kind, **inputs):
        return {"class_type": kind, "inputs": inputs}

    edit = {**edit_inputs(), "targets": targets}
    person = {"weight": 1.0, "name": "Ann", "prompt": ""}
    return {
        "1": node("FlexIDLoadIMR", **names),
        "2": node("FlexIDLoadIdentity", file="identities/somebody.safetensors [input]"),
        "3": node("FlexIDLoadMiniTextEncoder", **ENCODERS),
        "4": node(
            "FlexIDEditExpressionAndPose",
            editor=["1", 0], identity=["2", 0], clip=["3", 0], **edit,
        ),
        "5": node("FlexIDMakePerson", identity=["4", 0], **person),
        "6": node("LoadImage", image=photo),
        "7": node("FlexIDLoadFaceAnalyser", **ANALYSER),
        "8": node(
            "FlexIDWhoIsWhere",
            **{"analyser": ["7", 0], "image": ["6", 0], "people.person0": ["5", 0]},
        ),
        "9": node("PreviewAny", source=["4", 1]),
    }  # fmt: skip


def test_a_list_of_targets_runs_the_rest_once_for_each(client, names, portrait):
    lines = "happy\nsad, slightly left; mouth 0.5\na wry smile"
    outputs = client.queue(graph(names, client.upload(portrait), lines))["outputs"]
    assert len(outputs["8"]["images"]) == 3, "one picture of Who Is Where for each target"
    assert all("Ann: " in text for text in outputs["8"]["text"])
    assert len(outputs["4"]["images"]) == 4
    assert outputs["4"]["text"][0].startswith("3 target(s) by IMR.safetensors")
    assert outputs["9"]["text"] == [
        "in a happy expression, in front view",
        "in a sad expression, in side view",
        "a wry smile",
    ]


def test_a_wrong_line_is_refused_before_anything_runs(client, names, portrait):
    from flexid.setup.client import GraphRefused

    with pytest.raises(GraphRefused, match="Line 1 of the targets sets 'grin'"):
        client.queue(graph(names, client.upload(portrait), "happy; grin 1"))
