"""`start.py ibench`: runs ibench/run.py inside the environment."""

from __future__ import annotations

from collections.abc import Sequence

from .console import SetupError
from .environment import Environment
from .machine import clean_environ
from .pins import ROOT
from .training import run_until_saved

SCRIPT = ROOT / "ibench" / "run.py"


def run_ibench(environment: Environment, arguments: Sequence[str]) -> int:
    """Paint, measure and report; the exit code. A stop is handed on, and what is done is kept."""
    if not SCRIPT.exists():
        raise SetupError(f"{SCRIPT} is missing; this copy of the pack came without it.")
    own = ["--cpu"] if environment.device == "cpu" else []
    command = [str(environment.python), str(SCRIPT), *own, *arguments]
    return run_until_saved(command, clean_environ(COMFYUI_PATH=str(environment.tree)))
