"""Write files so that readers see the old one or the whole new one, with ordinary permissions."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path


def write_atomically(path: str | Path, write: Callable[[Path], None]) -> Path:
    """`write` fills a temporary file beside `path`, which then takes its place. Returns the path.

    Replaces an existing file; choosing a free name is the caller's part. The new file has the
    permissions that the user's umask gives. Raises OSError when the folder cannot be written.
    """
    path = Path(path)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return path


def _umask() -> int:
    """There is no way to read it but to set it."""
    mask = os.umask(0)
    os.umask(mask)
    return mask
