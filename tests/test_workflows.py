"""The workflow files: each graph is whole and tidy, names its models, and has an API twin."""

import itertools
import json

import pytest
from pack import ROOT
from PIL import Image
from templates import APIS, FOLDER, PAGES

pytestmark = pytest.mark.pure

GRAPHS = sorted(FOLDER.glob("*.json"))
SCHEMAS = json.loads((ROOT / "tests" / "nodes" / "schemas.json").read_text(encoding="utf-8"))
NOTE = "MarkdownNote"
ACTIVE, BYPASSED = 0, 4
TITLE = 30
"""Height of a node's title, which lies above its position."""
ERROR_BAR = 60
"""Pixels, as measured in the page."""
UPLOAD = "upload"
"""The button of Load Image: a widget with a value that is never sent."""
SEEDS = ("seed", "noise_seed")
"""The page keeps one more value after them: what happens to the seed after a run."""
MODEL_FILES = (".safetensors", ".pt", ".pth", ".bin")
ONE_CLICK = "https://huggingface.co/"
"""Where the missing-model dialog downloads from at one click."""

REAL = (
    "vfa",
    "flexid",
    "flexid_nodes",
    "flexid_sdxl",
    "balance",
    "editid",
    "id_guidance",
    "merge_adapters",
    "couple_flux",
    "compare_identity",
    "sweep",
)
DEMOS = (
    "demo",
    "flexid_demo",
    "flexid_nodes_demo",
    "balance_demo",
    "flexip_demo",
    "flexip_beside_vfa_demo",
    "editid_demo",
    "compare_identity_demo",
    "sweep_demo",
    "dynamicid_demo",
    "couple_demo",
)
MEASURED = ("compare_identity", "sweep", "compare_identity_demo", "sweep_demo")
"""They sample once with the person and once without."""
REFERENCES = ("flexip", "subject_in_style", "style_transfer")
"""For public IP-Adapter files on SD 1.5."""
GUIDED = ("guidance_kontext", "guidance_flux2", "guidance_qwen")
"""For models that take reference pictures: no file of ours and no face files."""
DYNAMICID = ("dynamicid", "dynamicid_couple", "dynamicid_group", "expression_sheet")
"""For SD 1.5 and DynamicID's files."""
RENAMED = {"CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors": "model.safetensors"}
"""Files that are published under a name that says nothing; the note tells what to call them."""
TWINS = (("flexid", "flexid_nodes"), ("flexid_demo", "flexid_nodes_demo"))
"""The same picture by one node, and by the three that it stands for."""

each_graph = pytest.mark.parametrize("path", GRAPHS, ids=lambda path: path.stem)


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def read_api(name):
    return read(APIS[name])


def by_id(graph):
    return {node["id"]: node for node in graph["nodes"]}


def test_each_graph_has_an_api_twin_and_each_twin_a_graph():
    assert set(GRAPHS) == set(PAGES.values())
    assert set(FOLDER.rglob("*.api.json")) == set(APIS.values())
    assert {*REAL, *REFERENCES, *GUIDED, *DYNAMICID, *DEMOS} == PAGES.keys()


@each_graph
def test_links_agree_with_the_slots_at_both_ends(path):
    graph = read(path)
    nodes, links = by_id(graph), {link[0]: link for link in graph["links"]}
    assert len(nodes) == len(graph["nodes"]) and len(links) == len(graph["links"])
    assert graph["last_node_id"] >= max(nodes) and graph["last_link_id"] >= max(links)
    for number, origin, out, target, slot, kind in graph["links"]:
        output, socket = nodes[origin]["outputs"][out], nodes[target]["inputs"][slot]
        assert number in output["links"] and socket["link"] == number
        assert output["type"] == kind and kind in socket["type"].split(",")
    ends = {one["link"] for node in nodes.values() for one in node["inputs"]} - {None}
    starts = {n for node in nodes.values() for out in node["outputs"] for n in out["links"] or ()}
    assert ends == starts == set(links)


@each_graph
def test_our_nodes_are_saved_as_their_schemas_say(path):
    for node in read(path)["nodes"]:
        if not node["type"].startswith("FlexID"):
            continue
        schema = SCHEMAS[node["type"]]
        ids = {one["id"]: one["type"] for one in schema["inputs"]}
        names = {one["name"].partition(".")[0]: one["type"] for one in node["inputs"]}
        assert names == {**ids, **{name: names[name] for name in growing(schema)}}, node["type"]
        kinds = [one["type"] for one in schema["outputs"]]
        assert [one["type"] for one in node["outputs"]] == kinds, node["type"]
        assert node["properties"]["cnr_id"] == "flexid"


