"""Weight files: read the tensors, or explain in plain words why that is impossible.

The format is told by content, never by extension: half of all broken downloads are a web page or
a git-lfs pointer under the right name. Files come from strangers, so what they state is bounded
before anything is built from it.
"""

from __future__ import annotations

import hashlib
import pickle
import re
import stat
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .checks import shapes_of

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
    ArithmeticError,
    MemoryError,
    struct.error,
)
_NO_TORCH_ZIP = ("data.pkl", "file in archive is not in a subdirectory")
_PATH_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
# Bounds on what a file may state; an SDXL checkpoint has 2,500 tensors and 0.3 MB of header.
_MAX_FORMAT_HEADER = 100 << 20
MAX_HEADER = 8 << 20
_MAX_PICKLE = 4 << 20
MAX_TENSORS = 20_000
_MAX_VALUES = 100_000
_MAX_DEPTH = 16
_MAX_NAME = 1_000
# Views of one storage count several times; tied weights do so twice.
_MAX_GROWTH, _SLACK = 4, 64 << 20

_SMALL = 64 << 20
_END = 1 << 20
_BLOCK = 64 << 10
_BLOCKS = 64
_SMALL_TENSOR = _BLOCK * _BLOCKS


@dataclass(frozen=True, eq=False)
class TensorFile:
    """What a weight file holds. Tensors are on the CPU, memory-mapped where the format allows."""

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        return shapes_of(self.tensors)


def read_weights(path: str | Path, wanted: str) -> TensorFile:
    """Read a .safetensors or torch file. Pickles are read with `weights_only=True`.

    Nested dictionaries are flattened with dots, a `model`, `module` or `state_dict` wrapper and a
    `module.` prefix are taken off, values that are not tensors are left out.
    `wanted` names the right file and its source for the error messages.
    Raises FileNotFoundError or ValueError (names the file, what it is, the next step).
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist. Needed: {wanted}.")
    check_regular(path)
    kind = _sniff(path, wanted)
    if kind == "safetensors":
        file = _read_safetensors(path, wanted)
    else:
        loaded = _unwrap(_unpickle(path, kind, wanted))
        file = TensorFile(path, _flatten(loaded, path, wanted), {})
    _check_storage(file, wanted)
    return file


def check_regular(path: Path) -> None:
    """Raise ValueError for anything but a file: opening a pipe would wait for its writer."""
    mode = path.stat().st_mode
    if not stat.S_ISREG(mode):
        kind = _PATH_KINDS.get(stat.S_IFMT(mode), "something else")
        raise ValueError(
            f"{path.name} is {kind}, expected a regular file. Remove {path} or choose another file."
        )


def digest(path: str | Path) -> str:
    """SHA-256 of the content, as 64 hex digits; changes when the file does, and stays cheap.

    Up to 64 MiB the whole file counts. Beyond that: the size, the first and last MiB (headers,
    zip directories with a CRC of every member) and 64 evenly spaced blocks of 64 KiB. A change
    that touches none of those bytes goes unseen; retrained or converted weights change them all.
    Raises FileNotFoundError, or ValueError for anything but a regular file.
    """
    path = Path(path)
    check_regular(path)
    size = path.stat().st_size
    spans = [(0, size)]
    if size > _SMALL:
        step = size // _BLOCKS
        spans = [
            (0, _END),
            *((i * step, _BLOCK) for i in range(_BLOCKS)),
            (size - _END, -1),
        ]
    state = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for start, length in spans:
            file.seek(start)
            state.update(file.read(length))
    return state.hexdigest()


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of named tensors, as 64 hex digits: the same in every file that holds them.

    Key, type and shape of every tensor count, in the order of the sorted keys. Of the content,
    all bytes count up to 4 MiB per tensor; beyond that 64 evenly spaced blocks of 64 KiB, the
    last of which ends with the tensor. A change between those blocks goes unseen; retrained or
    converted weights change them all.
    """
    state = hashlib.sha256()
    for key in sorted(tensors):
        tensor = tensors[key].detach().cpu().contiguous()
        state.update(f"{key}\0{tensor.dtype}\0{tuple(tensor.shape)}\0".encode())
        content = tensor.reshape(-1).view(torch.uint8).numpy()
        for start, stop in _sample_spans(len(content)):
            state.update(content[start:stop].data)
    return state.hexdigest()


def _sample_spans(size: int) -> Iterator[tuple[int, int]]:
    if size <= _SMALL_TENSOR:
        yield 0, size
        return
    for index in range(_BLOCKS):
        start = index * (size - _BLOCK) // (_BLOCKS - 1)
        yield start, start + _BLOCK


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
    if head[8:9] == b"{" or int.from_bytes(head[:8], "little") < _MAX_FORMAT_HEADER:
        return "safetensors"
    if head[:1] == b"\x80":
        return "pickle"
    raise ValueError(
        f"{path.name} is neither a safetensors nor a torch file (it begins with {head[:8]!r}). "
        f"Use {wanted}."
    )


def _read_safetensors(path: Path, wanted: str) -> TensorFile:
    _check_header_size(path, wanted)
    try:
        with safe_open(path, framework="pt") as file:
            keys = list(file.keys())
            _check_number(len(keys), path, wanted)
            tensors = {key: file.get_tensor(key) for key in keys}
            return TensorFile(path, tensors, file.metadata() or {})
    except SafetensorError as error:
        raise ValueError(_explain_damage(path, error, wanted)) from error


