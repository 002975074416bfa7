"""One bootstrap opens the pack outside ComfyUI, and leaves nothing on the path that hides its."""

import os
import subprocess
import sys

import pytest
from pack import BOOTSTRAP, ROOT

pytestmark = pytest.mark.pure

SCRIPT = f"""
import runpy, sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "setup")!r}, {str(ROOT / "mini")!r}, ""]
bootstrap = runpy.run_path({str(BOOTSTRAP)!r})
bootstrap["open_pack"]()
"""


def run(script, **variables):
    environ = {name: value for name, value in os.environ.items() if name != "COMFYUI_PATH"}
    command = [sys.executable, "-c", script]
    return subprocess.run(
        command, env=environ | variables, cwd=ROOT, capture_output=True, text=True, timeout=60
    )


def test_the_pack_opens_and_its_folders_leave_the_path():
    checks = "import flexid.setup.pins, importlib.util as util\n"
    checks += "assert not [name for name in ('nodes', 'server', 'world') if util.find_spec(name)]"
    done = run(SCRIPT + checks)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("path", ["", "nowhere"])
def test_without_a_comfyui_it_says_what_to_set(path):
    done = run(SCRIPT + "bootstrap['open_comfyui']()", COMFYUI_PATH=path)
    assert done.returncode == 1
    assert f"COMFYUI_PATH is {path!r}; set it to a ComfyUI folder" in done.stderr


def test_nobody_else_builds_the_package():
    rooms = [ROOT / room for room in ("bench", "mini", "setup", "nodes", "model_patches")]
    files = [path for room in rooms for path in room.rglob("*.py")] + [ROOT / "start.py"]
    builders = [path for path in files if "ModuleType(" in path.read_text(encoding="utf-8")]
    assert builders == [BOOTSTRAP]
