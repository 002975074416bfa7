"""`start.py evaluate`: runs mini/evaluate.py inside the environment."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

from .console import SetupError, say
from .environment import Environment
from .machine import clean_environ
from .pins import ROOT
from .world import NOTE, ensure_world, is_trained

EVALUATE = ROOT / "mini" / "evaluate.py"


def evaluate(environment: Environment, arguments: Sequence[str]) -> int:
    """Measure the small world; what is painted is kept in the cache. The exit code."""
    models = ensure_world(environment)
    if not is_trained():
        say(NOTE)
    folder = environment.cache / "evaluation"
    if "--dtype" not in arguments and environment.bfloat16:
        arguments = ["--dtype", "bfloat16", *arguments]
    return _run(environment, EVALUATE, "--models", models, "--cache", folder, *arguments)


def _run(environment: Environment, script: Path, *arguments: object) -> int:
    if not script.exists():
        raise SetupError(f"{script} is missing; this copy of the pack came without it.")
    command = [str(environment.python), str(script), *map(str, arguments)]
    return subprocess.call(command, env=clean_environ(COMFYUI_PATH=str(environment.tree)))
