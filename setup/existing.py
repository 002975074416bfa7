"""A ComfyUI that the user already has: found, used, and left as it is."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from .comfyui import LANDMARKS
from .console import Live, SetupError, run_logged
from .environment import Environment
from .lock import exclusive
from .machine import cache_root, clean_environ, explain_failure, make_venv, probe, venv_python
from .pins import requirement_files
from .steps import Step, run_steps

PYTHONS = (
    "venv/bin/python",
    ".venv/bin/python",
    "venv/Scripts/python.exe",
    ".venv/Scripts/python.exe",
    "python_embeded/python.exe",
    "python_embedded/python.exe",
)
"""Where manual installs, the portable build and comfy-cli keep ComfyUI's own Python."""


def find_tree(path: Path) -> Path:
    """The ComfyUI folder at `path`, or in `path`/ComfyUI as in the portable build.

    Raises SetupError naming what is missing.
    """
    path = path.expanduser()
    if not path.is_dir():
        raise SetupError(f"--comfyui {path}: no such folder. Name the folder that holds main.py.")
    for candidate in (path, path / "ComfyUI"):
        if all((candidate / name).exists() for name in LANDMARKS):
            return candidate.resolve()
    missing = [name for name in LANDMARKS if not (path / name).exists()]
    raise SetupError(
        f"--comfyui {path} is not a ComfyUI: {', '.join(missing)} missing there. "
        "Name the folder that holds main.py."
    )


def find_python(tree: Path) -> Path | None:
    """ComfyUI's own Python in or beside the tree; None when there is none."""
    candidates = (folder / name for folder in (tree, tree.parent) for name in PYTHONS)
    return next((path for path in candidates if path.exists()), None)


def attach(path: Path, python: Path | None, fresh: bool, tools: bool) -> Environment:
    """An existing ComfyUI with its own Python.

    What the pack needs beyond it (and the test tools, with `tools`) goes into a layer: a virtual
    environment in the cache that sees all packages of that Python.
    """
    tree = find_tree(path)
    own = (python or find_python(tree) or Path(sys.executable)).expanduser()
    files = requirement_files()[: 2 if tools else 1]
    report = probe(own, *files, torch=True)
    if not report["device"]:
        raise SetupError(
            f"{own} has no torch, so it is not the Python of {tree}. Name that one with --python."
        )
    if report["missing"]:
        digest = hashlib.sha256(json.dumps([str(tree), str(own), report]).encode()).hexdigest()
        layer = Layer(cache_root() / f"layer-{digest[:12]}", own, report)
        layer.build(fresh)
        own = layer.python
    return Environment(own, tree, cache_root(), report["device"], report["bfloat16"])


@dataclass
class Layer:
    """A virtual environment over another Python, holding only what that one lacks."""

    folder: Path
    base: Path
    report: dict
    run: Callable[..., str] = field(default=run_logged)

    @property
    def python(self) -> Path:
        return venv_python(self.folder / "venv")

    @property
    def log(self) -> Path:
        return self.folder / "setup.log"

    def build(self, fresh: bool) -> None:
        missing = len(self.report["missing"])
        steps = [
            Step("venv", f"making a layer over {self.base}", self.make_venv),
            Step(
                "install",
                f"installing {missing} missing requirements there",
                self.install,
                ("venv",),
            ),
        ]
        with exclusive(self.folder.with_name(f"{self.folder.name}.lock"), "set-up"):
            if fresh:
                shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True, exist_ok=True)
            try:
                run_steps(steps, self.folder / "stamps")
            except subprocess.CalledProcessError as error:
                raise explain_failure(error, self.log) from error

    def make_venv(self, live: Live) -> None:
        make_venv(self.base, self.folder / "venv", self.log, live, self.run)
        packages = Path(probe(self.python)["paths"][-1])
        lines = [f"import site; site.addsitedir({path!r})\n" for path in self.report["paths"]]
        (packages / "existing.pth").write_text("".join(lines), encoding="utf-8")

    def install(self, live: Live) -> None:
        """The missing requirements, beside unchanged versions of what the base's Python has."""
        kept = self.folder / "kept.txt"
        versions = self.report["versions"].items()
        kept.write_text("".join(f"{name}=={v}\n" for name, v in versions), encoding="utf-8")
        options = ("--no-input", "--progress-bar", "off", "-c", kept)
        self.pip(live, "install", *options, *self.report["missing"])
        brought = set(probe(self.python)["runtimes"]) - set(self.report["runtimes"])
        if self.report["runtimes"] and brought:
            self.pip(live, "uninstall", "-y", *brought)

    def pip(self, live: Live, *arguments: str | Path) -> None:
        self.run([self.python, "-m", "pip", *arguments], self.log, live, clean_environ())
