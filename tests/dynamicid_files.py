"""DynamicID's files with the goldens' seeded weights, at the published sizes or smaller."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import ip_files
import torch
from safetensors.torch import save_file
from torch import Tensor

RANK = 128


def projection(width: int = 768, clip: int = 1280) -> dict[str, Tensor]:
    """`proj_module`, seeded by the keys inside it."""
    return ip_files.seed_all(ip_files.token_shapes("faceid_plus", width=width, clip=clip))


def attention(widths: list[int], width: int = 768, rank: int = RANK) -> dict[str, Tensor]:
    """`SAA_module` for cross-attentions of these widths, seeded by the keys inside it."""
    return ip_files.seed_all(ip_files.layer_shapes(widths, width, rank))


def write_saa(
    path: Path,
    attention: Mapping[str, Tensor],
    projection: Mapping[str, Tensor],
    names: tuple[str, str] = ("SAA_module", "proj_module"),
) -> Path:
    """As the published nested pickle, or as safetensors of the same keys by the name's ending."""
    nested = dict(zip(names, (dict(attention), dict(projection)), strict=True))
    if path.suffix == ".bin":
        torch.save(nested, path)
    else:
        flat = {f"{name}.{key}": t for name, part in nested.items() for key, t in part.items()}
        save_file(flat, path)
    return path