def _check_header_size(path: Path, wanted: str) -> None:
    """The parser takes a second for each 20 MB of header, so absurd ones are refused unread."""
    stated = _read_header_size(path)
    if MAX_HEADER < stated <= path.stat().st_size - 8:
        raise ValueError(
            f"{path.name} has a safetensors header of {stated} bytes, expected at most "
            f"{MAX_HEADER}. It is damaged or not a model; use {wanted}."
        )


def _read_header_size(path: Path) -> int:
    with path.open("rb") as file:
        return int.from_bytes(file.read(8), "little")


def _check_number(count: int, path: Path, wanted: str) -> None:
    if count > MAX_TENSORS:
        raise ValueError(
            f"{path.name} has {count} tensors, expected at most {MAX_TENSORS}. It is damaged or "
            f"not a model; use {wanted}."
        )


def _explain_damage(path: Path, error: SafetensorError, wanted: str) -> str:
    """What the parser's error means for the user: cut short, no header, or damaged."""
    size = path.stat().st_size
    length = _read_header_size(path)
    expected = 8 + length
    again = f"Delete it and download again: {wanted}."
    if expected <= size:
        with path.open("rb") as file:
            file.seek(8)
            ends = re.findall(rb'"data_offsets"\s*:\s*\[\s*\d+\s*,\s*(\d{1,18})', file.read(length))
        expected += max(map(int, ends), default=0)
    if expected > size:
        return (
            f"{path.name} is cut short: {size} bytes, expected at least {expected}. "
            f"The download did not finish. {again}"
        )
    if "JSON" in str(error) or "utf" in str(error).lower():
        return f"{path.name} has no readable safetensors header ({error}). {again}"
    return f"{path.name} is a damaged safetensors file ({error}). {again}"


def _check_pickle_size(path: Path, wanted: str) -> None:
    """torch.load takes two seconds for each megabyte of pickle, so absurd ones are refused unread.

    Tensors are not in the pickle: 4 MiB describe about 50,000. torch.load explains damaged zips.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            sizes = [m.file_size for m in archive.infolist() if m.filename.endswith("/data.pkl")]
    except (zipfile.BadZipFile, *_UNREADABLE):
        return
    if max(sizes, default=0) > _MAX_PICKLE:
        raise ValueError(
            f"{path.name} describes its tensors in {max(sizes)} bytes of pickle, expected at most "
            f"{_MAX_PICKLE}. It is damaged or not a model; use {wanted}."
        )


def _unpickle(path: Path, kind: str, wanted: str) -> object:
    if kind == "zip":
        _check_pickle_size(path, wanted)
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


def _flatten(loaded: object, path: Path, wanted: str) -> dict[str, Tensor]:
    """All tensors in nested dictionaries, their keys joined with dots, in the file's order.

    Dictionaries may share their parts, or contain themselves, so that a file of 2 KB names
    billions of tensors: depth, number of values and length of names are bounded.
    """
    tensors: dict[str, Tensor] = {}
    visited, pending = 0, [("", loaded, 0)]
    while pending:
        name, value, depth = pending.pop()
        visited += 1
        if isinstance(value, Tensor):
            tensors[name.removeprefix("module.")] = value
        elif isinstance(value, Mapping):
            if visited + len(pending) + len(value) > _MAX_VALUES or depth > _MAX_DEPTH:
                raise ValueError(
                    f"{path.name} nests dictionaries {depth} deep with more than "
                    f"{visited + len(pending)} values, expected at most {_MAX_DEPTH} and "
                    f"{_MAX_VALUES}. It is damaged or not a model; use {wanted}."
                )
            children = [(key, child) for key, child in value.items() if isinstance(key, str)]
            for key, child in reversed(children):
                _check_name(key, path, wanted)
                pending.append((f"{name}.{key}" if depth else key, child, depth + 1))
    _check_number(len(tensors), path, wanted)
    return tensors


def _check_name(key: str, path: Path, wanted: str) -> None:
    if len(key) > _MAX_NAME:
        raise ValueError(
            f"{path.name} has a key of {len(key)} characters ({key[:40]}...), expected at most "
            f"{_MAX_NAME}. It is damaged or not a model; use {wanted}."
        )


def _check_storage(file: TensorFile, wanted: str) -> None:
    """Refuse tensors without plain storage on the CPU, and more content than the file can hold."""
    size = file.path.stat().st_size
    total = 0
    for key, tensor in file.tensors.items():
        if tensor.layout is not torch.strided or tensor.device.type != "cpu" or tensor.is_quantized:
            found = "quantised" if tensor.is_quantized else f"{tensor.layout}, {tensor.device}"
            raise ValueError(
                f"{file.path.name}: tensor {key} is {found}, expected torch.strided, cpu. "
                f"Save it as a plain dense tensor, or use {wanted}."
            )
        total += tensor.numel() * tensor.element_size()
    if total > _MAX_GROWTH * size + _SLACK:
        raise ValueError(
            f"{file.path.name} states tensors of {total} bytes, expected at most {_MAX_GROWTH} "
            f"times its size of {size} bytes. It is damaged; use {wanted}."
        )
