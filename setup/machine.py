"""Looks at this machine: cache folder, GPU, and the packages of a given Python."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from .console import Live, SetupError

PROBE = Path(__file__).with_name("probe.py")
FOREIGN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")
"""Variables that would make another Python use this one's packages."""


def cache_root() -> Path:
    """The user's cache folder for this project, by the custom of the operating system."""
    if os.environ.get("XDG_CACHE_HOME"):
        return Path(os.environ["XDG_CACHE_HOME"]).expanduser() / "flexid"
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData/Local") / "flexid"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "flexid"
    return Path.home() / ".cache" / "flexid"


def has_nvidia() -> bool:
    """Whether an NVIDIA GPU is present; asks the driver's tool, not torch."""
    if Path("/dev/nvidia0").exists():
        return True
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return False
    try:
        listing = subprocess.run([tool, "-L"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return listing.returncode == 0 and "GPU" in listing.stdout


def runtime_package(nvidia: bool, machine: str, system: str) -> str:
    """Which ONNX runtime to install. The GPU build exists for x86-64 Linux and Windows only."""
    gpu = nvidia and machine.lower() in ("x86_64", "amd64") and system in ("Linux", "Windows")
    return "onnxruntime-gpu" if gpu else "onnxruntime"


def clean_environ(**extra: str) -> dict[str, str]:
    """This process's variables, fit for another Python. pip's settings stay, except --user."""
    kept = {name: value for name, value in os.environ.items() if name not in FOREIGN}
    return kept | {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_USER": "0"} | extra


def venv_python(folder: Path) -> Path:
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def probe(python: Path, *requirement_files: Path, torch: bool = False) -> dict:
    """What `python` has, see probe.py; with `torch`, also what its torch computes on, and how.

    Raises SetupError when it does not run.
    """
    flags = ["--torch"] if torch else []
    command = [str(python), str(PROBE), *flags, *map(str, requirement_files)]
    next_step = "Name another with --python, or rebuild with --fresh."
    try:
        result = subprocess.run(
            command, capture_output=True, text=True, env=clean_environ(), timeout=300
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SetupError(f"cannot run {python}: {error}. {next_step}") from error
    if result.returncode:
        raise SetupError(f"{python} does not work. {next_step}\n{result.stderr.strip()}")
    return json.loads(result.stdout.strip().splitlines()[-1])


def make_venv(python: Path, folder: Path, log: Path, live: Live, run: Callable[..., str]) -> None:
    """A virtual environment in `folder`, which is replaced."""
    shutil.rmtree(folder, ignore_errors=True)
    try:
        run([python, "-m", "venv", folder], log, live, clean_environ())
    except subprocess.CalledProcessError as error:
        raise SetupError(
            f"{python} cannot make a virtual environment:\n{error.output}\n"
            "On Debian and Ubuntu install it with: apt-get install python3-venv. "
            "Or name another Python with --python."
        ) from error


def explain_failure(error: subprocess.CalledProcessError, log: Path) -> SetupError:
    """The failed command, its last lines, and what to do."""
    return SetupError(
        f"this command failed with exit code {error.returncode}:\n  {' '.join(error.cmd)}\n"
        f"{error.output}\nThe whole output is in {log}.\n"
        "If the package index could not be reached: check the network, or pip's own settings "
        "(`pip config list`, PIP_INDEX_URL, HTTPS_PROXY), which are respected here. "
        "Then run the same command again: finished steps are kept. --fresh starts over."
    )
