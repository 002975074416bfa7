"""Workflows as recipes: slots, the twin without the person, rows and the command line."""

import json

import pytest
from flexid.ibench import options
from flexid.ibench.graphs import (
    PASSED_ON,
    GraphError,
    Place,
    describe,
    read_recipe,
    rename_files,
    set_inputs,
    without_person,
)
from flexid.ibench.rows import ALONE, EQUAL, GIVEN, ROWS, WORKFLOWS, load_graph, row_of
from pack import ROOT

pytestmark = pytest.mark.pure


def workflow(name):
    return load_graph(WORKFLOWS / f"{name}.api.json")


def node(kind, title="", **inputs):
    return {"class_type": kind, "inputs": inputs, "_meta": {"title": title} if title else {}}


def small(**changes):
    """A graph of the user's, without any node of FlexID."""
    graph = {
        "1": node("Checkpoint"),
        "2": node("LoadImage", image="me.png"),
        "3": node("CLIPTextEncode", "Prompt", text="x", clip=["1", 1]),
        "4": node("Adapter", model=["1", 0], image=["2", 0]),
        "5": node("KSampler", model=["4", 0], positive=["3", 0], seed=1),
        "6": node("SaveImage", images=["5", 0]),
    }
    return graph | changes


def test_each_apply_node_of_the_pack_can_be_bypassed():
    """What an output NAME_out is made of comes in as NAME."""
    schemas = json.loads((ROOT / "tests/nodes/schemas.json").read_text(encoding="utf-8"))
    wanted = {
        name: [one["id"].removesuffix("_out") for one in schema["outputs"]]
        for name, schema in schemas.items()
        if name.startswith("FlexIDApply")
    }
    assert PASSED_ON.keys() == wanted.keys()
    for name, passed in PASSED_ON.items():
        inputs = {one["id"] for one in schemas[name]["inputs"]}
        assert set(passed) <= inputs
        assert list(passed) == wanted[name][: len(passed)]
        assert not set(wanted[name][len(passed) :]) & inputs - {"identity"}, name


@pytest.mark.parametrize("row", [one for one in ROWS if one is not ALONE], ids=lambda one: one.key)
def test_every_row_has_its_slots_and_a_twin_without_the_person(row):
    for graph in row.graphs():
        recipe = read_recipe(graph)
        made = recipe.fill("a man laughs", 123, "photo.png")
        assert made[recipe.prompt.node]["inputs"][recipe.prompt.input] == "a man laughs"
        assert made[recipe.photo.node]["inputs"]["image"] == "photo.png"
        assert [n["inputs"]["seed"] for n in made.values() if "seed" in n["inputs"]] == [123]
        plain = without_person(recipe)
        kinds = {one["class_type"] for one in plain.graph.values()}
        assert not kinds & PASSED_ON.keys() and "LoadImage" not in kinds and plain.photo is None
        assert not any(kind.startswith("FlexIDEncode") for kind in kinds)


def test_rows_of_one_model_share_their_plain_twin():
    """The prompt's own node and the numbers of nodes make no difference."""
    for index in (0, 1):
        twins = [
            without_person(read_recipe(row_of(key).graphs()[index]))
            for key in ("vfa-0.5", "flexid", "editid-balanced")
        ]
        told = [describe(one.fill("x", 1, ""), one.result.node) for one in twins]
        assert told[0] == told[1] == told[2]
    slider = workflow("flexid")
    for name, value in EQUAL["vfa"].items():
        assert any(one["inputs"].get(name) == value for one in slider.values()), name


def test_weights_and_presets_reach_their_nodes():
    assert row_of("vfa-0.9").graphs()[0]["10"]["inputs"]["weight"] == 0.9
    for graph in row_of("editid-editability").graphs():
        [preset] = [k for k, n in graph.items() if n["class_type"] == "FlexIDEditIDPreset"]
        inputs = {n["class_type"]: n["inputs"] for n in graph.values()}
        assert graph[preset]["inputs"] == {"preset": "editability"}
        assert inputs["FlexIDEncodeIdentity"]["mix"] == [preset, 0]
        assert inputs["FlexIDApplyVFA"]["query"] == [preset, 1]


