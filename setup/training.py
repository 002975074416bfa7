"""`start.py train NAME`: each trainer is a script that runs inside the environment.

The scripts also run without start.py, so that a user's own torchrun can start them on several GPUs
and machines: `torchrun --nproc-per-node 4 mini/train.py --work DIR --device cuda`, with
COMFYUI_PATH set and the environment's Python.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from .console import SetupError, say
from .environment import Environment
from .machine import cache_root, clean_environ
from .pins import ROOT

Prepare = Callable[[Environment, Sequence[str]], list[str]]


def _copy_arguments(_: Environment, arguments: Sequence[str]) -> list[str]:
    return list(arguments)


def with_device(environment: Environment, arguments: Sequence[str]) -> list[str]:
    """The user's own, which count where both name a device."""
    return ["--device", training_device(environment.device), *arguments]


def mini_arguments(environment: Environment, arguments: Sequence[str]) -> list[str]:
    """The user's own, after the folder and the device that need not be named."""
    work = work_folder(arguments)
    say(f"data, checkpoints and models: {work}")
    return ["--work", str(work), *with_device(environment, arguments)]


def stage(name: str) -> Prepare:
    """Of a script with several stages, one."""

    def prepare(environment: Environment, arguments: Sequence[str]) -> list[str]:
        return [name, *with_device(environment, arguments)]

    return prepare


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


@dataclass(frozen=True)
class Trainer:
    """What `start.py train` can run."""

    about: str
    script: Path
    prepare: Prepare = _copy_arguments
    """Completes the user's arguments."""


MINI = ROOT / "mini" / "train.py"
FLEXIP = ROOT / "setup" / "train_flexip.py"
IDENTITY = ROOT / "setup" / "train_identity_adapter.py"
DYNAMICID = ROOT / "setup" / "train_dynamicid.py"
ABLATION = ROOT / "mini" / "ablate.py"
CHECK = ROOT / "setup" / "check_data.py"
TRAINERS = {
    "mini": Trainer("trains the small world's models, stage by stage", MINI, mini_arguments),
    "flexip": Trainer("trains a FlexIP adapter on your pictures", FLEXIP, with_device),
    "identity-adapter": Trainer(
        "trains a PuLID-FLUX adapter on, with your pictures", IDENTITY, with_device
    ),
    "dynamicid-anchor": Trainer(
        "trains DynamicID's attention (SAA) on your pictures", DYNAMICID, stage("anchor")
    ),
    "dynamicid-reconfigure": Trainer(
        "trains DynamicID's reconfigurator (IMR) on people with several pictures",
        DYNAMICID,
        stage("reconfigure"),
    ),
    "editid-ablation": Trainer(
        "trains EditIDv2's ablation in the small world", ABLATION, with_device
    ),
    "check-data": Trainer("lists what is wrong with a JSONL file or a folder of people", CHECK),
}
"""By the name in `start.py train NAME`."""


def find(name: str | None) -> Trainer:
    """Raises SetupError, listing all, for no name or an unknown one."""
    if name in TRAINERS:
        return TRAINERS[name]
    width = max(map(len, TRAINERS))
    found = f"{name} is no trainer." if name else "Which trainer?"
    raise SetupError(
        "\n".join(
            [
                f"{found} python3 start.py train NAME, where NAME is",
                *(f"  {known:{width}}  {one.about}" for known, one in TRAINERS.items()),
                "Its own options follow the name; `train NAME -- --help` lists them.",
            ]
        )
    )


def train(environment: Environment, name: str, arguments: Sequence[str]) -> int:
    """Run a trainer to its end; its exit code. KeyboardInterrupt once it has saved and stopped."""
    trainer = find(name)
    if not trainer.script.exists():
        raise SetupError(f"{trainer.script} is missing; this copy of the pack came without it.")
    words = trainer.prepare(environment, arguments)
    command = [str(environment.python), str(trainer.script), *words]
    return run_until_saved(command, clean_environ(COMFYUI_PATH=str(environment.tree)))


def run_until_saved(command: Sequence[str], environ: dict[str, str]) -> int:
    """Run a process that saves when it is stopped; its exit code.

    A stop (KeyboardInterrupt) is handed on once, as SIGTERM, and the process is waited for; then
    KeyboardInterrupt goes on. It has a session of its own, or the terminal's Ctrl-C would reach it
    and each of its processes a second time. Windows has no sessions: there the Ctrl-C reaches it.
    """
    posix, stopped = os.name != "nt", False
    child = subprocess.Popen(command, env=environ, start_new_session=posix)
    while True:
        try:
            code = child.wait()
            break
        except KeyboardInterrupt:
            if posix and not stopped:
                child.terminate()
            stopped = True
    if stopped:
        raise KeyboardInterrupt
    return code
