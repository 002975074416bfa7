"""The golden vectors' rule for regenerating weights and inputs from nothing but name and shape."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


def _normal(name: str, shape: Sequence[int]) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    generator = np.random.Generator(np.random.PCG64(seed))
    return generator.standard_normal(tuple(shape), dtype=np.float32)


def seeded(name: str, shape: Sequence[int]) -> Tensor:
    """The float32 parameter of that (public file) name and shape."""
    noise = np.float32(0.02) * _normal(name, shape)
    if len(shape) == 1 and name.endswith(("weight", "scale")):
        noise = np.float32(1) + noise
    return torch.from_numpy(np.asarray(noise))


def seeded_input(name: str, shape: Sequence[int]) -> Tensor:
    """The float32 input `name` at scale 1."""
    return torch.from_numpy(_normal(f"input:{name}", shape))


def golden_shapes(golden: Path, table: str, prefix: str = "") -> dict[str, tuple[int, ...]]:
    """Keys and shapes of `table` in pulid_keys.json that begin with `prefix`."""
    tables = json.loads((golden / "pulid_keys.json").read_text())
    return {k: tuple(s) for k, s in tables[table].items() if k.startswith(prefix)}
