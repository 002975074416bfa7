"""With the face packages missing, every node is there, saved identities work, and errors say so."""

import os
import subprocess
import sys

import pytest
import torch
from flexid.model_patches.face import packages
from flexid.model_patches.face.packages import PIP_NAMES, describe_missing, need
from flexid.model_patches.identity.store import save_identity
from identities import identity_of
from pack import ROOT

pytestmark = pytest.mark.comfy

SAVED = "no photo can be encoded; saved identities still work"


@pytest.fixture
def remove(monkeypatch):
    """Make packages look as if they were not installed."""

    def remove_them(*names):
        for name in [key for key in sys.modules if key.split(".")[0] in names] + list(names):
            monkeypatch.setitem(sys.modules, name, None)

    return remove_them


def test_nothing_is_said_when_all_are_there():
    assert describe_missing() == ""


@pytest.mark.parametrize("name", ["cv2", "insightface", "onnx", "onnxruntime"])
def test_without_what_reads_photos_identities_still_work_and_this_is_said(remove, name):
    remove(name)
    said = describe_missing()
    assert f"Without {PIP_NAMES[name]} {SAVED}." in said and "requirements.txt" in said
    with pytest.raises(RuntimeError, match=f"'{PIP_NAMES[name]}'.*{SAVED}.*restart"):
        need(name)


def test_what_disables_less_says_less(remove):
    remove("skimage", "facexlib")
    said = describe_missing()
    assert SAVED not in said
    assert "Without scikit-image the bundled face detector cannot be used" in said
    assert "Without facexlib parsing cannot be used; set it to off" in said


def test_packages_that_disable_the_same_share_a_sentence(remove):
    remove(*PIP_NAMES)
    said = describe_missing()
    assert f"Without opencv-python, insightface, onnx, onnxruntime {SAVED}." in said
    assert said.count("Without") == 3
    assert packages.NO_PHOTO == SAVED


PROGRAM = """
import asyncio, importlib.util, sys
from types import SimpleNamespace
for name in {blocked!r}:
    sys.modules[name] = None
sys.path.insert(0, {comfyui!r})
import comfy.options
import comfy.cli_args
comfy.cli_args.args.cpu = True
comfy.cli_args.args.base_directory = {base!r}
import utils.extra_config  # as ComfyUI's main.py does; comfy/utils.py hides it later
from server import PromptServer
PromptServer.instance = SimpleNamespace(
    node_replace_manager=SimpleNamespace(register=lambda replacement: None),
    add_on_prompt_handler=lambda handler: None)
# As ComfyUI loads a custom node: from its folder, by its path.
spec = importlib.util.spec_from_file_location(
    "the_pack", {root!r} + "/__init__.py", submodule_search_locations=[{root!r}])
pack = importlib.util.module_from_spec(spec)
sys.modules["the_pack"] = pack
spec.loader.exec_module(pack)

async def load():
    extension = await pack.comfy_entrypoint()
    await extension.on_load()
    return await extension.get_node_list()

nodes = {{node.define_schema().node_id: node for node in asyncio.run(load())}}
print("nodes", len(nodes))
print("tokens", *nodes["FlexIDLoadIdentity"].execute("identities/person.safetensors").result[0]
      .encodings["pulid_flux"].tokens.shape)
"""


def test_all_nodes_load_and_a_saved_identity_opens_without_any_of_them(tmp_path):
    folder = tmp_path / "models" / "flexid" / "identities"
    folder.mkdir(parents=True)
    person = identity_of({"pulid_flux": torch.ones(1, 32, 2048)})
    save_identity(person, folder / "person.safetensors")
    program = PROGRAM.format(
        blocked=list(PIP_NAMES), comfyui=os.environ["COMFYUI_PATH"], base=str(tmp_path),
        root=str(ROOT),
    )  # fmt: skip
    result = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    from flexid.nodes import NODES

    assert f"nodes {len(NODES)}\n" in result.stdout
    assert "tokens 1 32 2048\n" in result.stdout
    assert "FlexID: all nodes are loaded. Without opencv-python, insightface" in result.stderr
    assert SAVED in result.stderr
