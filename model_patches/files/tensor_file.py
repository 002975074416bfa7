"""Weight files: read the tensors, or say in plain words why that cannot be done.

The format is told by content, never by extension: half of all broken downloads are a web page or
a git-lfs pointer under the right name.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

Shapes = Mapping[str, tuple[int, ...]]

_WRAPPERS = ("model", "module", "state_dict")
# What torch.load raises on damaged input, found by feeding it a few thousand altered files.
_UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    OSError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    struct.error,
)
_NO_TORCH_ZIP = ("data.pkl", "file in archive is not in a subdirectory")
_MAX_HEADER = 100 << 20
_SMALL = 64 << 20
_BLOCK = 64 << 10
_BLOCKS = 64


@dataclass(frozen=True, eq=False)
class TensorFile:
    """What a weight file holds. Tensors are on the CPU, memory-mapped where the format allows."""

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return {key: tuple(tensor.shape) for key, tensor in self.tensors.items()}


def read_weights(path: str | Path, wanted: str) -> TensorFile:
    """Read a .safetensors or torch file. Pickles are read with `weights_only=True`.

    Nested dictionaries are flattened with dots, a `model`, `module` or `state_dict` wrapper and a
    `module.` prefix are taken off, values that are not tensors are left out.
    `wanted` names the right file and its source for the error messages.
    Raises FileNotFoundError or ValueError (names the file, what it is, the next step).
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist. Needed: {wanted}.")
    kind = _sniff(path, wanted)
    if kind == "safetensors":
        return _read_safetensors(path, wanted)
    return TensorFile(path, dict(_flatten(_unwrap(_unpickle(path, kind, wanted)))), {})


def digest(path: str | Path) -> str:
    """SHA-256 of the content, as 64 hex digits; changes when the file does, and stays cheap.

    Up to 64 MiB the whole file counts. Beyond that: the size, the first and last MiB (headers,
    zip directories with a CRC of every member) and 64 evenly spaced blocks of 64 KiB. A change
    that touches none of those bytes goes unseen; retrained or converted weights change them all.
    """
    path = Path(path)
    size = path.stat().st_size
    spans = [(0, size)]
    if size > _SMALL:
        step = size // _BLOCKS
        spans = [
            (0, 1 << 20),
            *((i * step, _BLOCK) for i in range(_BLOCKS)),
            (size - (1 << 20), -1),
        ]
    state = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for start, length in spans:
            file.seek(start)
            state.update(file.read(length))
    return state.hexdigest()


def check_shapes(found: Shapes, expected: Shapes, what: str, wanted: str) -> None:
    """Raise ValueError unless both name the same tensors with the same shapes.

    The message counts what is missing, foreign or misshapen and names the first of each.
    """
    missing = [key for key in expected if key not in found]
    foreign = [key for key in found if key not in expected]
    wrong = [
        f"{key} is {found[key]}, expected {shape}"
        for key, shape in expected.items()
        if key in found and tuple(found[key]) != tuple(shape)
    ]
    parts = []
    if missing:
        parts.append(f"{len(missing)} of {len(expected)} tensors are missing ({_first(missing)})")
    if foreign:
        parts.append(f"{len(foreign)} tensors do not belong to it ({_first(foreign)})")
    if wrong:
        parts.append(f"{len(wrong)} tensors have another shape ({_first(wrong)})")
    if parts:
        raise ValueError(
            f"{what} is incomplete or altered: {'; '.join(parts)}. Use the unmodified {wanted}."
        )


def shape_of(shapes: Shapes, key: str, rank: int, what: str, wanted: str) -> tuple[int, ...]:
    """The shape of a tensor that dimensions are read from. Raises ValueError when unusable."""
    if key not in shapes:
        raise ValueError(
            f"{what} has no tensor {key}, from which its dimensions are read "
            f"({len(shapes)} others are there). Use the unmodified {wanted}."
        )
    shape = tuple(shapes[key])
    if len(shape) != rank or 0 in shape:
        raise ValueError(
            f"{what}: {key} has shape {shape}, expected {rank} dimensions, none of them 0. "
            f"Use the unmodified {wanted}."
        )
    return shape


