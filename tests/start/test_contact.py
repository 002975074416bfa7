"""The contact sheet's graph and notes, and the command that measures the small world."""

import importlib
import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from flexid.mini import world as mini_world
from flexid.mini.study.prompts import all_prompts
from flexid.setup import contact, demo, study, world
from flexid.setup.client import GraphError
from flexid.setup.console import SetupError
from flexid.setup.environment import Environment
from pack import ROOT

pytestmark = pytest.mark.pure

SCHEMAS = json.loads((ROOT / "tests" / "nodes" / "schemas.json").read_text(encoding="utf-8"))


def defaults(kind):
    """As a server would answer; core nodes' own defaults do not matter here."""
    inputs = SCHEMAS.get(kind, {"inputs": []})["inputs"]
    return {one["id"]: one["default"] for one in inputs if one.get("default") is not None}


@pytest.fixture
def graph():
    return contact.sheet_graph("me.png", "auto", defaults)


def of_kind(graph, kind):
    return {number: node for number, node in graph.items() if node["class_type"] == kind}


def test_one_picture_per_prompt_and_column(graph):
    savers = of_kind(graph, "SaveImage").values()
    names = {node["inputs"]["filename_prefix"] for node in savers}
    assert names == {f"sheet_{line}_{column}" for line in range(3) for column in range(4)}
    assert len(of_kind(graph, "KSampler")) == len(savers) == 12


def test_every_link_leads_to_a_node(graph):
    for node in graph.values():
        for value in node["inputs"].values():
            assert not isinstance(value, list) or value[0] in graph, node["_meta"]["title"]


def test_our_nodes_get_inputs_that_they_have(graph):
    for node in graph.values():
        if node["class_type"].startswith("FlexID"):
            known = {one["id"] for one in SCHEMAS[node["class_type"]]["inputs"]}
            assert node["inputs"].keys() <= known, node["class_type"]


def test_columns_differ_in_the_person_only(graph):
    """The same noise and sampler in a line; prompt alone gets the bare model."""
    samplers = list(of_kind(graph, "KSampler").values())
    for line in range(3):
        four = [node["inputs"] for node in samplers[4 * line : 4 * line + 4]]
        for name in ("seed", "steps", "cfg", "sampler_name", "latent_image", "negative"):
            assert len({json.dumps(one[name]) for one in four}) == 1
        kinds = [graph[one["model"][0]]["class_type"] for one in four]
        assert kinds == ["UNETLoader", "FlexIDApplyVFA", "FlexIDApplyVFA", "FlexIDApply"]
        rigid, gated = (graph[one["model"][0]]["inputs"] for one in four[1:3])
        assert "gate" not in rigid and graph[gated["gate"][0]]["class_type"].endswith("AwareGate")
    assert len({node["inputs"]["seed"] for node in samplers}) == 3


def test_gate_and_text_read_the_same_prompt(graph):
    nothing, *texts = [n["inputs"]["text"] for n in of_kind(graph, "CLIPTextEncode").values()]
    assert nothing == "" and len(texts) == 3
    for kind in ("FlexIDContextAwareGate", "FlexIDApply"):
        assert [node["inputs"]["prompt"] for node in of_kind(graph, kind).values()] == texts


def test_the_prompts_are_an_expression_a_pose_and_a_style():
    known = {prompt.id: prompt for prompt in all_prompts()}
    assert [known[name].asked for name in contact.PROMPTS] == [
        ("expression",),
        ("pose",),
        ("style",),
    ]
    assert [entry["text"] for entry in contact.prompts()] == [
        known[name].text for name in contact.PROMPTS
    ]


def test_the_graph_uses_the_files_that_are_built(graph):
    names = {str(value) for node in graph.values() for value in node["inputs"].values()}
    others = {mini_world.FLEXIP, mini_world.SAA, mini_world.IMR, mini_world.KEY_POINTS}
    for path in set(mini_world.WRITERS) - others:
        expected = path.split("/")[-2] if path.endswith(".onnx") else path.split("/")[-1]
        assert expected in names, path


class NoServer:
    def object_info(self, kind):
        return {kind: {"input": {"required": {"a": ["INT", {"default": 3}], "b": ["MODEL"]}}}}


def test_defaults_are_those_of_the_server():
    assert contact.defaults_from(NoServer())("KSampler") == {"a": 3}