def test_a_graph_of_the_user():
    recipe = read_recipe(small())
    assert (recipe.prompt, recipe.photo, recipe.result) == (
        Place("3", "text"),
        Place("2", "image"),
        Place("6"),
    )
    assert without_person(recipe) is None, "nothing says which of its nodes bring the person in"
    named = {"prompt": Place("3", "text"), "photo": Place("2", "image"), "result": Place("6")}
    other = small(**{"3": node("CLIPTextEncode", text="x"), "7": node("LoadImage", image="b")})
    assert read_recipe(other, named).photo == Place("2", "image")


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"3": node("CLIPTextEncode", text="x")}, '0 nodes are titled "Prompt"'),
        ({"3": node("CLIPTextEncode", "Prompt", text=["1", 0])}, "0 texts among text"),
        ({"5": node("Sampler", a=["4", 0], positive=["3", 0])}, "0 nodes have an input seed"),
        ({"4": node("Adapter", model=["1", 0])}, "0 Load Image nodes lead to the result"),
        ({"7": node("SaveImage", images=["5", 0])}, "2 nodes save a picture"),
        ({"5": node("KSampler", model=["9", 0], seed=1)}, "a link leads to node 9"),
    ],
)
def test_what_a_graph_lacks(changes, words):
    with pytest.raises(GraphError, match=words):
        read_recipe(small(**changes))


def test_slots_that_are_not_there():
    with pytest.raises(GraphError, match="slot prompt is in node 9"):
        read_recipe(small(), {"prompt": Place("9", "text")})
    with pytest.raises(GraphError, match="input words of node 3, which has text, clip"):
        read_recipe(small(), {"prompt": Place("3", "words")})


def test_a_twin_that_cannot_be_made():
    graph = small(**{"4": node("FlexIDApply", conditioning=["3", 0], image=["2", 0])})
    with pytest.raises(GraphError, match="output 0 of FlexIDApply is read"):
        without_person(read_recipe(graph))


def test_inputs_and_files_of_all_nodes():
    made = set_inputs(small(), {"seed": 9, "model": "never: a link stays"})
    assert made["5"]["inputs"]["seed"] == 9 and made["5"]["inputs"]["model"] == ["4", 0]
    assert rename_files(small(), {"me.png": "you.png"})["2"]["inputs"]["image"] == "you.png"
    assert small()["5"]["inputs"]["seed"] == 1


def test_rows_by_name(tmp_path):
    assert row_of("given") is GIVEN and row_of("alone") is ALONE
    file = tmp_path / "mine.api.json"
    file.write_text(json.dumps(small()), encoding="utf-8")
    assert row_of(f"mine={file}").graphs() == [small()]
    for text, words in (
        ("best", "no row is called 'best'"),
        ("mine=/nothing", "there is no file"),
        (f"vfa-1={file}", "cannot name a row"),
        (f"a b={file}", "cannot name a row"),
    ):
        with pytest.raises(ValueError, match=words):
            row_of(text)


def test_a_workflow_in_the_page_s_format_is_refused():
    [page] = [one for one in ROOT.glob("workflows/*.json") if one.stem == "Keep a face (demo)"]
    with pytest.raises(GraphError, match="not in API format"):
        load_graph(page)


def refuse(capsys, *words):
    with pytest.raises(SystemExit):
        options.parse(["--data", "d", *words])
    return capsys.readouterr().err


def test_the_command_line(tmp_path, capsys):
    file = tmp_path / "g.json"
    file.write_text(json.dumps(small()), encoding="utf-8")
    words = ["--data", "d", "--rows", "alone", f"g={file}", "--set", "steps=4", "sampler_name=ddim"]
    chosen = options.parse([*words, "--slot", "g.prompt=3.text", "g.result=6"])
    assert [row.key for row in chosen.rows] == ["alone", "g"]
    assert dict(chosen.set) == {"steps": 4, "sampler_name": "ddim"}
    assert chosen.slot == [("g", "prompt", Place("3", "text")), ("g", "result", Place("6"))]
    assert "twice" in refuse(capsys, "--rows", "alone", "alone")
    assert "is not NAME=VALUE" in refuse(capsys, "--set", "steps")
    assert "--rows has no h" in refuse(capsys, "--rows", "alone", "--slot", "h.result=6")
    assert "a result is NODE alone" in refuse(capsys, "--slot", "g.result=6.images")
    assert "is not one of ROW.prompt" in refuse(capsys, "--slot", "g.seed=6.seed")
    assert "no such folder" in refuse(capsys, "--models", str(tmp_path / "none"))
    assert "1 to 1024" in refuse(capsys, "--workers", "0")