def growing(schema):
    """Inputs that grow as they are connected: they are saved as name.slot0, name.slot1 ..."""
    return [one["id"] for one in schema["inputs"] if "template" in one]


def as_prompt(graph):
    """The API format of a graph without subgraphs, as far as these files go."""
    nodes, links = by_id(graph), {link[0]: link for link in graph["links"]}
    prompt = {}
    for node in nodes.values():
        if node["mode"] != ACTIVE or node["type"] == NOTE:
            continue
        values = iter(node.get("widgets_values", []))
        inputs = {}
        for one in node["inputs"]:
            if "widget" in one:
                value = next(values)
                inputs[one["name"]] = {"__value__": value} if isinstance(value, list) else value
                if one["name"] in SEEDS:
                    next(values)
            if one["link"] is not None and nodes[links[one["link"]][1]]["mode"] == ACTIVE:
                inputs[one["name"]] = [str(links[one["link"]][1]), links[one["link"]][2]]
        assert not list(values), f"{node['type']} has values without a widget"
        inputs.pop(UPLOAD, None)
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


@pytest.mark.parametrize("name", PAGES)
def test_the_api_twin_is_the_same_graph(name):
    twin, prompt = read_api(name), as_prompt(read(PAGES[name]))
    assert prompt.keys() == twin.keys()
    for number, node in twin.items():
        assert prompt[number]["class_type"] == node["class_type"]
        assert prompt[number]["inputs"] == node["inputs"], node["_meta"]["title"]


def test_the_vfa_graph_offers_a_gate_that_is_off():
    nodes = read(PAGES["vfa"])["nodes"]
    gate = next(node for node in nodes if node["type"] == "FlexIDWindow")
    apply = next(node for node in nodes if node["type"] == "FlexIDApplyVFA")
    assert gate["mode"] == BYPASSED
    socket = next(one for one in apply["inputs"] if one["name"] == "gate")
    assert socket["link"] in gate["outputs"][0]["links"]


def test_the_editid_graph_sets_both_controls_by_one_choice():
    """And is otherwise the graph of the anchor alone, so the two can be compared."""
    graph, plain = read_api("editid"), read_api("vfa")
    (number,) = graph.keys() - plain.keys()
    assert graph[number]["class_type"] == "FlexIDEditIDPreset"
    changed = {
        name: value
        for key, node in plain.items()
        for name, value in graph[key]["inputs"].items()
        if node["inputs"].get(name) != value
    }
    prompt, prefix = changed.pop("text"), changed.pop("filename_prefix")
    assert changed == {"mix": [number, 0], "query": [number, 1]}
    assert prefix == "editid" and "looking up" in prompt


def test_the_editid_demo_paints_as_the_demo_and_sets_both_controls():
    """At its full weight, so that the preset alone makes the difference."""
    nodes, plain = by_kind("editid_demo"), read_api("demo")
    kinds = {node["class_type"]: key for key, node in read_api("editid_demo").items()}
    preset = kinds["FlexIDEditIDPreset"]
    assert nodes["FlexIDEncodeIdentity"]["mix"] == [preset, 0]
    assert nodes["FlexIDApplyVFA"]["query"] == [preset, 1]
    for kind in ("KSampler", "FlexIDApplyVFA", "FlexIDEncodeIdentity"):
        told = next(n["inputs"] for n in plain.values() if n["class_type"] == kind)
        same = {name: value for name, value in told.items() if not isinstance(value, list)}
        assert {name: nodes[kind][name] for name in same} == same