def test_the_drawn_person_gets_the_small_worlds_detector_and_photos_the_bundled_one(monkeypatch):
    monkeypatch.setattr(contact, "is_trained", lambda: True)
    assert contact.choose_detector(own_photo=True) == "bundled"
    assert contact.choose_detector(own_photo=False) == "auto"
    monkeypatch.setattr(contact, "is_trained", lambda: False)
    assert contact.choose_detector(own_photo=False) == "bundled", "the sample is a photograph then"


def test_the_graph_looks_with_the_detector_that_was_chosen():
    """And with no other: a second try by the small world's own finds faces in coffee cups."""
    tried = []

    def run(client, graph):
        (analyser,) = of_kind(graph, "FlexIDLoadFaceAnalyser").values()
        tried.append(analyser["inputs"]["detector"])
        raise GraphError("node 6 (FlexIDDetectFaces) failed: no face")

    with pytest.raises(GraphError, match="no face"):
        contact.paint(NoServer(), "me.png", "bundled", run)
    assert tried == ["bundled"]


def test_the_note_says_what_the_pictures_are_not(monkeypatch):
    monkeypatch.setattr(contact, "is_trained", lambda: False)
    assert "untrained" in contact.note(own_photo=True)
    monkeypatch.setattr(contact, "is_trained", lambda: True)
    assert "cartoons" in contact.note(own_photo=True) and "photograph" in contact.note(True)
    assert "evaluate" in contact.note(own_photo=False)


def captions(monkeypatch):
    """Collects what is written and ticked on sheets."""
    sheet = importlib.import_module("flexid.mini.study.sheet")
    seen = []
    write = sheet.Pen.text
    monkeypatch.setattr(
        sheet.Pen, "text", lambda pen, where, text, *more, **words: (
            seen.append(text), write(pen, where, text, *more, **words)))  # fmt: skip
    monkeypatch.setattr(sheet.Pen, "mark", lambda *_: seen.append("tick or cross"))
    return seen


@pytest.mark.parametrize("embedding", [None, [1.0] * 512])
def test_pictures_without_a_likeness_get_no_ticks(tmp_path, monkeypatch, embedding):
    image, np = pytest.importorskip("PIL.Image"), pytest.importorskip("numpy")
    pytest.importorskip("onnxruntime")
    sheet_job = importlib.import_module("flexid.mini.study.sheet_job")
    judge = importlib.import_module("flexid.mini.study.judge")

    class Judging:
        def look(self, rgb, embedding):
            return judge.Seen(0.4, (1, 2, 3, 4), "happy", (0, 0, 0), "photo")

    monkeypatch.setattr(sheet_job, "load_analyser", lambda *_: None)
    monkeypatch.setattr(sheet_job, "open_judges", lambda *_: {"independent": Judging()})
    seen = captions(monkeypatch)
    face = tmp_path / "face.png"
    image.new("RGB", (40, 40), (200, 30, 30)).save(face)
    manifest = {
        "models": str(tmp_path), "face": str(face), "output": str(tmp_path / "sheet.png"),
        "title": "t", "subtitle": "s", "columns": ["one"], "foot": "f", "embedding": embedding,
        "lines": [{"prompt": "laughing", "pictures": [str(face)]}],
    }  # fmt: skip
    (tmp_path / "m.json").write_text(json.dumps(manifest))
    sheet_job.make(tmp_path / "m.json")
    assert ("tick or cross" in seen) is (embedding is not None)
    assert ("FaceSim 0.40" in seen) is (embedding is not None)
    assert "face used" in seen
    with image.open(tmp_path / "sheet.png") as made:
        red = np.abs(np.asarray(made.convert("RGB")).astype(int) - (200, 30, 30)).sum(-1) < 6
    assert red.sum() > 200_000, "the crop stands beside the picture"


def test_the_sheet_is_laid_out_by_the_environments_python(tmp_path):
    """Without estimators and similarity, so that nothing has to be looked at."""
    image = pytest.importorskip("PIL.Image")
    pytest.importorskip("onnxruntime")
    mini_world.WRITERS[mini_world.RECOGNISER](tmp_path / mini_world.RECOGNISER, 1)
    face = tmp_path / "me.png"
    image.new("RGB", (60, 60), "grey").save(face)
    found = {"crop": str(face), "embedding": None}
    pictures = [
        (f"sheet_{line}_{column}_00001_.png", face.read_bytes())
        for line in range(3)
        for column in range(4)
    ]
    here = Environment(Path(sys.executable), tmp_path, tmp_path, "cpu")
    made = tmp_path / "out.png"
    contact.compose(here, tmp_path, found, pictures, made, own_photo=True)
    with image.open(made) as sheet:
        assert sheet.width > 1500 and sheet.height > 1000
    with pytest.raises(SetupError, match="is missing; the graph did not save it"):
        contact.compose(here, tmp_path, found, pictures[:-1], made, own_photo=True)


