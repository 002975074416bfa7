"""Run one set-up at a time, by an operating-system lock that a crash releases."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .console import SetupError, say

POLL = 0.5
LOCKED_BYTE = 1 << 20
"""Windows locks bytes; this one lies beyond the text, so that waiters can read the owner's id."""


def _try_lock(descriptor: int) -> bool:
    try:
        if os.name == "nt":
            import msvcrt

            os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def _unlock(descriptor: int) -> None:
    if os.name == "nt":
        import msvcrt

        os.lseek(descriptor, LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_UNLCK, 1)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _owner(path: Path) -> str:
    words = path.read_text(encoding="ascii", errors="replace").split()
    return words[0] if words else "unknown"


@contextmanager
def exclusive(path: Path, what: str, wait: bool = True) -> Iterator[None]:
    """Hold the lock file `path`. When another process has it, say which and wait for it.

    Raises SetupError instead of waiting when `wait` is off.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        announced = False
        while not _try_lock(descriptor):
            if not wait:
                raise SetupError(f"{what} already runs (pid {_owner(path)}). End that one first.")
            if not announced:
                say(f"waiting for another {what} (pid {_owner(path)}), which holds {path}")
                announced = True
            time.sleep(POLL)
        try:
            os.ftruncate(descriptor, 0)
            os.lseek(descriptor, 0, os.SEEK_SET)
            os.write(descriptor, f"{os.getpid()}\n".encode())
            yield
        finally:
            _unlock(descriptor)
    finally:
        os.close(descriptor)
