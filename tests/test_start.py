"""start.py as users run it: its command line, and what it says before it does anything."""

import importlib.util
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from platform import machine as machine_name
from platform import system as system_name

import pytest
from flexid.setup import machine, pins
from flexid.setup.lock import exclusive
from pack import ROOT

pytestmark = pytest.mark.pure


def start(*arguments, cache, **variables):
    """Run start.py; its output is read as text."""
    dropped = {name: v for name, v in os.environ.items() if name not in ("COMFYUI_PATH",)}
    environ = dropped | {"XDG_CACHE_HOME": str(cache)} | variables
    command = [sys.executable, str(ROOT / "start.py"), *map(str, arguments)]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)


@pytest.fixture
def parse(monkeypatch):
    """start.py's parser, in this process."""
    spec = importlib.util.spec_from_file_location("start_under_test", ROOT / "start.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    spec.loader.exec_module(module)
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    yield module.parse
    for name in [name for name in sys.modules if name == "setup" or name.startswith("setup.")]:
        del sys.modules[name]


def test_importing_it_does_nothing(tmp_path):
    code = f"import runpy; runpy.run_path({str(ROOT / 'start.py')!r}, run_name='start')"
    environ = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True)
    assert (result.returncode, result.stdout, result.stderr) == (0, b"", b"")
    assert not list(tmp_path.iterdir())


def test_it_needs_the_standard_library_only():
    """-I -S: no site-packages, no user site, no variables."""
    command = [sys.executable, "-I", "-S", "-c",
               f"import sys; sys.path.insert(0, {str(ROOT)!r}); import start; start.parser(); "
               "from setup import checks, demo, environment, existing, hand"]  # fmt: skip
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


def test_options_come_after_the_command(parse):
    options = parse(["demo", "--photo", "me.jpg", "--fresh"])
    assert (options.command, options.photo, options.fresh) == ("demo", Path("me.jpg"), True)
    assert options.output == Path("flexid-demo") and options.comfyui is None


def test_what_follows_two_dashes_goes_to_pytest(parse):
    options = parse(["test", "--python", "py", "--", "-k", "vfa", "--", "-x"])
    assert options.rest == ["-k", "vfa", "--", "-x"] and options.python == Path("py")


def test_the_benchmark_gets_its_own_options(parse):
    assert parse(["bench", "--json", "a.json", "--", "b"]).rest == ["--json", "a.json", "b"]


def test_ibench_is_checked_first_and_then_passed_on_as_written(parse, tmp_path, capsys):
    own = ["--data", "d", "--models", str(tmp_path), "--rows", "alone", "vfa-0.9"]
    options = parse(["ibench", "--fresh", *own, "--python", "py", "--", "--lowvram"])
    assert options.rest == [*own, "--", "--lowvram"]
    assert options.fresh and options.python == Path("py")
    with pytest.raises(SystemExit):
        parse(["ibench", "--data", "d", "--rows", "alone", "alone"])
    assert "--rows names alone twice" in capsys.readouterr().err


def test_an_existing_comfyui_comes_from_option_or_variable(parse, monkeypatch):
    monkeypatch.setenv("COMFYUI_PATH", "/from/variable")
    assert parse(["test"]).comfyui == Path("/from/variable")
    assert parse(["test", "--comfyui", "/own"]).comfyui == Path("/own")
    assert parse(["test", "--comfyui-version", "0.27.0"]).comfyui is None


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        ([], "COMMAND"),
        (["paint"], "paint"),
        (["demo", "--picture", "x"], "--picture"),
        (["demo", "--", "x"], "nothing after --"),
        (["demo", "--comfyui-version", "0.1"], "0.30.0"),
        (["test", "--comfyui", "a", "--comfyui-version", "0.30.0"], "exclude each other"),
    ],
)
def test_a_wrong_command_line_is_explained(tmp_path, arguments, fact):
    result = start(*arguments, cache=tmp_path)
    assert result.returncode == 2 and fact in result.stderr


@pytest.mark.parametrize(
    ("arguments", "fact"),
    [
        (["demo", "--photo", "absent.jpg"], "absent.jpg: no such file"),
        (["demo", "--photo", "."], "is a folder"),
        (["demo", "--workflow", "absent.json"], "absent.json"),
        (["demo", "--comfyui", "/no/such/comfyui"], "/no/such/comfyui: no such folder"),
        (["test", "--comfyui", "."], "main.py, nodes.py, execution.py, comfy missing"),
        (["serve", "--python", "/no/such/python"], "/no/such/python"),
    ],
)
def test_a_mistake_is_named_before_any_set_up(tmp_path, monkeypatch, arguments, fact):
    monkeypatch.chdir(tmp_path)
    result = start(*arguments, cache=tmp_path / "cache")
    assert result.returncode == 2 and fact in result.stderr
    assert "Traceback" not in result.stderr
    assert not (tmp_path / "cache").exists()


@pytest.mark.skipif(os.name == "nt", reason="POSIX shell script and signals")
def test_a_python_without_torch_is_not_comfyuis(tmp_path):
    for name in ("main.py", "nodes.py", "execution.py"):
        (tmp_path / name).write_text("")
    (tmp_path / "comfy").mkdir()
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f'#!/bin/sh\nexec "{sys.executable}" -S "$@"\n')
    python.chmod(0o755)
    result = start("demo", "--comfyui", tmp_path, cache=tmp_path / "cache")
    assert result.returncode == 2
    assert f"{python} has no torch" in result.stderr and "--python" in result.stderr


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_waiting_for_another_set_up_can_be_stopped(tmp_path, monkeypatch, number):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    runtime = machine.runtime_package(machine.has_nvidia(), machine_name(), system_name())
    version = ".".join(map(str, sys.version_info[:2]))
    name = pins.environment_name(pins.DEFAULT_COMFYUI, version, runtime)
    environ = {k: v for k, v in os.environ.items() if k != "COMFYUI_PATH"}
    with exclusive(tmp_path / "flexid" / f"{name}.lock", "set-up"):
        command = [sys.executable, str(ROOT / "start.py"), "demo"]
        process = subprocess.Popen(
            command,
            env=environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            # Shells start background jobs with SIGINT ignored, and children inherit that.
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
        )
        assert f"pid {os.getpid()}" in process.stdout.readline()
        time.sleep(0.2)
        process.send_signal(number)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130 and "stopped" in errors and "Traceback" not in errors


def test_an_old_python_is_told_so():
    """Compiled as an old Python would see it: nothing newer than its syntax before the check."""
    source = (ROOT / "start.py").read_text(encoding="utf-8")
    head = source[: source.index("import argparse")]
    compile(head, "start.py", "exec")
    assert "sys.version_info < (3, 10)" in head and "from __future__" not in head


def test_ci_runs_exactly_the_test_command():
    script = (ROOT / ".ci" / "run").read_text()
    assert "set -euo pipefail" in script and "python3 start.py test" in script
    assert os.name == "nt" or os.access(ROOT / ".ci" / "run", os.X_OK)