def test_the_graph_of_flexip_beside_vfa_paints_what_was_measured_and_what_it_is_held_against():
    """The same noise, prompts and size for both, so that the ways alone differ: the rows vfa-1 and
    vfa-0.5+flexip-0.5 of the suite editid."""
    graph = read_api("flexip_beside_vfa_demo")
    titled = {node["_meta"]["title"]: (key, node["inputs"]) for key, node in graph.items()}
    alone, both = (titled[f"Sample by {way}"][1] for way in ("VFA alone", "both"))
    same = {name for name in alone if alone[name] == both[name]}
    assert alone.keys() - same == {"model", "positive", "negative"}
    demo = read_api("demo")["14"]["inputs"]
    assert all(alone[name] == value for name, value in demo.items() if not isinstance(value, list))
    (rigid, full), (light, half) = (titled[f"Apply VFA at {one}"] for one in ("1", "0.5"))
    assert (full["weight"], half["weight"]) == (1, 0.5) and alone["model"] == [rigid, 0]
    assert {k: v for k, v in full.items() if k != "weight"} == {
        k: v for k, v in half.items() if k != "weight"
    }
    flexip, beside = titled["Apply FlexIP"]
    assert (beside["balance"], beside["strength"], beside["law"]) == (0.5, 1, "auto")
    assert beside["model"] == [light, 0], "behind the anchor"
    assert [both[name] for name in ("model", "positive", "negative")] == [
        [flexip, output] for output in range(3)
    ]
    assert [beside[name] for name in ("positive", "negative")] == [
        alone[name] for name in ("positive", "negative")
    ]
    note = next(n for n in read(PAGES["flexip_beside_vfa_demo"])["nodes"] if n["type"] == NOTE)
    stored = read(ROOT / "mini" / "evaluation" / "editid.json")["rows"]
    (text,) = note["widgets_values"]
    for row in ("vfa-1", "vfa-0.5+flexip-0.5"):
        told = stored[row]["figures"]
        facesim, edits = told["similarity"]["mean"], 100 * told["edit"]["mean"]
        assert text.count(f"{facesim:.2f}") >= 2 and text.count(f"{edits:.0f} %") == 2, row
    seen = stored["vfa-0.5+flexip-0.5"]["figures"]
    for name, scale in (("trained_similarity", "{:.2f}"), ("trained_edit", "{:.0%}")):
        shown = scale.format(seen[name]["mean"]).replace("%", " %")
        assert text.count(shown) == 2, name


def test_the_guided_graph_is_the_anchor_and_one_node_behind_it():
    graph, plain = read_api("id_guidance"), read_api("vfa")
    added = {graph[key]["class_type"]: key for key in graph.keys() - plain.keys()}
    assert added.keys() == {"FlexIDApplyIDGuidance", "VAELoader"}
    guide = graph[added["FlexIDApplyIDGuidance"]]["inputs"]
    kinds = {name: graph[value[0]] for name, value in guide.items() if isinstance(value, list)}
    assert kinds.pop("vae")["_meta"]["title"] == "VAE for guidance"
    assert {name: one["class_type"] for name, one in kinds.items()} == {
        "model": "FlexIDApplyVFA",
        "analyser": "FlexIDLoadFaceAnalyser",
        "identity": "FlexIDEncodeIdentity",
    }
    (sampler,) = (n["inputs"] for n in graph.values() if n["class_type"] == "KSampler")
    assert sampler["model"] == [added["FlexIDApplyIDGuidance"], 0]


def test_the_merge_is_what_encodes_and_anchors():
    graph = read_api("merge_adapters")
    encode, apply, (number, merge) = (
        next((key, n["inputs"]) for key, n in graph.items() if n["class_type"] == kind)
        for kind in ("FlexIDEncodeIdentity", "FlexIDApplyVFA", "FlexIDMergeAdapters")
    )
    assert encode[1]["adapter"] == apply[1]["adapter"] == [number, 0]
    assert (merge["method"], merge["weights"]) == ("lerp", "0.7, 0.3")
    titles = [graph[merge[f"adapters.adapter{i}"][0]]["_meta"]["title"] for i in (0, 1)]
    assert titles == ["First adapter", "Your training"]


# Models


@pytest.mark.parametrize("name", [*REAL, *REFERENCES, *GUIDED, *DYNAMICID])
def test_real_files_can_be_found_by_the_missing_model_dialog(name):
    """It compares a widget's value with the name, and looks in the folder of the directory."""
    from flexid.model_patches.files.public_files import WEIGHTS

    known = {row.file: row for row in WEIGHTS}
    for node in read(PAGES[name])["nodes"]:
        if node["type"] == NOTE:
            continue
        values = node.get("widgets_values", [])
        named = [v for v in values if isinstance(v, str) and v.endswith(MODEL_FILES)]
        models = node["properties"].get("models", [])
        assert [model["name"] for model in models] == named, node["type"]
        for model in models:
            assert model["url"].startswith(ONE_CLICK)
            file = RENAMED.get(model["name"], model["name"])
            assert model["url"].endswith(f"/{file}") and "/resolve/" in model["url"]
            if row := known.get(model["name"]):
                assert (model["url"], model["directory"]) == (row.url, row.folder)


