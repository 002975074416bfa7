"""Prompts made for other PuLID packs become ours; prompts of anybody else pass untouched."""

import asyncio
import copy
import logging
from types import SimpleNamespace

import pytest
from flexid.nodes import NODES
from flexid.nodes.replacements import (
    OURS,
    REPLACEMENTS,
    VALUES,
    register_replacements,
    translate_prompt,
)

import nodes

pytestmark = pytest.mark.comfy

SCHEMAS = {node.__name__: node.define_schema() for node in NODES}
LINKS = ("model", "pulid_flux", "eva_clip", "face_analysis", "image")
# ComfyUI replaces nodes in the order of a set of strings: names that sort every which way.
NAMES = [list("1234"), list("4321"), ["b:7", "12", "99", "3"], ["31", "a", "x:y", "0"]]


@pytest.fixture
def handlers(monkeypatch):
    """The server's prompt handlers after our registration; core's replacement is the last one."""
    from app.node_replace_manager import NodeReplaceManager
    from server import PromptServer

    found, manager = [], NodeReplaceManager()
    server = SimpleNamespace(
        node_replace_manager=manager, add_on_prompt_handler=found.append, manager=manager
    )
    monkeypatch.setattr(PromptServer, "instance", server, raising=False)
    for node_id in SCHEMAS:
        monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, node_id, object)
    asyncio.run(register_replacements())
    return found


def queue(prompt, handlers):
    """The prompt as ComfyUI's POST /prompt leaves it."""
    from server import PromptServer

    data = {"prompt": prompt, "client_id": "somebody"}
    for handler in handlers:
        data = handler(data)
    PromptServer.instance.node_replace_manager.apply_replacements(data["prompt"])
    assert data["client_id"] == "somebody"
    return data["prompt"]


def old_prompt(names="1234", prefix="", **more):
    """As PuLID packs' own API prompts: without `_meta`, and without what is not connected."""
    loader, analyser, tower, apply = names
    links = {"model": ["m", 0], "image": ["i", 0]}
    links |= {"pulid_flux": [loader, 0], "eva_clip": [tower, 0], "face_analysis": [analyser, 0]}
    values = {"weight": 0.8, "start_at": 0.1, "end_at": 0.9}
    rows = {
        loader: ("PulidFluxModelLoader", {"pulid_file": "pulid_flux_v0.9.1.safetensors"}),
        analyser: ("PulidFluxInsightFaceLoader", {"provider": "CUDA"}),
        tower: ("PulidFluxEvaClipLoader", {}),
        apply: ("ApplyPulidFlux", {**links, **values, **more}),
    }
    prompt = {
        key: {"class_type": prefix + kind, "inputs": inputs} for key, (kind, inputs) in rows.items()
    }
    return prompt | {"s": {"class_type": "KSampler", "inputs": {"model": [apply, 0]}}}


@pytest.mark.parametrize("meta", [False, True], ids=["without _meta", "with _meta"])
@pytest.mark.parametrize("prefix", ["", "GR"], ids=["most packs", "GR"])
@pytest.mark.parametrize("names", NAMES, ids=" ".join)
def test_old_prompts_become_ours(handlers, names, prefix, meta):
    old = old_prompt(names, prefix)
    if meta:
        old = {key: {**node, "_meta": {"title": key}} for key, node in old.items()}
    prompt = queue(old, handlers)
    loader, analyser, tower, apply = (prompt[key] for key in names)
    assert [node["class_type"] for node in (loader, analyser, tower, apply)] == [
        "FlexIDLoadIdentityAdapter",
        "FlexIDLoadFaceAnalyser",
        "FlexIDLoadEvaClip",
        "FlexIDApplyVFAFromPhoto",
    ]
    for node in (loader, analyser, tower, apply):
        required = {i.id for i in SCHEMAS[node["class_type"]].inputs if not i.optional}
        assert required == set(node["inputs"]), node
    assert loader["inputs"]["file"] == "pulid_flux_v0.9.1.safetensors"
    assert apply["inputs"]["pulid_flux"] == [names[0], 0]
    assert apply["inputs"]["face_analysis"] == [names[1], 0]
    assert [apply["inputs"][key] for key in ("weight", "start", "end")] == [0.8, 0.1, 0.9]
    assert apply["inputs"]["negative"] == "same"
    assert prompt["s"]["inputs"]["model"] == [names[3], 0]
    if meta:
        assert apply["_meta"] == {"title": names[3]}


