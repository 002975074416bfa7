"""What the Comfy registry publishes: all that runs inside ComfyUI, and nothing else."""

import ast
from pathlib import PurePosixPath

import pytest
from pack import ROOT
from registry import pack_archive, published_files, tracked_files

pytestmark = pytest.mark.pure

TOP = {
    "CHANGELOG.md",
    "LICENSE",
    "README.md",
    "README.zh.md",
    "__init__.py",
    "pyproject.toml",
    "requirements.txt",
}
FOLDERS = {"locales", "model_patches", "nodes", "web", "workflows"}
NOT_PUBLISHED = {"training"}
"""The room of model_patches/ that no node uses."""
LIMIT = 1.75e6
"""Bytes of the archive; the models of the small world alone would be 43 MB."""
ONLY_OUTSIDE = {"subprocess", "ensurepip", "pip", "venv"}
"""Scanners of the registry flag packs that import these."""


@pytest.fixture(scope="module")
def files():
    return {PurePosixPath(name) for name in published_files()}


def is_wanted(path):
    """By name alone, so that a new folder or kind of file has to be decided on here."""
    if len(path.parts) == 1:
        return path.name in TOP
    if path.parts[0] == "model_patches" and path.parts[1] in NOT_PUBLISHED:
        return False
    if path.parts[0] == "workflows" and "demo" in path.name:
        return False
    return path.parts[0] in FOLDERS and path.suffix in {".py", ".json", ".md", ".js", ".jpg"}


def test_the_archive_holds_what_runs_in_comfyui_and_nothing_else(files):
    assert files == {path for path in map(PurePosixPath, tracked_files()) if is_wanted(path)}


def test_the_archive_is_small(tmp_path):
    size = pack_archive(tmp_path / "node.zip").stat().st_size
    assert 100_000 < size < LIMIT


def test_every_import_of_the_pack_is_in_the_archive(files):
    for path in (path for path in files if path.suffix == ".py"):
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.level:
                base = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
                inside = [base / alias.name for alias in node.names]
                found = [f"{base}.py", f"{base}/__init__.py", *(f"{one}.py" for one in inside)]
                assert any(PurePosixPath(name) in files for name in found), (path, node.lineno)


def test_nothing_in_the_archive_starts_processes(files):
    for path in (path for path in files if path.suffix == ".py"):
        for node in ast.walk(ast.parse((ROOT / path).read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not {name.split(".")[0] for name in names} & ONLY_OUTSIDE, path