def check_note(nodes):
    """The note's text, which names every file of the graph by its address and folder."""
    text = next(node["widgets_values"][0] for node in nodes if node["type"] == NOTE)
    for node in nodes:
        for model in node["properties"].get("models", []):
            assert model["url"] in text and f"| {model['directory']} |" in text, model["name"]
    return text


@pytest.mark.parametrize("name", REFERENCES)
def test_the_note_says_how_to_get_the_vision_encoder(name):
    from flexid.model_patches.files.public_files import CLIP_VIT_H

    nodes = read(PAGES[name])["nodes"]
    [vision] = [node for node in nodes if node["type"] == "CLIPVisionLoader"]
    text = check_note(nodes)
    assert vision["widgets_values"] == [CLIP_VIT_H.file]
    assert CLIP_VIT_H.url in text and f"| {CLIP_VIT_H.folder} |" in text
    assert "*Fetch Models* (files: ip-adapter)" in text
    assert ("*balance*" in text) == (name != "style_transfer")


def test_the_style_of_a_picture_stays_in_the_layers_of_style():
    nodes = by_kind("style_transfer")
    assert nodes["FlexIDApplyFlexIP"]["blocks"] == "style"
    assert nodes["FlexIDEncodeFlexIP"]["view"] == "whole"
    assert "faces" not in nodes["FlexIDEncodeFlexIP"]


def test_the_photo_of_a_restyled_person_starts_late():
    nodes = by_kind("subject_in_style")
    assert nodes["FlexIDApplyFlexIP"]["blocks"] == "all"
    assert nodes["FlexIDWindow"]["start"] == 0.2 and nodes["FlexIDApplyFlexIP"]["balance"] < 0.5
    assert "gate" not in nodes["FlexIDApplyFlexIP"], "the window is for preservation alone"


@pytest.mark.parametrize("name", ["balance", "balance_demo"])
def test_one_slider_weighs_both_streams(name):
    nodes = by_kind(name)
    numbers = {node["class_type"]: key for key, node in read_api(name).items()}
    slider = nodes["FlexIDBalance"]
    assert (slider["balance"], slider["law"]) == (0.5, "crossfade")
    assert nodes["FlexIDApplyVFA"]["gate"] == [numbers["FlexIDBalance"], 0]
    assert nodes["FlexIDApplySIP"]["gate"] == [numbers["FlexIDBalance"], 1]


@pytest.mark.parametrize("name", MEASURED)
def test_what_is_compared_has_the_same_noise(name):
    """Pictures with and without the person differ by the model alone."""
    nodes = read_api(name)
    [compare] = [n["inputs"] for n in nodes.values() if n["class_type"] == "FlexIDCompareIdentity"]
    one, other = (
        nodes[nodes[compare[key][0]]["inputs"]["samples"][0]]["inputs"]
        for key in ("images", "plain")
    )
    assert {key for key in one if one[key] != other[key]} == {"model"}
    assert nodes[one["model"][0]]["class_type"] == "FlexIDApplyVFA"
    assert nodes[compare["reference"][0]]["class_type"] == "LoadImage"


@pytest.mark.parametrize("path", GRAPHS, ids=lambda path: path.stem)
def test_samplers_of_one_graph_keep_the_same_noise_after_a_run(path):
    """The page would draw another seed for each of them."""
    nodes = read(path)["nodes"]
    seeds = [n["widgets_values"][:2] for n in nodes if n["type"] in ("KSampler", "RandomNoise")]
    assert len(seeds) == 1 or all(one == [seeds[0][0], "fixed"] for one in seeds)


@pytest.mark.parametrize("name", ["sweep", "sweep_demo"])
def test_the_swept_weight_is_what_the_report_names(name):
    nodes = read_api(name)
    [values] = [key for key, n in nodes.items() if n["class_type"] == "FlexIDSweepValues"]
    [apply] = [n["inputs"] for n in nodes.values() if n["class_type"] == "FlexIDApplyVFA"]
    [report] = [n["inputs"] for n in nodes.values() if n["class_type"] == "FlexIDSweepReport"]
    [compare] = [key for key, n in nodes.items() if n["class_type"] == "FlexIDCompareIdentity"]
    assert apply["weight"] == report["values"] == [values, 0] and report["name"] == "weight"
    outputs = [one["id"] for one in SCHEMAS["FlexIDCompareIdentity"]["outputs"]]
    for axis, wanted in (("x", "likeness"), ("y", "change_outside")):
        key, number = report[axis]
        assert key == compare and outputs[number] == wanted
    assert (report["x_better"], report["y_better"]) == ("higher", "lower")


