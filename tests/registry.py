"""The archive that the Comfy registry publishes, selected as `comfy node pack` does it: what git
tracks, without what .comfyignore names. Its patterns are those of .gitignore, so git reads them."""

from __future__ import annotations

import subprocess
import zipfile
from pathlib import Path

import pytest
from pack import ROOT


def published_files() -> list[str]:
    """Paths from the repository's root. Skips the test in a copy that is no clone."""
    ignored = set(_list_tracked("--ignored", "--exclude-from=.comfyignore"))
    return [name for name in tracked_files() if name not in ignored]


def tracked_files() -> list[str]:
    """Those of the repository's files that git tracks and that are there."""
    if not (ROOT / ".git").exists():
        pytest.skip("only a clone knows which files are tracked")
    return [name for name in _list_tracked() if (ROOT / name).exists()]


def _list_tracked(*options: str) -> list[str]:
    command = ["git", "ls-files", "-z", "--cached", *options]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    return [name for name in listed.decode().split("\0") if name]


def pack_archive(path: Path) -> Path:
    """Write the archive as `path`."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name in published_files():
            file.write(ROOT / name, name)
    return path
