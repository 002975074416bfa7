"""requirements.txt lists what the pack imports, no less and no more."""

import ast
import re
import sys

import pytest
from flexid.model_patches.face.packages import PIP_NAMES
from pack import ROOT

pytestmark = pytest.mark.pure

SHIPPED = [ROOT / "__init__.py", *ROOT.glob("nodes/**/*.py"), *ROOT.glob("model_patches/**/*.py")]
COMFYUIS = {"torch", "torchvision", "numpy", "scipy", "filelock", "PIL", "transformers"}
COMFYUIS |= {
    "comfy",
    "comfy_api",
    "comfy_extras",
    "comfy_execution",
    "folder_paths",
    "nodes",
    "server",
}
"""What every ComfyUI has: its own modules, what its requirements.txt lists, and filelock, which
torch needs."""
OTHERS = {"google": "onnx", "cv2": "opencv-python", "skimage": "scikit-image"}
"""Modules whose package has another name; google.protobuf reads ONNX files, and onnx needs it."""


def imported(path):
    """Top names of absolute imports, and of those that `need` makes."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") == "need":
            yield from (one.value for one in node.args if isinstance(one, ast.Constant))


def required():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").split()
    return {re.split("[>=]", line)[0] for line in lines}


def test_requirements_are_what_is_imported():
    tops = {name.split(".")[0] for path in SHIPPED for name in imported(path)}
    foreign = tops - set(sys.stdlib_module_names) - COMFYUIS
    assert {OTHERS.get(top, top) for top in foreign} == required()


def test_the_archive_declares_the_same():
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"\ndependencies = \[(.*?)\]", text, re.DOTALL)[1]
    assert re.findall(r'"(.+?)"', listed) == (ROOT / "requirements.txt").read_text().split()


def test_a_missing_face_package_is_noticed_under_the_name_that_pip_knows():
    face = {"safetensors", "huggingface_hub"}
    assert set(PIP_NAMES.values()) == required() - face