def test_the_provider_of_the_author_is_not_kept(handlers):
    """Another machine has another onnxruntime."""
    assert queue(old_prompt(), handlers)["2"]["inputs"]["provider"] == "auto"


def test_a_mask_and_a_face_choice_are_kept(handlers):
    old = old_prompt(attn_mask=["i", 1], options=["o", 0])
    values = {"input_faces_order": "left-right", "input_faces_index": 1}
    old["o"] = {"class_type": "PulidFluxOptions", "inputs": values}
    prompt = queue(old, handlers)
    assert prompt["4"]["inputs"]["mask"] == ["i", 1]
    assert prompt["4"]["inputs"]["options"] == ["o", 0]
    assert prompt["o"] == {
        "class_type": "FlexIDChooseFace",
        "inputs": {"order": "left to right", "index": 1},
    }


def test_what_cannot_be_kept_is_on_the_console(handlers, caplog):
    more = {"fusion": "train_weight", "use_gray": False, "train_step": 9, "prior_image": ["i", 0]}
    with caplog.at_level(logging.WARNING):
        queue(old_prompt(**more), handlers)
    said = " ".join(record.getMessage() for record in caplog.records)
    for name in ("fusion", "use_gray", "prior_image"):
        assert f"node 4 (ApplyPulidFlux): {name} is not carried over" in said
    caplog.clear()
    queue(old_prompt(fusion="mean", use_gray=True, attn_mask=None), handlers)
    assert not caplog.records, "ours does the same"


FOREIGN = [
    None,
    [],
    "prompt",
    {},
    {"prompt": None},
    {"prompt": []},
    {"prompt": {"1": None}},
    {"prompt": {"1": []}},
    {"prompt": {1: {"class_type": "ApplyPulidFlux"}}},
    {"prompt": {"1": {"class_type": "ApplyPulidFlux", "inputs": None}}},
    {"prompt": {"1": {"class_type": ["ApplyPulidFlux"], "inputs": {}}}},
    {"prompt": {"1": {"class_type": {}, "inputs": {}}}},
    {"prompt": {"1": {"inputs": {"model": ["2", 0]}}}},
    {"prompt": {"1": {"class_type": "KSampler", "inputs": {"a": [1, 2, 3], "b": None}}}},
    {"prompt": {"1": {"class_type": "FlexIDApplyVFA", "inputs": {"order": "left-right"}}}},
    {"prompt": {"1": {"class_type": "PulidFluxFaceDetector", "inputs": {}}}, "number": -1},
]


@pytest.mark.parametrize("data", FOREIGN, ids=repr)
def test_other_prompts_pass_unchanged(handlers, data):
    before = copy.deepcopy(data)
    assert translate_prompt(data) is data
    assert data == before


def test_nodes_between_old_ones_stay_the_same_objects(handlers):
    old = old_prompt()
    prompt = translate_prompt({"prompt": old})["prompt"]
    assert prompt["s"] is old["s"]
    assert old == old_prompt(), "the request itself is not changed"


def test_damaged_old_nodes_are_passed_on_for_comfyui_to_refuse(handlers):
    old = {
        "1": {"class_type": "ApplyPulidFlux", "inputs": {}},
        "2": {"class_type": "PulidFluxOptions", "inputs": {"input_faces_order": ["3", 0]}},
        "3": {"class_type": "PulidFluxOptions", "inputs": {"input_faces_order": "any"}},
    }
    prompt = queue(old, handlers)
    assert prompt["1"]["inputs"] == {"axis": "percent", "negative": "same"}
    assert prompt["2"]["inputs"]["order"] == ["3", 0]
    assert prompt["3"]["inputs"]["order"] == "any"


def test_installed_packs_keep_their_nodes(handlers, monkeypatch):
    monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, "ApplyPulidFlux", object)
    prompt = translate_prompt({"prompt": old_prompt()})["prompt"]
    assert prompt["4"] == old_prompt()["4"]
    assert prompt["1"]["class_type"] == "FlexIDLoadIdentityAdapter"


