"""Every workflow file on a real server: nodes and values exist, a picture comes out."""

import copy
import io
import json

import numpy as np
import pytest
import real_names
from flexid.mini import world
from flexid.setup import demo
from flexid.setup.client import Client, GraphError
from pack import ROOT
from PIL import Image
from templates import PAGES

pytestmark = pytest.mark.server

APIS = sorted((ROOT / "workflows").rglob("*.api.json"))
DYNAMICID = {"dynamicid", "dynamicid_couple", "dynamicid_group", "expression_sheet"}
REFERENCES = {"flexip", "subject_in_style", "style_transfer"}
UNPAINTED = {
    f"{name}.api.json"
    for name in {"guidance_flux2", "guidance_qwen", "flexid_sdxl"} | DYNAMICID | REFERENCES
}
"""Their models exist in full size only. Small models of the same classes are sampled by
tests/model_patches/inject and tests/nodes/test_dynamicid_graphs.py."""
TWO_PHOTOS = {"couple_flux.api.json", "couple_demo.api.json"}
"""Each of their photos has a person's name in its title; as shipped, both are portrait.png."""
VFA = next(path for path in APIS if path.name == "vfa.api.json")
SIDE, STEPS = 128, 3


@pytest.fixture(scope="module", autouse=True)
def published(server, models):
    """The small models under the published files' names, in the server's own models folder."""
    real_names.place(models, server.base / "models")


def sized(graph, side=SIDE, steps=STEPS):
    """A copy with another picture size and step count: the small world shows nothing finer. What is
    twice as wide as high stays so."""
    graph = copy.deepcopy(graph)
    for node in graph.values():
        if node["class_type"] == "EmptySD3LatentImage":
            across = node["inputs"]["width"] // node["inputs"]["height"] or 1
            node["inputs"] |= {"width": across * side, "height": side}
        if node["class_type"] == "KSampler":
            node["inputs"]["steps"] = steps
    return graph


def picture(client, graph):
    """Pixels of the only picture, which must be one with content."""
    [(_, data)] = client.pictures(client.queue(graph))
    pixels = np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).astype(int)
    assert pixels.std() > 10, "nearly uniform"
    assert ((pixels == 0) | (pixels == 255)).mean() < 0.5, "mostly clipped"
    return pixels


@pytest.fixture
def vfa_graph(client, portrait):
    """vfa.api.json as shipped, but for the photo's name and the text encoders."""
    graph = demo.put_photo(demo.load_graph(VFA), client.upload(portrait), insist=True)
    return real_names.with_mini_text_encoder(graph)


@pytest.fixture(scope="module")
def known(published, server, portrait):
    """What the server says of every node, once the files and the photo are in their places."""
    client = Client(server.url)
    client.upload(portrait)
    return client.object_info()


@pytest.mark.parametrize("path", APIS, ids=lambda path: path.name)
def test_every_node_input_and_value_exists(path, known):
    for number, node in demo.load_graph(path).items():
        assert node["class_type"] in known, number
        schema = known[node["class_type"]]["input"]
        inputs = {**schema.get("required", {}), **schema.get("optional", {})}
        given = {name.partition(".")[0]: value for name, value in node["inputs"].items()}
        assert given.keys() <= inputs.keys(), node["class_type"]
        assert schema.get("required", {}).keys() <= given.keys(), node["class_type"]
        for name, value in given.items():
            options = allowed(inputs[name])
            if options is not None:
                assert value in options, (node["class_type"], name)


def allowed(spec):
    """The options of a combo, in ComfyUI's two notations; None for other inputs."""
    if isinstance(spec[0], list):
        return spec[0]
    return spec[1].get("options") if spec[0] == "COMBO" else None


