"""The cached environment, made from the pins: Python packages and a ComfyUI tree."""

from __future__ import annotations

import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from . import comfyui, pins
from .console import Live, SetupError, run_logged, say
from .lock import exclusive
from .machine import (
    cache_root,
    clean_environ,
    explain_failure,
    has_nvidia,
    make_venv,
    probe,
    runtime_package,
    venv_python,
)
from .steps import Step, is_finished, run_steps

IMPORTS = ("torch", "torchvision", "torchaudio", "cv2", "skimage", "onnxruntime", "insightface")
IMPORT_ALL = "import importlib, sys; [importlib.import_module(name) for name in sys.argv[1:]]"
GB = 1 << 30
VENV = ("venv", "torch", "requirements", "pack", "runtime")
"""A killed installer can leave packages that look whole, so all of these are then done again."""


@dataclass(frozen=True)
class Environment:
    """A Python with everything in it, and the ComfyUI tree it runs."""

    python: Path
    tree: Path
    cache: Path
    device: str
    """cuda, mps, xpu or cpu: what its torch computes on."""
    bfloat16: bool = False
    """Whether that is a CPU that is faster in bfloat16. ComfyUI computes in float32 on every CPU
    unless it is told otherwise."""


@dataclass
class Builder:
    """Makes one environment folder: venv/, ComfyUI/, stamps/ and setup.log."""

    folder: Path
    base_python: Path
    release: pins.Release
    runtime: str
    run: Callable[..., str] = field(default=run_logged)

    @property
    def python(self) -> Path:
        return venv_python(self.folder / "venv")

    @property
    def tree(self) -> Path:
        return self.folder / "ComfyUI"

    @property
    def stamps(self) -> Path:
        return self.folder / "stamps"

    @property
    def log(self) -> Path:
        return self.folder / "setup.log"

    def steps(self) -> list[Step]:
        return [
            Step("venv", "making a Python environment", self.make_venv),
            Step("comfyui", "fetching ComfyUI", self.fetch_comfyui),
            Step("torch", "installing PyTorch (the longest step)", self.install_torch, VENV),
            Step(
                "requirements", "installing ComfyUI's requirements", self.install_requirements, VENV
            ),
            Step("pack", "installing the pack's requirements", self.install_pack, VENV),
            Step("runtime", f"choosing {self.runtime}", self.choose_runtime, VENV),
            Step("check", "checking that everything imports", self.check),
        ]

    def make_venv(self, live: Live) -> None:
        make_venv(self.base_python, self.folder / "venv", self.log, live, self.run)

    def fetch_comfyui(self, live: Live) -> None:
        """pip checks the digest before it runs the archive's build backend; we check again."""
        wanted, download = self.folder / "comfyui.txt", self.folder / "download"
        wanted.write_text(comfyui.requirement_line(self.release), encoding="utf-8")
        shutil.rmtree(download, ignore_errors=True)
        source = ("--no-deps", "--no-binary", pins.PACKAGE, "--ignore-requires-python")
        self.pip(live, "download", *source, "--require-hashes", "-d", download, "-r", wanted)
        archives = list(download.glob("*.tar.gz"))
        if len(archives) != 1:
            raise SetupError(f"expected one archive in {download}, found {len(archives)}")
        comfyui.verify_digest(archives[0], self.release)
        comfyui.extract_tree(archives[0], self.tree)
        shutil.rmtree(download)

    def install_torch(self, live: Live) -> None:
        self.pip(live, "install", *pins.TORCH)

    def install_requirements(self, live: Live) -> None:
        listed = self.folder / "requirements.txt"
        listed.write_text(comfyui.requirements_without_torch(self.tree), encoding="utf-8")
        self.pip(live, "install", "-r", listed, "-c", pins.requirement_files()[1], *pins.TORCH)

    def install_pack(self, live: Live) -> None:
        own, tested = pins.requirement_files()
        self.pip(live, "install", "-r", own, "-r", tested, *pins.TORCH)

    def choose_runtime(self, live: Live) -> None:
        """Leave exactly one ONNX runtime: both share one folder and break each other."""
        report = probe(self.python)
        if report["runtimes"] == [self.runtime]:
            return
        version = report["versions"].get("onnxruntime") or report["versions"]["onnxruntime-gpu"]
        self.pip(live, "uninstall", "-y", *report["runtimes"])
        self.pip(live, "install", "--no-deps", f"{self.runtime}=={version}")

    def check(self, live: Live) -> None:
        self.run([self.python, "-c", IMPORT_ALL, *IMPORTS], self.log, live, clean_environ())

    def pip(self, live: Live, verb: str, *arguments: str | Path) -> None:
        options = [] if verb == "uninstall" else ["--progress-bar", "off"]
        command = [self.python, "-m", "pip", verb, "--no-input", *options, *arguments]
        self.run(command, self.log, live, clean_environ())


def prepare(version: str, python: Path | None, fresh: bool) -> Environment:
    """The environment for a pinned ComfyUI, made when it is not there yet."""
    base_python = (python or Path(sys.executable)).expanduser()
    short = usable_version(base_python, probe(base_python)["version"])
    cache = cache_root()
    runtime = runtime_package(has_nvidia(), platform.machine(), platform.system())
    folder = cache / pins.environment_name(version, short, runtime)
    builder = Builder(folder, base_python, pins.RELEASES[version], runtime)
    build(builder, fresh)
    report = probe(builder.python, torch=True)
    return Environment(builder.python, builder.tree, cache, report["device"], report["bfloat16"])


def usable_version(python: Path, version: str) -> str:
    """The version as "3.11". Raises SetupError where the pinned torch does not exist for it."""
    short = tuple(int(part) for part in version.split(".")[:2])
    low, high = pins.OLDEST_PYTHON, pins.NEWEST_PYTHON
    if not low <= short <= high:
        raise SetupError(
            f"{python} is Python {version}; the pinned {pins.TORCH[0]} needs "
            f"{low[0]}.{low[1]} to {high[0]}.{high[1]}. Name another with --python."
        )
    return ".".join(map(str, short))


def build(builder: Builder, fresh: bool) -> None:
    """Do the remaining steps under a lock; other set-ups of the same environment wait."""
    if not fresh and is_finished(builder.steps(), builder.stamps):
        return
    folder = builder.folder
    with exclusive(folder.with_name(f"{folder.name}.lock"), "set-up"):
        if fresh:
            shutil.rmtree(folder, ignore_errors=True)
        if is_finished(builder.steps(), builder.stamps):
            return
        folder.mkdir(parents=True, exist_ok=True)
        _require_space(builder)
        say(f"setting up in {folder} (once; about 2 minutes on a fast connection, 6 GB)")
        try:
            run_steps(builder.steps(), builder.stamps)
        except subprocess.CalledProcessError as error:
            raise explain_failure(error, builder.log) from error
    _mention_others(folder)


def _require_space(builder: Builder) -> None:
    free = shutil.disk_usage(builder.folder).free
    if free < pins.NEEDED_GB * GB and not (builder.stamps / "torch").exists():
        raise SetupError(
            f"{builder.folder} needs {pins.NEEDED_GB} GB of free disk space and has "
            f"{free / GB:.1f} GB. Free some, or set XDG_CACHE_HOME to a folder on a larger disk."
        )


def _mention_others(folder: Path) -> None:
    for other in sorted(path for path in folder.parent.glob("comfyui-*-py*") if path.is_dir()):
        if other != folder:
            say(f"another environment is at {other} (about 6 GB); remove it if nothing uses it")
