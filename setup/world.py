"""The demo's models: built once by mini/, then reused until mini/ changes."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from .console import Live, SetupError, run_logged
from .environment import Environment
from .lock import exclusive
from .machine import clean_environ
from .pins import ROOT

MINI = ROOT / "mini"
NOTE = (
    "These small models are untrained: the pictures show that every part works and that the person "
    "changes the picture, not a likeness."
)


def world_name() -> str:
    """Folder name that changes with anything in mini/, except what Python caches there."""
    digest = hashlib.sha256()
    for path in sorted(MINI.rglob("*")):
        if path.is_file() and "__pycache__" not in path.parts:
            digest.update(path.relative_to(MINI).as_posix().encode() + b"\0")
            digest.update(path.read_bytes())
    return f"world-{digest.hexdigest()[:12]}"


def ensure_world(environment: Environment, fresh: bool = False) -> Path:
    """The models folder, built when it is not there. It appears complete or not at all."""
    folder = environment.cache / world_name()
    with exclusive(environment.cache / "world.lock", "build of the demo's models"):
        if fresh:
            shutil.rmtree(folder, ignore_errors=True)
        if not folder.is_dir():
            _build(environment, folder)
    return folder


def _build(environment: Environment, folder: Path) -> None:
    partial = folder.with_name(f"{folder.name}.{os.getpid()}.part")
    log = environment.cache / "world.log"
    log.unlink(missing_ok=True)
    command = [environment.python, MINI, "--models", partial]
    try:
        with Live("building the demo's models") as live:
            run_logged(command, log, live, clean_environ(), cwd=environment.cache)
        partial.rename(folder)
    except subprocess.CalledProcessError as error:
        raise SetupError(f"the demo's models could not be built:\n{error.output}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