def test_a_pack_that_registered_a_replacement_first_keeps_it(handlers):
    from server import PromptServer

    manager = PromptServer.instance.node_replace_manager
    other = SimpleNamespace(new_node_id="Other", old_node_id="ApplyPulidFlux")
    manager.get_replacement("ApplyPulidFlux").insert(0, other)
    prompt = translate_prompt({"prompt": old_prompt()})["prompt"]
    assert prompt["4"]["class_type"] == "ApplyPulidFlux"


def test_replacements_name_real_inputs_and_keep_the_place_of_the_output():
    for replacement in REPLACEMENTS:
        ids = {i.id for i in SCHEMAS[replacement.new_node_id].inputs}
        assert {mapping["new_id"] for mapping in replacement.input_mapping} <= ids
        assert replacement.output_mapping == [{"new_idx": 0, "old_idx": 0}]
    assert len(OURS) == len(REPLACEMENTS)


@pytest.mark.parametrize(
    ("node", "name"), [("FlexIDChooseFace", "order"), ("FlexIDApplyVFAFromPhoto", "method")]
)
def test_old_values_become_those_of_our_combo(node, name):
    combo = next(i for i in SCHEMAS[node].inputs if i.id == name)
    assert sorted(VALUES[name].values()) == sorted(combo.options)


def sdxl_prompt(kind, **values):
    """As graphs for PuLID on SDXL have it."""
    old = old_prompt(**values)
    for key in "1234":
        old[key]["class_type"] = old[key]["class_type"].replace("Flux", "")
    old["4"]["class_type"] = kind
    old["4"]["inputs"]["pulid"] = old["4"]["inputs"].pop("pulid_flux")
    return old


@pytest.mark.parametrize(
    ("kind", "values", "method"),
    [
        ("ApplyPulid", {"method": "style"}, "style"),
        ("ApplyPulid", {"method": "fidelity"}, "fidelity"),
        ("ApplyPulidAdvanced", {"projection": "ortho_v2", "fidelity": 8, "noise": 0}, "fidelity"),
        ("ApplyPulidAdvanced", {"projection": "none", "fidelity": 8, "noise": 0}, "neutral"),
    ],
)
def test_prompts_for_sdxl_become_ours(handlers, kind, values, method):
    prompt = queue(sdxl_prompt(kind, attn_mask=["i", 1], **values), handlers)
    apply = prompt["4"]["inputs"]
    assert prompt["4"]["class_type"] == "FlexIDApplyVFAFromPhoto"
    assert (apply["method"], apply["negative"]) == (method, "unconditional")
    assert apply["pulid_flux"] == ["1", 0] and apply["mask"] == ["i", 1]
    assert [apply[key] for key in ("weight", "start", "end")] == [0.8, 0.1, 0.9]
    assert {prompt[key]["class_type"] for key in "123"} == {
        "FlexIDLoadIdentityAdapter",
        "FlexIDLoadFaceAnalyser",
        "FlexIDLoadEvaClip",
    }
    required = {i.id for i in SCHEMAS["FlexIDApplyVFAFromPhoto"].inputs if not i.optional}
    assert required <= apply.keys()


def test_what_sdxl_prompts_lose_is_on_the_console(handlers, caplog):
    values = {"projection": "ortho", "fidelity": 12, "noise": 0.3}
    with caplog.at_level(logging.WARNING):
        queue(sdxl_prompt("ApplyPulidAdvanced", **values), handlers)
    said = " ".join(record.getMessage() for record in caplog.records)
    for name in values:
        assert f"node 4 (ApplyPulidAdvanced): {name} is not carried over" in said
    caplog.clear()
    queue(sdxl_prompt("ApplyPulidAdvanced", projection="ortho_v2", fidelity=8, noise=0), handlers)
    assert not caplog.records


def test_what_fits_no_model_of_ours_is_not_offered():
    """PuLID for Flux.2: other files for another model, which Apply VFA refuses."""
    assert "ApplyPuLIDFlux2" not in OURS