def check_floating(tensors: Mapping[str, Tensor], what: str, wanted: str) -> None:
    """Raise ValueError when any tensor is not floating point (integer-quantised files)."""
    bad = [f"{key} is {t.dtype}" for key, t in tensors.items() if not t.is_floating_point()]
    if bad:
        raise ValueError(
            f"{what} holds {len(bad)} tensors that are not floating point ({_first(bad)}); "
            f"quantised files are not supported. Use the 16- or 32-bit {wanted}."
        )


def highest_index(shapes: Shapes, prefix: str) -> int:
    """One more than the highest N among keys `prefix` + N + "."; 0 when there is none."""
    tails = (key[len(prefix) :].split(".", 1)[0] for key in shapes if key.startswith(prefix))
    return max((int(tail) + 1 for tail in tails if tail.isdecimal()), default=0)


def _first(names: list[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def _sniff(path: Path, wanted: str) -> str:
    """ "safetensors", "zip" or "pickle"; ValueError names anything else."""
    with path.open("rb") as file:
        head = file.read(512)
    again = f"Delete it and download again: {wanted}."
    if not head:
        raise ValueError(f"{path.name} is empty (0 bytes). {again}")
    text = head.lstrip().lower()
    if text.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        raise ValueError(f"{path.name} is a web page saved under a weight file's name. {again}")
    if text.startswith(b"version https://git-lfs"):
        raise ValueError(f"{path.name} is a git-lfs pointer, not the file it points to. {again}")
    if head.startswith(b"GGUF"):
        raise ValueError(f"{path.name} is a GGUF file, which is not read here. Use {wanted}.")
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head[8:9] == b"{" or int.from_bytes(head[:8], "little") < _MAX_HEADER:
        return "safetensors"
    if head[:1] == b"\x80":
        return "pickle"
    raise ValueError(
        f"{path.name} is neither a safetensors nor a torch file (it begins with {head[:8]!r}). "
        f"Use {wanted}."
    )


def _read_safetensors(path: Path, wanted: str) -> TensorFile:
    _check_length(path, wanted)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return TensorFile(path, tensors, file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(
            f"{path.name} is a damaged safetensors file ({error}). "
            f"Delete it and download again: {wanted}."
        ) from error


def _check_length(path: Path, wanted: str) -> None:
    """Compare the size with what the header announces, to tell "cut short" from "damaged"."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = file.read(min(length, size))
    expected = 8 + length
    if expected <= size:
        try:
            entries = json.loads(header)
            expected += max(
                (e["data_offsets"][1] for e in entries.values() if "dtype" in e), default=0
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise ValueError(
                f"{path.name} has no readable safetensors header. "
                f"Delete it and download again: {wanted}."
            ) from error
    if expected > size:
        raise ValueError(
            f"{path.name} is cut short: {size} bytes, expected at least {expected}. "
            f"The download did not finish; delete it and download again: {wanted}."
        )


def _unpickle(path: Path, kind: str, wanted: str) -> object:
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=kind == "zip")
    except _UNREADABLE as error:
        again = f"Delete it and download again: {wanted}."
        code = re.search(r"GLOBAL ([\w.]+)", str(error))
        if code:
            raise ValueError(
                f"{path.name} is a pickle that wants to run code ({code[1]}); it was not opened. "
                f"Files from a trusted source need none. {again}"
            ) from error
        if any(text in str(error) for text in _NO_TORCH_ZIP):
            raise ValueError(
                f"{path.name} is a zip archive, not a torch file. Unpack it, or use {wanted}."
            ) from error
        raise ValueError(f"{path.name} is cut short or damaged. {again}") from error


def _unwrap(loaded: object) -> object:
    for name in _WRAPPERS:
        if isinstance(loaded, Mapping) and isinstance(loaded.get(name), Mapping):
            return loaded[name]
    return loaded


def _flatten(loaded: object, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(loaded, Tensor):
        yield prefix[:-1].removeprefix("module."), loaded
    elif isinstance(loaded, Mapping):
        for key, value in loaded.items():
            yield from _flatten(value, f"{prefix}{key}.")
