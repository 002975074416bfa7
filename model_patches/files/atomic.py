"""Writing a file whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path`; what the block writes there replaces `path` at its end.

    Missing folders are made. When the block raises, `path` keeps its content and the temporary file
    is removed. The file has the usual mode (0666 less the umask), also where the block's writer
    makes private files, as safetensors does. Raises OSError.
    """
    with _write_beside(path, os.replace) as temporary:
        yield temporary


@contextmanager
def creating(path: Path) -> Iterator[Path]:
    """As `replacing`, for a file that must not exist yet: nothing is ever overwritten.

    Raises FileExistsError, which names the file: before the block runs when there is something at
    `path` (a link that leads nowhere included), at its end when another writer was faster. Of
    several writers at once, in any number of processes, exactly one succeeds. Raises OSError.
    """
    if os.path.lexists(path):
        raise _refuse_existing(path)
    with _write_beside(path, _move_to_free_name) as temporary:
        yield temporary


@contextmanager
def converting(source: Path, target: Path) -> Iterator[Path]:
    """As `creating`, for a file made of `source`, which is kept as it is.

    Raises ValueError when both are the same file: a clearer message than that it exists.
    """
    if target.exists() and source.exists() and target.samefile(source):
        raise ValueError(
            f"{target.name} is the file {source.name} that is converted, and it is kept as it is. "
            "Choose another name for the new file."
        )
    with creating(target) as temporary:
        yield temporary


def place(finished: Path, path: Path) -> None:
    """Move a finished file to `path`, in the same folder, where nothing may be yet.

    Raises FileExistsError, which names the file, when something is there; `finished` then stays.
    Raises OSError.
    """
    _sync(finished)
    _move_to_free_name(finished, path)
    finished.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Otherwise a power failure after the renaming can leave an empty file."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


@contextmanager
def _write_beside(path: Path, move: Callable[[Path, Path], None]) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Two containers that share a folder can have the same process number.
    unique = f"{os.getpid()}-{secrets.token_hex(4)}"
    temporary = path.with_name(f"{path.name}.{unique}.part")
    try:
        temporary.touch(exist_ok=False)
        mode = temporary.stat().st_mode
        yield temporary
        temporary.chmod(mode)
        _sync(temporary)
        move(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _move_to_free_name(temporary: Path, path: Path) -> None:
    """Give the file its name, unless the name is taken: a link never replaces anything."""
    try:
        os.link(temporary, path)
    except FileExistsError as error:
        raise _refuse_existing(path) from error
    except OSError:
        _move_without_link(temporary, path)


def _move_without_link(temporary: Path, path: Path) -> None:
    """For exFAT and network folders without links: an empty file reserves the name first."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError as error:
        raise _refuse_existing(path) from error
    try:
        os.replace(temporary, path)
    except OSError:
        path.unlink()
        raise


def _refuse_existing(path: Path) -> FileExistsError:
    return FileExistsError(
        f"{path} exists already, and nothing is overwritten. Choose another name, or move that "
        "file away first."
    )