@pytest.mark.parametrize(
    "path", [one for one in APIS if one.name not in UNPAINTED], ids=lambda path: path.name
)
def test_every_file_is_accepted_and_paints(path, client, portrait):
    """As shipped, the photo's name, size, steps, the text encoders and a user's training apart."""
    insist = path.name not in TWO_PHOTOS
    graph = demo.put_photo(demo.load_graph(path), client.upload(portrait), insist=insist)
    graph = real_names.with_training(graph)
    entry = client.queue(sized(real_names.with_mini_text_encoder(graph)))
    found = client.pictures(entry)
    savers = [node for node in graph.values() if node["class_type"] == "SaveImage"]
    batch = next(
        node["inputs"]["batch_size"] for node in graph.values() if "batch_size" in node["inputs"]
    )
    sheets = any(
        node["class_type"] in ("FlexIDSweepReport", "ImageGrid") for node in graph.values()
    )
    assert len(found) == (1 if sheets else len(savers) * batch)
    for _, data in found:
        pixels = np.asarray(Image.open(io.BytesIO(data)))
        across = 2 if path.name == "couple_demo.api.json" else 1
        assert pixels.std() > 10 and (sheets or pixels.shape == (SIDE, across * SIDE, 3))


@pytest.mark.skipif(not world.is_trained(), reason="mini/weights is not whole yet")
def test_the_measured_graphs_find_the_person_and_a_knee(client, portrait):
    """As shipped, with the trained models: figures that a user can rely on."""
    photo = client.upload(portrait)

    def report(name, kind):
        api = ROOT / "workflows" / "api" / f"{name}.api.json"
        graph = demo.put_photo(demo.load_graph(api), photo, insist=True)
        [key] = [key for key, node in graph.items() if node["class_type"] == kind]
        return client.queue(graph)["outputs"][key]["text"]

    [compared] = report("compare_identity_demo", "FlexIDCompareIdentity")
    figures = dict(line.rsplit(" ", 1) for line in compared.splitlines()[1:4])
    assert "found 4 of 4 times" in compared
    assert float(figures["likeness"]) > 0.5
    assert float(figures["likeness gained over the plain picture"]) > 0.4
    [swept] = report("sweep_demo", "FlexIDSweepReport")
    lines = swept.splitlines()
    likeness = [float(line.partition("likeness ")[2].partition(",")[0]) for line in lines[:5]]
    outside = [float(line.partition("outside ")[2].split()[0]) for line in lines[:5]]
    assert outside[0] == 0 and outside == sorted(outside)
    assert likeness[0] < 0.3 < 0.6 < max(likeness)
    assert [line.endswith("(knee)") for line in lines[:5]].count(True) == 1


def test_a_merge_of_one_file_stops_and_says_so(client, portrait):
    """As the template opens, before the user has chosen a training."""
    path = next(one for one in APIS if one.name == "merge_adapters.api.json")
    graph = demo.put_photo(demo.load_graph(path), client.upload(portrait), insist=True)
    with pytest.raises(GraphError, match="All files are the same"):
        client.queue(sized(real_names.with_mini_text_encoder(graph)))


def test_vfa_runs_for_as_many_steps_as_it_says(client, vfa_graph):
    steps = vfa_graph["14"]["inputs"]["steps"]
    assert picture(client, sized(vfa_graph, steps=steps)).shape == (SIDE, SIDE, 3)


def test_the_gate_of_the_vfa_graph_works_when_it_is_switched_on(client, vfa_graph):
    page = json.loads(PAGES["vfa"].read_text(encoding="utf-8"))
    gate = next(node for node in page["nodes"] if node["type"] == "FlexIDWindow")
    names = [one["name"] for one in gate["inputs"] if "widget" in one]
    values = dict(zip(names, gate["widgets_values"], strict=True))
    plain = sized(vfa_graph)
    gated = sized(vfa_graph) | {"18": {"class_type": "FlexIDWindow", "inputs": values}}
    gated["10"]["inputs"]["gate"] = ["18", 0]
    assert not np.array_equal(picture(client, plain), picture(client, gated))


def test_one_node_and_the_three_paint_the_same_picture(client, portrait):
    """Bit for bit; and each of the two streams is in it."""
    photo = client.upload(portrait)

    def painted(name, **changes):
        graph = demo.load_graph(ROOT / "workflows" / "api" / f"{name}.api.json")
        graph = sized(demo.put_photo(graph, photo, insist=True))
        for node in graph.values():
            node["inputs"] |= changes.get(node["class_type"], {})
        return picture(client, graph)

    three = painted("flexid_nodes_demo")
    assert np.array_equal(painted("flexid_demo"), three)
    for kind, nothing in (("FlexIDApplySIP", {"alpha": 0}), ("FlexIDApplyVFA", {"weight": 0})):
        assert not np.array_equal(painted("flexid_nodes_demo", **{kind: nothing}), three)


