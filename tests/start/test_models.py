"""`start.py models` without any ComfyUI: the list, the ComfyUI that is meant, what graphs need."""

import json
import os
import subprocess
import sys
from argparse import Namespace

import pytest
from flexid.model_patches.files.public_files import (
    ANTELOPEV2,
    EVA02_CLIP_L_336,
    FACE_T5,
    FLUX_BASE,
    PULID_FLUX_091,
    WEIGHTS,
)
from flexid.setup import graph_files, models
from flexid.setup.console import SetupError
from flexid.setup.graph_files import check_workflow, list_workflows, read_needs
from pack import ROOT
from templates import TITLES
from trees import make_tree

pytestmark = pytest.mark.pure

VFA = {PULID_FLUX_091, EVA02_CLIP_L_336, *ANTELOPEV2, *FLUX_BASE}


def start(*arguments, cache, **variables):
    environ = {k: v for k, v in os.environ.items() if k != "COMFYUI_PATH"}
    environ |= {"XDG_CACHE_HOME": str(cache)} | variables
    command = [sys.executable, str(ROOT / "start.py"), "models", *map(str, arguments)]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)


def test_the_list_needs_no_comfyui_and_tells_all(tmp_path):
    result = start(cache=tmp_path)
    assert (result.returncode, result.stderr) == (0, "")
    for row in WEIGHTS:
        assert f"  {row.file}  {row.size}\n" in result.stdout
        assert row.page in result.stdout and row.licence in result.stdout
        assert f"models/{row.folder}" in result.stdout and row.needed_for in result.stdout
        assert (row.sha256 or "none is recorded here") in result.stdout
    assert "not fetched, unpack https://github.com/deepinsight" in result.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("action", ["fetch", "check"])
def test_without_a_comfyui_it_asks_which(tmp_path, action):
    result = start(action, "vfa", cache=tmp_path)
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "--comfyui PATH or COMFYUI_PATH" in result.stderr and str(tmp_path) in result.stderr


def test_another_action_is_refused(tmp_path):
    result = start("delete", cache=tmp_path)
    assert result.returncode == 2 and "list, fetch, check" in result.stderr.replace("'", "")


def options(**given):
    return Namespace(**{"comfyui": None, "python": None, "comfyui_version": None} | given)


def test_the_comfyui_around_the_pack_is_meant(tmp_path, monkeypatch):
    tree = make_tree(tmp_path / "ComfyUI")
    monkeypatch.setattr(models, "ROOT", tree / "custom_nodes" / "any-name")
    assert models.find_place(options()).tree == tree
    assert models.find_place(options()).base is None


def test_a_named_comfyui_and_its_own_python_go_first(tmp_path, monkeypatch):
    tree, other = make_tree(tmp_path / "ComfyUI"), make_tree(tmp_path / "other")
    monkeypatch.setattr(models, "ROOT", tree / "custom_nodes" / "flexid")
    python = other / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    place = models.find_place(options(comfyui=other))
    assert (place.tree, place.python) == (other.resolve(), python.resolve())
    with pytest.raises(SetupError, match="no such folder"):
        models.find_place(options(comfyui=tmp_path / "nothing"))


# What a workflow needs


def test_the_vfa_graph_needs_what_its_note_names():
    assert set(read_needs(list_workflows()[TITLES["vfa"]])) == VFA


def test_the_flexid_graphs_need_facet5_too():
    for name in ("flexid", "flexid_nodes"):
        assert set(read_needs(list_workflows()[TITLES[name]])) == VFA | {FACE_T5}


@pytest.mark.parametrize("name", sorted(list_workflows()))
def test_every_file_that_a_graph_names_is_looked_for(name):
    """A loader that graph_files does not know would make a graph look complete."""
    path = list_workflows()[name]
    nodes = json.loads(path.read_text(encoding="utf-8"))["nodes"]
    named = {
        value
        for node in nodes
        if node["mode"] == graph_files.ACTIVE and node["type"] != "LoadImage"
        for value in node.get("widgets_values") or ()
        if isinstance(value, str) and value.lower().endswith(graph_files.ENDINGS)
    }
    assert named and named <= {row.file for row in read_needs(path)}


@pytest.fixture
def folders(tmp_path):
    return lambda name: [tmp_path / "models" / name]


def plant(row, folder, size=None):
    """A file of the recorded size that takes no room on the disk."""
    path = folder / "models" / row.folder / row.file
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.truncate(row.bytes or 1 if size is None else size)
    return path


def test_a_graph_can_run_when_all_is_there(folders, tmp_path):
    path = list_workflows()[TITLES["vfa"]]
    assert set(check_workflow(path, folders).missing) == VFA
    for row in VFA:
        plant(row, tmp_path)
    verdict = check_workflow(path, folders)
    assert verdict.can_run and verdict.missing == verdict.damaged == ()
    assert set(check_workflow(list_workflows()[TITLES["flexid"]], folders).missing) == {FACE_T5}


def test_a_file_of_another_size_does_not_count(folders, tmp_path):
    for row in VFA:
        plant(row, tmp_path)
    short = plant(PULID_FLUX_091, tmp_path, size=12)
    verdict = check_workflow(list_workflows()[TITLES["vfa"]], folders)
    assert not verdict.can_run and verdict.damaged == ((PULID_FLUX_091, short),)


def test_a_bypassed_loader_needs_nothing_and_a_subgraph_counts(tmp_path, folders):
    loader = {"type": "VAELoader", "widgets_values": ["a.safetensors"], "properties": {}, "mode": 0}
    inner = {**loader, "widgets_values": ["inner.safetensors"]}
    graph = {
        "nodes": [{**loader, "mode": 4}, {**loader, "widgets_values": ["b.safetensors"]}],
        "definitions": {"subgraphs": [{"nodes": [inner]}]},
    }
    path = tmp_path / "graph.json"
    path.write_text(json.dumps(graph))
    needs = read_needs(path)
    assert [(row.file, row.folder) for row in needs] == [
        ("b.safetensors", "vae"),
        ("inner.safetensors", "vae"),
    ]


def test_the_demos_face_pack_may_name_its_files_freely(tmp_path, folders):
    path = list_workflows()[TITLES["demo"]]
    row = next(row for row in read_needs(path) if row.file == graph_files.ANY_ONNX)
    assert row.folder == "insightface/models/flexid_mini"
    assert row in check_workflow(path, folders).missing
    file = tmp_path / "models" / row.folder / "nested" / "any.onnx"
    file.parent.mkdir(parents=True)
    file.touch()
    assert row not in check_workflow(path, folders).missing
