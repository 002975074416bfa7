"""What a weight file says about itself, read without its content: to choose among many files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from safetensors import SafetensorError, safe_open

from .checks import Shapes
from .kinds import find_kind
from .tensor_file import MAX_HEADER, check_regular, read_weights

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
        if int.from_bytes(head, "little") > min(MAX_HEADER, size):
            return None
        with safe_open(path, framework="pt") as file:
            shapes = {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}
            return Header(shapes, file.metadata() or {})
    except (OSError, ValueError, SafetensorError):
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
