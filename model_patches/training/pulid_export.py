"""The files that a training of an identity adapter leaves: a whole adapter, or its delta."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..adapters.adapter_delta import state_base
from ..adapters.pulid_flux import ENCODER, HEADS_KEY, AdapterFile, state_blocks
from .export import TRAINING_KEY, write_safetensors
from .pulid_trained import TrainedAttention

EXPORTS = ("full", "delta")


def export(
    path: Path,
    layers: TrainedAttention,
    parent: AdapterFile,
    kind: str,
    dtype: torch.dtype,
    notes: Mapping[str, Any],
) -> None:
    """Write what is trained by now, in `dtype`; the encoder stays as the parent has it.

    kind: one of EXPORTS. A delta opens beside the parent, see adapters/adapter_delta.py. Raises
    OSError.
    """
    stated = {TRAINING_KEY: json.dumps(dict(notes), ensure_ascii=False)}
    if kind == "delta":
        delta = {key: value.to(dtype) for key, value in layers.delta().items()}
        stated |= state_base(parent.file.path.name, parent.digest)
        write_safetensors(path, delta, None, stated)
        return
    trained = {f"pulid_ca.{key}" for key in layers.keys}
    tensors = {key: value for key, value in parent.file.tensors.items() if key.startswith(ENCODER)}
    tensors |= {
        key: value.to(dtype) if key in trained else value for key, value in layers.tensors().items()
    }
    stated |= {HEADS_KEY: str(parent.heads), **state_blocks(parent.blocks)}
    write_safetensors(path, tensors, None, stated)
