"""Write a safetensors file tensor by tensor, so that it never has to fit into memory whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from .tensor_file import MAX_HEADER
from .weight_file import format_bytes

Layout = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
"""Number type and shape of each tensor."""

_TYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
}
_ALIGNMENT = 8


def count_bytes(layout: Layout) -> int:
    """What the tensors of a file of this layout take, without its header."""
    return sum(_size_of(*entry) for entry in layout.values())


def require_space(folder: Path, needed: int) -> None:
    """Raise OSError unless the disk of `folder`, which may not exist yet, has `needed` bytes."""
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise OSError(
            f"The new file needs {format_bytes(needed)} on the disk of {folder}, which has "
            f"{format_bytes(free)} free. Nothing was written. Free some space first."
        )


def write_streamed(
    path: Path, layout: Layout, make: Callable[[str], Tensor], metadata: Mapping[str, str]
) -> None:
    """Write the header, then each tensor as `make(key)` returns it; one of them lives at a time.

    Floating-point tensors only, on the CPU. The order is that of the safetensors library: the
    widest types first, so that every tensor is aligned, then by key. Raises ValueError when a
    tensor is not what the layout says or of no such type, or when the header is longer than
    `read_weights` accepts; OSError.
    """
    keys = sorted(layout, key=lambda key: (-layout[key][0].itemsize, key))
    foreign = [f"{key} is {layout[key][0]}" for key in keys if layout[key][0] not in _TYPES]
    if foreign:
        raise ValueError(
            f"{path.name} cannot hold {len(foreign)} of its tensors ({foreign[0]}); expected "
            f"{', '.join(map(str, _TYPES))}. Choose one of these types."
        )
    header = _encode_header(layout, keys, metadata)
    if len(header) > MAX_HEADER:
        raise ValueError(
            f"The header of {path.name} would have {len(header)} bytes, expected at most "
            f"{MAX_HEADER}. Shorten its metadata."
        )
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little"))
        file.write(header)
        for key in keys:
            tensor = make(key)
            found = (tensor.dtype, tuple(tensor.shape))
            if found != layout[key]:
                raise ValueError(f"{key} is {found}, expected {layout[key]} as announced.")
            file.write(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
            del tensor  # before the next one is made


def _encode_header(layout: Layout, keys: list[str], metadata: Mapping[str, str]) -> bytes:
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    start = 0
    for key in keys:
        dtype, shape = layout[key]
        end = start + _size_of(dtype, shape)
        entries[key] = {"dtype": _TYPES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    return text + b" " * (-len(text) % _ALIGNMENT)


def _size_of(dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    return dtype.itemsize * torch.Size(shape).numel()
