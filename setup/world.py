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
REFERENCE = MINI / "study" / "reference.png"
"""The person of the demo: drawn, and never seen in training."""
NOTE = (
    "These small models are untrained: the pictures show that every part works and that the person "
    "changes the picture, not a likeness."
)
TRAINED_NOTE = (
    "A small world of trained models: it draws cartoons of 128 pixels, and this person was never "
    "in its training. `start.py evaluate` has the figures."
)
PHOTO_NOTE = (
    "The small world draws cartoons and was trained on drawn faces only: of a real photograph it "
    "keeps little. It shows that your photo goes the whole way; for a likeness use the real files."
)
RESULTS = "evaluation"
"""Folder of mini/ with written results: no part of what makes the models."""


def is_trained() -> bool:
    """Whether this copy comes with trained models."""
    return (MINI / "weights" / "README.md").is_file()


def world_name() -> str:
    """Folder name that changes with anything in mini/ but results and what Python caches there."""
    digest = hashlib.sha256()
    for path in sorted(MINI.rglob("*")):
        inside = path.relative_to(MINI).parts
        if path.is_file() and "__pycache__" not in inside and inside[0] != RESULTS:
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
        title = "placing the trained models" if is_trained() else "building random models"
        with Live(title) as live:
            environ = clean_environ(COMFYUI_PATH=str(environment.tree))
            run_logged(command, log, live, environ, cwd=environment.cache)
        partial.rename(folder)
    except subprocess.CalledProcessError as error:
        raise SetupError(f"the demo's models could not be built:\n{error.output}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
