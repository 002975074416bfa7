"""`start.py ibench` in an environment: what the script gets, and its exit code."""

import sys
from pathlib import Path

import pytest
from flexid.setup import benchmark
from flexid.setup.console import SetupError
from flexid.setup.environment import Environment

pytestmark = pytest.mark.pure

TELL = """
import os, sys
from pathlib import Path
told = "\\n".join([*sys.argv[2:], os.environ["COMFYUI_PATH"]])
Path(sys.argv[1] if sys.argv[1] != "--cpu" else sys.argv[2]).write_text(told)
sys.exit(3)
"""


def run(tmp_path, monkeypatch, device):
    script = tmp_path / "script.py"
    script.write_text(TELL, encoding="utf-8")
    monkeypatch.setattr(benchmark, "SCRIPT", script)
    made = Environment(Path(sys.executable), tmp_path / "tree", tmp_path, device)
    code = benchmark.run_ibench(made, [str(tmp_path / "told"), "--data", "d"])
    return code, (tmp_path / "told").read_text().splitlines()


def test_a_machine_without_a_gpu_is_told_so(tmp_path, monkeypatch):
    code, told = run(tmp_path, monkeypatch, "cuda")
    assert (code, told) == (3, ["--data", "d", str(tmp_path / "tree")])
    code, told = run(tmp_path, monkeypatch, "cpu")
    assert told[-3:] == ["--data", "d", str(tmp_path / "tree")] and len(told) == 4


def test_a_copy_without_the_script(tmp_path, monkeypatch):
    monkeypatch.setattr(benchmark, "SCRIPT", tmp_path / "none.py")
    made = Environment(Path(sys.executable), tmp_path, tmp_path, "cpu")
    with pytest.raises(SetupError, match=r"none\.py is missing"):
        benchmark.run_ibench(made, [])