@pytest.mark.parametrize("name", GUIDED)
def test_the_note_of_a_guided_graph_names_its_files_and_both_weights(name):
    text = check_note(read(PAGES[name])["nodes"])
    assert "*weight*" in text and "*every*" in text


@pytest.mark.parametrize("name", GUIDED)
def test_the_gate_of_a_guided_graph_reads_the_prompt(name):
    """The prompt that the text encoder gets lowers the weight; both outputs reach the sampler."""
    nodes = read_api(name)
    key, apply = next(
        (key, node["inputs"])
        for key, node in nodes.items()
        if node["class_type"] == "FlexIDApplyReferenceGuidance"
    )
    gate = nodes[apply["gate"][0]]["inputs"]
    assert gate["bases"] == "nodes" and apply["gate"][1] == 1 and apply["weight"] == 1
    encoded = [
        node["inputs"].get("text", node["inputs"].get("prompt"))
        for node in nodes.values()
        if "Encode" in node["class_type"] and node["_meta"]["title"] != "Negative prompt"
    ]
    texts = [one for one in encoded if one is not None]
    assert texts and all(one == gate["prompt"] for one in texts)
    takers = [n["inputs"] for n in nodes.values() if n["inputs"].get("model") == [key, 0]]
    assert [taker["positive"] for taker in takers] == [[key, 1]]
    assert ("without" in apply) == (name == "guidance_qwen")


@pytest.mark.parametrize("name", REAL)
def test_the_note_names_every_file_and_folder_by_its_address(name):
    from flexid.model_patches.files.public_files import ANTELOPEV2, PARSING_BISENET

    nodes = read(PAGES[name])["nodes"]
    text = check_note(nodes)
    assert PARSING_BISENET.url in text
    assert ANTELOPEV2[0].repo in text and ANTELOPEV2[0].folder in text
    for row in ANTELOPEV2:
        assert row.file in text
    assert "non-commercial" in text


@pytest.mark.parametrize("name", DYNAMICID)
def test_the_note_of_a_dynamicid_graph_names_its_files(name):
    from flexid.model_patches.files.public_files import BUFFALO_L

    text = check_note(read(PAGES[name])["nodes"])
    for renamed in RENAMED:
        assert f"saved as / 保存为 {renamed}" in text
    assert all(row.file in text for row in BUFFALO_L) and "2d106det.onnx" in text
    assert BUFFALO_L[0].folder in text and "non-commercial" in text


@pytest.mark.parametrize("name", DYNAMICID)
def test_a_dynamicid_graph_samples_as_the_authors_do(name):
    kinds = [node["class_type"] for node in read_api(name).values()]
    sampler = next(n["inputs"] for n in read_api(name).values() if n["class_type"] == "KSampler")
    found = (sampler["steps"], sampler["sampler_name"], sampler["cfg"])
    assert found == (50, "ddim", 5)
    assert kinds.count("FlexIDApplySAA") == 1
    assert ("FlexIDWhoIsWhere" in kinds) == (name != "expression_sheet")


@pytest.mark.parametrize(
    ("name", "count"),
    [("dynamicid_couple", 2), ("dynamicid_group", 3), ("couple_flux", 2), ("couple_demo", 2)],
)
def test_every_person_has_a_box_and_is_looked_for(name, count):
    nodes = read_api(name)
    apply, check = (
        next(node["inputs"] for node in nodes.values() if node["class_type"] == kind)
        for kind in ("FlexIDApplySAA", "FlexIDWhoIsWhere")
    )
    people = [apply[f"people.person{number}"] for number in range(count)]
    assert people == [check[f"people.person{number}"] for number in range(count)]
    assert apply["elements"] == check["elements"]
    names = [nodes[key]["inputs"]["name"] for key, _ in people]
    places = nodes[apply["elements"][0]]["inputs"]
    boxes = places["editor_state"]["__value__"]
    assert [box["metadata"]["desc"] for box in boxes] == names and len(set(names)) == count
    size = next(n["inputs"] for n in nodes.values() if n["_meta"]["title"] == "Size")
    assert (places["width"], places["height"]) == (size["width"], size["height"])


