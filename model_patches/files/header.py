"""What a weight file says about itself, read without its content: to choose among many files."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from .checks import Shapes
from .kinds import find_kind
from .tensor_file import MAX_HEADER, MAX_TENSORS, check_regular, read_weights

_ZIP = b"PK\x03\x04"


@dataclass(frozen=True, eq=False)
class Header:
    """Names and shapes of the tensors, and the metadata."""

    shapes: Shapes
    metadata: Mapping[str, str]

    @property
    def kind(self) -> str:
        """Key of its Kind; empty when unknown."""
        found = find_kind(self.shapes)
        return found.key if found else ""


def peek(path: str | Path) -> Header | None:
    """The header of a .safetensors or zipped torch file; None for any other or a damaged one.

    Kept until size or time of the file change: combo lists ask on every validation.
    """
    try:
        facts = Path(path).stat()
        return _read_header(Path(path), facts.st_size, facts.st_mtime_ns)
    except OSError:
        return None


@lru_cache(maxsize=4096)
def _read_header(path: Path, size: int, changed: int) -> Header | None:
    try:
        check_regular(path)
        with path.open("rb") as file:
            head = file.read(8)
            if head.startswith(_ZIP):  # torch maps the content of a zip and reads none of it
                return Header(read_weights(path, "a weight file").shapes, {})
            length = int.from_bytes(head, "little")
            text = file.read(length) if length <= min(MAX_HEADER, size) else b""
        return _parse_header(json.loads(text), size - 8 - length)
    except (OSError, ValueError, RecursionError):
        return None


def _parse_header(entries: dict, content: int) -> Header | None:
    """`content`: bytes behind the header; None when they are too few, or the header is none."""
    try:
        if len(entries) > MAX_TENSORS:
            return None
        metadata = {str(key): str(value) for key, value in entries.pop("__metadata__", {}).items()}
        shapes = {key: tuple(map(int, entry["shape"])) for key, entry in entries.items()}
        end = max((entry["data_offsets"][1] for entry in entries.values()), default=0)
        return Header(shapes, metadata) if end <= content else None
    except (AttributeError, LookupError, TypeError, ValueError, OverflowError):
        return None


def best_first(
    names: Sequence[str], path_of: Callable[[str], str | Path], fits: Iterable[Callable]
) -> list[str]:
    """The names, with the first one whose header fits put in front: what a combo preselects.

    `fits` are tests of a Header, the most wanted first. Without a fit the order stays.
    """
    for test in fits:
        for name in names:
            header = peek(path_of(name))
            if header is not None and test(header):
                return [name, *(other for other in names if other != name)]
    return list(names)


def is_kind(key: str) -> Callable[[Header], bool]:
    """A test of a Header for `best_first`; `key` is that of a Kind."""
    return lambda header: header.kind == key
