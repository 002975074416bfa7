"""`start.py train`: names, options, and a stop that waits for the saving."""

import importlib.util
import signal
import subprocess
import sys
import textwrap
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from flexid.setup import check_data, training
from flexid.setup.console import SetupError
from flexid.setup.environment import Environment
from flexid.setup.pins import ROOT
from PIL import Image

pytestmark = pytest.mark.pure


@pytest.fixture
def start(monkeypatch):
    spec = importlib.util.spec_from_file_location("start_for_training", ROOT / "start.py")
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "path", [str(ROOT), *sys.path])
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    spec.loader.exec_module(module)
    yield module
    for name in [n for n in sys.modules if n.split(".")[0] in ("setup", "mini")]:
        del sys.modules[name]


@pytest.mark.parametrize("words", [["mini-train"], ["train", "mini"]])
def test_a_trainer_gets_its_own_options(start, words):
    options = start.parse([*words, "--only", "vae", "--python", "py", "--steps", "9", "--", "-h"])
    assert options.rest == ["--only", "vae", "--steps", "9", "-h"]
    assert options.python == Path("py")
    assert getattr(options, "name", "mini") == "mini"


@pytest.mark.parametrize("words", [[], ["flexup"], ["flexup", "--steps", "3"]])
def test_without_a_known_name_the_trainers_are_listed(start, words):
    """Before anything is set up."""
    from setup.console import SetupError as Raised

    with pytest.raises(Raised) as refused:
        start.run(start.parse(["train", *words]))
    text = str(refused.value)
    assert all(name in text and one.about in text for name, one in training.TRAINERS.items())
    assert "flexup is no trainer" in text if words else "Which trainer?" in text


def test_flexip_trains_on_the_device_that_was_found(tmp_path):
    here = Environment(Path("py"), tmp_path, tmp_path, "cuda")
    assert training.with_device(here, ["--steps", "9"]) == ["--device", "cuda", "--steps", "9"]


def test_the_small_world_has_a_folder_and_a_device(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    here = Environment(Path("py"), tmp_path, tmp_path, "cuda")
    words = training.mini_arguments(here, ["--only", "vae"])
    expected = str(tmp_path / "flexid" / "mini-train")
    assert words == ["--work", expected, "--device", "cuda", "--only", "vae"]
    for given in (["--work", "/w"], ["--work=/w"]):
        assert training.work_folder(given) == Path("/w")
    assert training.training_device("mps") == "cpu"


def test_every_script_is_there_and_one_that_is_not_is_named(tmp_path, monkeypatch):
    assert all(one.script.is_file() for one in training.TRAINERS.values())
    absent = replace(training.TRAINERS["mini"], script=tmp_path / "absent.py")
    monkeypatch.setitem(training.TRAINERS, "mini", absent)
    here = Environment(Path("py"), tmp_path, tmp_path, "cpu")
    with pytest.raises(SetupError, match=r"absent\.py is missing"):
        training.train(here, "mini", [])


def test_check_data_runs_in_the_environment(tmp_path, capfd):
    """With the real script: the registry's names lead somewhere."""
    for name in ("1.png", "2.png"):
        (tmp_path / "ann").mkdir(exist_ok=True)
        Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "ann" / name)
    here = Environment(Path(sys.executable), tmp_path, tmp_path, "cpu")
    assert training.train(here, "check-data", [str(tmp_path)]) == 0
    shown = capfd.readouterr().out
    assert "nothing is wrong" in shown and "2 examples" in shown
    assert "1 people, of 2 to 2 pictures" in shown
    (tmp_path / "ann" / "1.png").write_text("no picture")
    assert training.train(here, "check-data", [str(tmp_path)]) == 1
    assert "ann/1.png: it is not an image" in capfd.readouterr().err
    assert check_data.parse(["x", "--decode"]).decode


SLOW = """
import pathlib, signal, sys, time
def save(*_):
    signals.append(1)
    time.sleep(1)
    pathlib.Path(sys.argv[1]).write_text(str(len(signals)))
    sys.exit(3)
signals = []
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(60)
"""
OUTER = """
import os, signal, sys
sys.path.insert(0, ROOT)
from setup.training import run_until_saved
def interrupt(*_):
    raise KeyboardInterrupt
signal.signal(signal.SIGTERM, interrupt)
try:
    run_until_saved([sys.executable, "-c", SLOW, sys.argv[1]], dict(os.environ))
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
def test_a_stop_is_handed_on_once_and_waited_for(tmp_path):
    text = OUTER.replace("ROOT", repr(str(ROOT))).replace("SLOW", repr(textwrap.dedent(SLOW)))
    saved = tmp_path / "saved"
    outer = subprocess.Popen([sys.executable, "-c", text, saved], stdout=subprocess.PIPE)
    assert outer.stdout.readline() == b"ready\n"
    outer.send_signal(signal.SIGTERM)
    time.sleep(0.4)
    outer.send_signal(signal.SIGINT)
    assert outer.wait(timeout=60) == 130
    assert saved.read_text() == "1"