def test_a_face_on_flux_works_as_trained_in_its_box_and_hardly_outside():
    """What the note says of weight and beta."""
    nodes = read_api("couple_flux")
    apply = next(n["inputs"] for n in nodes.values() if n["class_type"] == "FlexIDApplySAA")
    assert (apply["alpha"], apply["activation"], apply["mode"]) == (1, False, "corrected")
    weights = [nodes[apply[f"people.person{i}"][0]]["inputs"]["weight"] for i in (0, 1)]
    assert [weight * (1 + apply["beta"]) for weight in weights] == [1.0, 1.0]
    assert max(weights) / (1 + apply["beta"]) <= 0.04


def test_each_half_of_the_couple_asks_for_what_its_person_does():
    """Halves, boxes in them and people in one order: prompt, box, edit and person say the same."""
    nodes = read_api("couple_demo")
    apply, both = (
        next(n["inputs"] for n in nodes.values() if n["class_type"] == kind)
        for kind in ("FlexIDApplySAA", "ConditioningCombine")
    )
    boxes = nodes[apply["elements"][0]]["inputs"]["editor_state"]["__value__"]
    for number, mood in enumerate(("happy", "sad")):
        person = nodes[apply[f"people.person{number}"][0]]["inputs"]
        assert nodes[person["identity"][0]]["inputs"]["expression"] == mood
        area = nodes[both[f"conditioning_{number + 1}"][0]]["inputs"]
        box = boxes[number]
        for start, size in (("x", "width"), ("y", "height")):
            assert area[start] <= box[start]
            assert box[start] + box[size] <= area[start] + area[size]
        text = nodes[area["conditioning"][0]]["inputs"]["text"]
        assert person["prompt"] in text and person["name"] == box["metadata"]["desc"]


@pytest.mark.parametrize(("name", "count"), [("expression_sheet", 8), ("dynamicid_demo", 6)])
def test_the_sheet_says_each_target_in_its_prompt(name, count):
    nodes = read_api(name)
    edit, joined, encode = (
        next((key, n["inputs"]) for key, n in nodes.items() if n["class_type"] == kind)
        for kind in ("FlexIDEditExpressionAndPose", "StringConcatenate", "CLIPTextEncode")
    )
    assert joined[1]["string_b"] == [edit[0], 1] and encode[1]["text"] == [joined[0], 0]
    lines = edit[1]["targets"].splitlines()
    grid = next(node["inputs"] for node in nodes.values() if node["class_type"] == "ImageGrid")
    assert len(lines) == count and len(lines) % grid["columns"] == 0


@pytest.mark.parametrize("name", DEMOS)
def test_the_demo_needs_only_what_it_builds(name):
    from flexid.mini.world import WRITERS

    built = " ".join(WRITERS)
    for node in read_api(name).values():
        for value in node["inputs"].values():
            if isinstance(value, str) and value.endswith((*MODEL_FILES, ".onnx")):
                assert f"/{value} " in built + " "


def by_kind(name):
    """Class -> its inputs in an API graph; of the two prompts that of what is wanted."""
    nodes = [n for n in read_api(name).values() if n["_meta"]["title"] != "Negative prompt"]
    assert len({node["class_type"] for node in nodes}) == len(nodes)
    return {node["class_type"]: node["inputs"] for node in nodes}


@pytest.mark.parametrize("name", PAGES)
def test_a_prompt_fits_whoever_the_photo_shows(name):
    inputs = [node["inputs"] for node in read_api(name).values()]
    texts = [one.get(key) for one in inputs for key in ("text", "value", "string_a")]
    words = {
        word.strip(",.").lower() for text in texts if isinstance(text, str) for word in text.split()
    }
    assert "person" in words
    assert not words & {"woman", "man", "girl", "boy", "lady", "female", "male", "she", "he"}


@pytest.mark.parametrize("name", [name for pair in TWINS for name in pair])
def test_the_gate_reads_the_prompt_that_is_encoded(name):
    """Both streams' weights come from the words that the text encoder got."""
    nodes = by_kind(name)
    encode = nodes["CLIPTextEncode"]
    gate = nodes.get("FlexIDApply") or nodes["FlexIDContextAwareGate"]
    lean = nodes.get("FlexIDApply") or nodes["FlexIDApplySIP"]
    assert isinstance(gate["prompt"], list)
    assert gate["prompt"] == encode["text"] == lean.get("text", gate["prompt"])
    assert lean["clip"] == encode["clip"]


