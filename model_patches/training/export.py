"""Write the files that a training produces: atomically, from tensors on any device."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from ..files.atomic import replacing
from ..files.header import peek

TRAINING_KEY = "flexid.training"
"""Metadata entry: JSON of what was trained, from which files and how."""
TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


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


def run_of(path: Path) -> object:
    """The id of the run that wrote a file; None where the file names none."""
    header = peek(path)
    try:
        notes = json.loads(header.metadata.get(TRAINING_KEY, "") if header else "")
    except (ValueError, RecursionError):
        return None
    return notes.get("run") if isinstance(notes, dict) else None
