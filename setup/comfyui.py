"""Gets a ComfyUI tree from the package registry, by pinned digest."""

from __future__ import annotations

import hashlib
import shutil
import tarfile
from pathlib import Path, PurePosixPath

from .console import SetupError
from .pins import PACKAGE, Release

INSIDE = ("vendor", "ComfyUI")
"""Where the tree lies in the source distribution, below its top folder."""

LANDMARKS = ("main.py", "nodes.py", "execution.py", "comfy")
"""What makes a folder a ComfyUI."""


def requirement_line(release: Release) -> str:
    """The requirement with its digest: pip refuses other bytes before it runs any of them."""
    return f"{PACKAGE}=={release.version} --hash=sha256:{release.sha256}\n"


def verify_digest(archive: Path, release: Release) -> None:
    """Raise SetupError, and remove the file, unless its whole SHA-256 is the pinned one."""
    got = hashlib.sha256(archive.read_bytes()).hexdigest()
    if got != release.sha256:
        archive.unlink()
        raise SetupError(
            f"{archive.name} has SHA-256 {got}, expected {release.sha256}. The file was removed; "
            "it was damaged on the way or the registry served something else. Run the command "
            "again, and report this if it stays."
        )


def extract_tree(archive: Path, destination: Path) -> None:
    """Unpack only vendor/ComfyUI of the archive into `destination`, which appears complete or not.

    Raises SetupError for a member that would land outside, for links and for special files.
    """
    partial = destination.with_name(destination.name + ".part")
    shutil.rmtree(partial, ignore_errors=True)
    with tarfile.open(archive) as tar:
        for member in tar:
            inner = _inner_path(member)
            if inner is not None:
                _write(tar, member, partial.joinpath(*inner.parts))
    missing = [name for name in LANDMARKS if not (partial / name).exists()]
    if missing:
        shutil.rmtree(partial, ignore_errors=True)
        raise SetupError(f"{archive.name} holds no complete ComfyUI: {', '.join(missing)} missing")
    shutil.rmtree(destination, ignore_errors=True)
    partial.rename(destination)


def _inner_path(member: tarfile.TarInfo) -> PurePosixPath | None:
    """The path below vendor/ComfyUI; None for everything else in the archive."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts or "\\" in member.name or ":" in member.name:
        raise SetupError(f"the archive names {member.name!r}, which lies outside its own folder")
    if path.parts[1:3] != INSIDE:
        return None
    if not (member.isfile() or member.isdir()):
        raise SetupError(f"the archive holds {member.name!r}, which is a link or special file")
    return PurePosixPath(*path.parts[3:])


def _write(tar: tarfile.TarFile, member: tarfile.TarInfo, target: Path) -> None:
    if member.isdir():
        target.mkdir(parents=True, exist_ok=True)
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    source = tar.extractfile(member)
    if source is not None:
        with source, target.open("wb") as file:
            shutil.copyfileobj(source, file)


def requirements_without_torch(tree: Path) -> str:
    """ComfyUI's own requirements, less the three torch lines, which are pinned as a set."""
    lines = (tree / "requirements.txt").read_text(encoding="utf-8").splitlines()
    own = {"torch", "torchvision", "torchaudio"}
    return "\n".join(line for line in lines if line.split("=")[0].strip() not in own) + "\n"