@pytest.mark.parametrize(("one", "three"), TWINS)
def test_the_separate_nodes_are_set_as_the_one_node(one, three):
    whole, parts = by_kind(one), by_kind(three)
    gate, sip, vfa = (parts[f"FlexID{x}"] for x in ("ContextAwareGate", "ApplySIP", "ApplyVFA"))
    numbers = {node["class_type"]: key for key, node in read_api(three).items()}
    assert sip["gate"] == [numbers["FlexIDContextAwareGate"], 0]
    assert vfa["gate"] == [numbers["FlexIDContextAwareGate"], 1]
    assert vfa["model"] == [numbers["FlexIDApplySIP"], 1]
    assert gate["bases"] == "nodes", "a bypassed gate must leave both streams at their base"
    knobs = {**gate, **vfa, **sip, "alpha_base": sip["alpha"], "w_base": vfa["weight"]}
    for name, value in whole["FlexIDApply"].items():
        if not isinstance(value, list):
            assert knobs[name] == value, name
    for kind in whole.keys() - {"FlexIDApply"}:
        settings = [
            {k: v for k, v in graph[kind].items() if not isinstance(v, list)}
            for graph in (whole, parts)
        ]
        for each in settings:
            each.pop("filename_prefix", None)
        assert settings[0] == settings[1], kind


@pytest.mark.parametrize("name", ["flexid", "flexid_nodes"])
def test_flux_dev_samples_as_in_the_paper(name):
    nodes = by_kind(name)
    sampler = nodes["KSampler"]
    assert (sampler["steps"], sampler["sampler_name"], sampler["cfg"]) == (25, "euler", 1)
    assert nodes["FluxGuidance"]["guidance"] == 4.0


# Layout


def box(node):
    x, y = node["pos"]
    return x, y - TITLE, x + node["size"][0], y + node["size"][1]


def apart(one, other):
    return one[2] <= other[0] or other[2] <= one[0] or one[3] <= other[1] or other[3] <= one[1]


@each_graph
def test_nothing_overlaps_and_groups_hold_whole_nodes(path):
    graph = read(path)
    boxes = {f"{node['id']} {node['type']}": box(node) for node in graph["nodes"]}
    for (name, one), (other_name, other) in itertools.combinations(boxes.items(), 2):
        assert apart(one, other), f"{name} overlaps {other_name}"
    for group in graph["groups"]:
        x, y, width, height = group["bounding"]
        frame = x, y, x + width, y + height
        for name, one in boxes.items():
            inside = x <= one[0] and y <= one[1] and one[2] <= frame[2] and one[3] <= frame[3]
            assert inside or apart(one, frame), f"{name} sticks out of {group['title']}"
    for one, other in itertools.combinations(graph["groups"], 2):
        frames = [(x, y, x + w, y + h) for x, y, w, h in (one["bounding"], other["bounding"])]
        assert apart(*frames), f"{one['title']} overlaps {other['title']}"


@each_graph
def test_groups_leave_room_for_the_bar_of_an_error(path):
    """Nodes 2.0 draws it below a loader whose file is missing; our nodes have a badge as well."""
    graph = read(path)
    for node in graph["nodes"]:
        needed = ERROR_BAR if node["type"].startswith("FlexIDLoad") else 30
        if "models" not in node["properties"]:
            continue
        _, top, _, bottom = box(node)
        for group in graph["groups"]:
            x, y, width, height = group["bounding"]
            if x <= node["pos"][0] < x + width and y <= top < y + height:
                assert y + height - bottom >= needed, (node["type"], group["title"])


@each_graph
def test_the_graph_reads_from_left_to_right(path):
    """No link runs back by more than its own column."""
    graph = read(path)
    nodes = by_id(graph)
    for _, origin, _, target, _, kind in graph["links"]:
        assert nodes[target]["pos"][0] >= nodes[origin]["pos"][0], (kind, origin, target)


@each_graph
def test_the_thumbnail_is_square_and_small(path):
    picture = path.with_suffix(".jpg")
    assert picture.stat().st_size < 60_000
    with Image.open(picture) as image:
        assert image.format == "JPEG" and image.size == (512, 512)
        darkest, brightest = image.convert("L").getextrema()
        assert brightest - darkest > 100
