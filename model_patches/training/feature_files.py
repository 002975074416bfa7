"""What frozen encoders make of training data, one file each, kept on the disk.

A file's name is a digest of what it is made of, so that other data or other encoders make other
files. They are made once, by the first process; a stopped run goes on where it was.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

from ..files.weight_file import format_bytes
from . import stopping
from .export import write_safetensors

SHOW_EVERY = 100
RESERVE = 1.1
"""Free disk that is asked for, as a multiple of what is needed."""

Work = tuple[Path, Callable[[], Mapping[str, Tensor]]]
"""A file, and how its tensors are made."""


def fill_files(
    jobs: Iterable[Work], what: str, dtype: torch.dtype | None, name: str = "features"
) -> None:
    """Make the files that are missing. dtype: as `write_safetensors` takes it; what: for messages.

    Raises OSError when the disk is too small for them, KeyboardInterrupt once a stop was asked for.
    """
    todo = [job for job in jobs if not job[0].exists()]
    with stopping.defer_stop() as asked:
        for number, (path, make) in enumerate(todo, 1):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_safetensors(path, make(), dtype)
            if number == 1:
                _check_disk(path, len(todo), what)
            if number % SHOW_EVERY == 0 or number == len(todo):
                sys.stdout.write(f"{name}: {number} of {len(todo)}\n")
                sys.stdout.flush()
            if asked():
                raise KeyboardInterrupt


def read_features(path: Path) -> dict[str, Tensor]:
    """All tensors of a file, float32 on the CPU."""
    return {name: tensor.float() for name, tensor in load_file(path).items()}


def key_of(*parts: object) -> str:
    """A file's name for what it is made of."""
    return hashlib.sha256(repr(tuple(map(str, parts))).encode()).hexdigest()[:32]


def _check_disk(first: Path, count: int, what: str) -> None:
    needed = RESERVE * first.stat().st_size * count
    free = shutil.disk_usage(first.parent).free
    if free < needed:
        raise OSError(
            f"features of {count} {what} take about {format_bytes(int(needed))}, "
            f"{first.parent} has {format_bytes(free)} free. Free some space, or name another "
            "--work folder."
        )
