"""Write the files that a training produces: atomically, from tensors on any device."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..files.atomic import replacing


def write_safetensors(
    path: Path,
    tensors: Mapping[str, Tensor],
    dtype: torch.dtype | None,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """All tensors in `dtype` (None: each in its own), with the file's metadata. Raises OSError."""
    with replacing(path) as temporary:
        save_file(_copy_tensors(tensors, dtype), temporary, dict(metadata) if metadata else None)


def write_torch(path: Path, tensors: Mapping[str, Tensor], dtype: torch.dtype) -> None:
    """As `write_safetensors`, for formats that are torch files (FaceT5)."""
    with replacing(path) as temporary:
        torch.save(_copy_tensors(tensors, dtype), temporary)


def _copy_tensors(tensors: Mapping[str, Tensor], dtype: torch.dtype | None) -> dict[str, Tensor]:
    return {
        name: value.detach().to("cpu", dtype or value.dtype).contiguous()
        for name, value in tensors.items()
    }
