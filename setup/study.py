"""`start.py evaluate` and `start.py mini-train`: both run mini/ inside the environment."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from .console import SetupError, say
from .environment import Environment
from .machine import cache_root, clean_environ
from .pins import ROOT
from .world import NOTE, ensure_world, is_trained

EVALUATE = ROOT / "mini" / "evaluate.py"
TRAIN = ROOT / "mini" / "train.py"


def evaluate(environment: Environment, arguments: Sequence[str]) -> int:
    """Measure the small world; what is painted is kept in the cache. The exit code."""
    models = ensure_world(environment)
    if not is_trained():
        say(NOTE)
    folder = environment.cache / "evaluation"
    if "--dtype" not in arguments and environment.bfloat16:
        arguments = ["--dtype", "bfloat16", *arguments]
    return _run(environment, EVALUATE, "--models", models, "--cache", folder, *arguments)


def mini_train(environment: Environment, arguments: Sequence[str]) -> int:
    """Train the small world, in the cache unless --work says where. The exit code."""
    return _run(environment, TRAIN, *train_arguments(environment, arguments))


def train_arguments(environment: Environment, arguments: Sequence[str]) -> list[str]:
    """The user's own, after the folder and the device that he does not have to name."""
    work = work_folder(arguments)
    say(f"data, checkpoints and models: {work}")
    return ["--work", str(work), "--device", training_device(environment.device), *arguments]


def work_folder(arguments: Sequence[str]) -> Path:
    """Where training keeps everything: --work, else the user's cache."""
    for index, word in enumerate(arguments):
        if word == "--work" and index + 1 < len(arguments):
            return Path(arguments[index + 1])
        if word.startswith("--work="):
            return Path(word.removeprefix("--work="))
    return cache_root() / "mini-train"


def training_device(found: str) -> str:
    """CUDA where it is (also ROCm), else the CPU: the recipes are proven on these two."""
    return "cuda" if found == "cuda" else "cpu"


def _run(environment: Environment, script: Path, *arguments: object) -> int:
    if not script.exists():
        raise SetupError(f"{script} is missing; this copy of the pack came without it.")
    command = [str(environment.python), str(script), *map(str, arguments)]
    return subprocess.call(command, env=clean_environ(COMFYUI_PATH=str(environment.tree)))
