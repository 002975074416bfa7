"""Run with a Python to find out which packages it has. Prints one line of JSON.

Arguments: requirement files, whose unmet lines come back under "missing"; --torch to ask torch
for its device and whether a CPU is faster in bfloat16, which takes seconds.
"""

from __future__ import annotations

import json
import platform
import re
import runpy
import sys
from importlib import metadata
from pathlib import Path

RUNTIMES = ("onnxruntime", "onnxruntime-gpu", "onnxruntime-directml", "onnxruntime-openvino")
PRECISION = Path(__file__).resolve().parents[1] / "model_patches" / "training" / "precision.py"
NOTED = ("torch", "torchvision", "torchaudio", "numpy", "transformers", "safetensors")


def find_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.split("+")[0])[:3])


def is_met(requirement: str) -> bool:
    """Whether a `name`, `name>=x` or `name==x` line is met; the runtimes stand in for each other.

    An exact pin counts as met by any version at all: pins are for environments of our own, and an
    existing one keeps what its owner chose.
    """
    name, _, least = (part.strip() for part in re.split(r"(>=|==)", requirement + ">=0")[:3])
    found = [find_version(name)]
    if name == "onnxruntime":
        found = [version for version in map(find_version, RUNTIMES) if version]
    if not found or found[0] is None:
        return False
    return "==" in requirement or numbers(found[0]) >= numbers(least)


def find_unmet(path: str) -> list[str]:
    lines = (line.split("#")[0].strip() for line in Path(path).read_text("utf-8").splitlines())
    return [line for line in lines if line and not is_met(line.split(";")[0])]


def device() -> str:
    """What this torch can compute on: cuda (also ROCm), mps, xpu, cpu; empty without torch."""
    try:
        import torch
    except ImportError:
        return ""
    if torch.cuda.is_available():
        return "cuda"
    if torch.backends.mps.is_available():
        return "mps"
    return "xpu" if hasattr(torch, "xpu") and torch.xpu.is_available() else "cpu"


def prefers_bfloat16(kind: str) -> bool:
    """Whether this torch multiplies matrices faster in bfloat16 on the CPU; False elsewhere, where
    ComfyUI itself chooses well."""
    return kind == "cpu" and runpy.run_path(str(PRECISION))["prefers_bfloat16"](kind)


def main() -> None:
    del sys.path[0]  # this folder, whose file names are nobody else's business
    files = [argument for argument in sys.argv[1:] if argument != "--torch"]
    kind = device() if "--torch" in sys.argv else ""
    report = {
        "version": platform.python_version(),
        "device": kind,
        "bfloat16": prefers_bfloat16(kind),
        "missing": sorted({line for path in files for line in find_unmet(path)}),
        "runtimes": [name for name in RUNTIMES if find_version(name)],
        "versions": {
            name: find_version(name) for name in (*NOTED, *RUNTIMES) if find_version(name)
        },
        "paths": [path for path in sys.path if path.endswith("-packages")],
    }
    sys.stdout.write(json.dumps(report) + "\n")


if __name__ == "__main__":
    main()