# The person of the demo


def test_the_demos_person_is_drawn_as_it_says():
    image, np = pytest.importorskip("PIL.Image"), pytest.importorskip("numpy")
    pytest.importorskip("resvg_py")
    from flexid.mini.study.people import DEMO, reference

    with image.open(world.REFERENCE) as stored:
        pixels = np.asarray(stored.convert("RGB")).astype(int)
    difference = np.abs(pixels - reference(DEMO, pixels.shape[0])).mean()
    assert difference < 3, f"draw it again: python mini/evaluate.py reference {world.REFERENCE}"


def test_the_sample_is_drawn_where_the_models_are_trained(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "is_trained", lambda: True)
    here = Environment(Path("/no/python"), tmp_path, tmp_path, "cpu")
    demo.prepare_photo(here, "sample", tmp_path / "p.png")
    assert (tmp_path / "p.png").read_bytes() == world.REFERENCE.read_bytes()


def test_results_do_not_rebuild_the_models(tmp_path, monkeypatch):
    monkeypatch.setattr(world, "MINI", tmp_path)
    (tmp_path / "a.py").write_text("1")
    first = world.world_name()
    (tmp_path / "evaluation").mkdir()
    (tmp_path / "evaluation" / "figures.json").write_text("{}")
    assert world.world_name() == first
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "flux").write_text("")
    assert world.world_name() != first


# evaluate


@pytest.fixture
def parse(monkeypatch):
    spec = importlib.util.spec_from_file_location("start_for_study", ROOT / "start.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    spec.loader.exec_module(module)
    yield module.parse
    for name in [n for n in sys.modules if n.split(".")[0] in ("setup", "mini")]:
        del sys.modules[name]


def test_an_evaluations_options_are_handed_on(parse):
    options = parse(["evaluate", "--people", "4", "--rows", "alone", "vfa-0.9", "--fresh"])
    words = options.rest
    assert words[words.index("--people") + 1] == "4"
    assert words[words.index("--rows") + 1 :][:2] == ["alone", "vfa-0.9"]
    assert "--fresh" not in words and options.fresh


@pytest.mark.parametrize(
    ("words", "fact"),
    [
        (["--people", "x"], "'x'"),
        (["--rows", "pulid"], "no row is called"),
        (["--steps", "0"], "'0'"),
        (["--csv", "a.xls"], ".csv"),
        (["--", "x"], "nothing after --"),
        (["--persons", "3"], "--persons"),
    ],
)
def test_a_wrong_evaluation_is_explained_before_any_set_up(parse, capsys, words, fact):
    with pytest.raises(SystemExit) as stopped:
        parse(["evaluate", *words])
    assert stopped.value.code == 2 and fact in capsys.readouterr().err


def test_the_scripts_run_in_the_environment_with_comfyui_named(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(study.subprocess, "call", lambda c, env: calls.append((c, env)) or 7)
    monkeypatch.setattr(study, "ensure_world", lambda _: tmp_path / "models")
    here = Environment(Path("py"), tmp_path / "tree", tmp_path / "cache", "cpu")
    assert study.evaluate(here, ["--people", "2"]) == 7
    command, environ = calls[0]
    assert command[0] == "py" and Path(command[1]) == ROOT / "mini" / "evaluate.py"
    assert command[2:] == ["--models", str(tmp_path / "models"), "--cache",
                           str(tmp_path / "cache" / "evaluation"), "--people", "2"]  # fmt: skip
    assert environ["COMFYUI_PATH"] == str(tmp_path / "tree")
    fast = replace(here, bfloat16=True)
    study.evaluate(fast, [])
    study.evaluate(fast, ["--dtype", "auto"])
    assert [c[0][c[0].index("--dtype") + 1] for c in calls[1:]] == ["bfloat16", "auto"]
    monkeypatch.setattr(study, "EVALUATE", tmp_path / "absent.py")
    with pytest.raises(SetupError, match="absent.py is missing"):
        study.evaluate(here, [])