# Graphs made for another pack


def old_graph(graph, **more):
    """The VFA graph as PuLID-Flux packs write it: their four nodes instead of ours."""
    ours = {key for key, node in graph.items() if node["class_type"].startswith("FlexID")}
    old = {key: node for key, node in graph.items() if key not in ours or key == "2"}
    old["7"] = {"class_type": "PulidFluxModelLoader", "inputs": {}}
    old["7"]["inputs"]["pulid_file"] = "pulid_flux_v0.9.1.safetensors"
    old["5"] = {"class_type": "PulidFluxInsightFaceLoader", "inputs": {"provider": "CUDA"}}
    old["8"] = {"class_type": "PulidFluxEvaClipLoader", "inputs": {}}
    links = {"model": ["1", 0], "pulid_flux": ["7", 0], "eva_clip": ["8", 0]}
    links |= {"face_analysis": ["5", 0], "image": ["4", 0]}
    values = {"weight": 0.9, "start_at": 0.1, "end_at": 0.9}
    old["10"] = {"class_type": "ApplyPulidFlux", "inputs": {**links, **values, **more}}
    return old


def test_an_old_pulid_flux_graph_paints_what_our_nodes_paint(client, vfa_graph):
    """With and without `_meta`. `fusion` and `use_gray` stand for what some of those packs add."""
    old = old_graph(sized(vfa_graph), fusion="mean", use_gray=True)
    ours = copy.deepcopy(old)
    strength = {"weight": 0.9, "start": 0.1, "end": 0.9, "axis": "percent", "negative": "same"}
    links = {k: v for k, v in old["10"]["inputs"].items() if isinstance(v, list)}
    ours["10"] = {"class_type": "FlexIDApplyVFAFromPhoto", "inputs": links | strength}
    ours["5"] = vfa_graph["5"] | {"inputs": vfa_graph["5"]["inputs"] | {"provider": "CPU"}}
    ours["7"], ours["8"] = vfa_graph["7"], vfa_graph["8"]
    for node in old.values():
        node.pop("_meta", None)
    theirs = picture(client, old)
    assert np.array_equal(theirs, picture(client, ours))
    titled = {key: {**node, "_meta": {"title": key}} for key, node in old.items()}
    assert np.array_equal(theirs, picture(client, titled))
    plain = copy.deepcopy(ours)
    plain["14"]["inputs"]["model"] = ["1", 0]
    assert not np.array_equal(theirs, picture(client, plain))


def test_the_mask_and_the_face_of_an_old_graph_are_kept(client, vfa_graph):
    graph = sized(vfa_graph)
    half = {"class_type": "SolidMask", "inputs": {"value": 1.0, "width": SIDE // 2, "height": SIDE}}
    none = {"class_type": "SolidMask", "inputs": {"value": 0.0, "width": SIDE, "height": SIDE}}
    place = {"destination": ["m0", 0], "source": ["m1", 0], "x": 0, "y": 0, "operation": "add"}
    masks = {"m0": none, "m1": half, "m": {"class_type": "MaskComposite", "inputs": place}}
    masked = picture(client, old_graph(graph, attn_mask=["m", 0]) | masks)
    everywhere = picture(client, old_graph(graph))
    assert not np.array_equal(masked, everywhere)
    chosen = old_graph(graph, options=["o", 0])
    values = {"input_faces_order": "right-left", "input_faces_index": 0}
    chosen["o"] = {"class_type": "PulidFluxOptions", "inputs": values}
    assert np.array_equal(picture(client, chosen), everywhere), "the photo has one face"
    values["input_faces_index"] = 1
    with pytest.raises(GraphError, match="face 1 is asked for"):
        client.queue(chosen)


def test_the_server_tells_the_page_what_replaces_what(client):
    replaced = client.get("/node_replacements")
    new = {old: entries[0]["new_node_id"] for old, entries in replaced.items()}
    assert new["ApplyPulidFlux"] == "FlexIDApplyVFAFromPhoto"
    assert new["PulidFluxModelLoader"] == "FlexIDLoadIdentityAdapter"
    assert new["PulidFluxInsightFaceLoader"] == "FlexIDLoadFaceAnalyser"
    assert new["PulidFluxEvaClipLoader"] == "FlexIDLoadEvaClip"
    assert set(new.values()) <= client.object_info().keys()
