"""DynamicID's files with the goldens' seeded weights, at the published sizes or smaller."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import ip_files
import torch
from safetensors.torch import save_file
from seeding import seeded
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


def imr_shapes(
    width: int = 768, dim: int = 1024, depth: int = 1, motion: int = 4, hidden: int = 4096
) -> ip_files.Shapes:
    """IMR.bin."""

    def norm(name: str, size: int) -> ip_files.Shapes:
        return {f"{name}.weight": (size,), f"{name}.bias": (size,)}

    def linear(name: str, out: int, entry: int) -> ip_files.Shapes:
        return {f"{name}.weight": (out, entry), f"{name}.bias": (out,)}

    shapes = {
        **norm("feature_fusion.0", 2 * width),
        **linear("feature_fusion.1", dim, 2 * width),
        **norm("feature_fusion.3", dim),
        **linear("feature_fusion.4", motion * dim, dim),
        **norm("norm_in", width),
        **linear("proj_in", dim, width),
        **norm("norm_out", dim),
        **linear("proj_out", width, dim),
    }
    for net in ("disentangleNet", "entangleNet"):
        for block in range(depth):
            for part in (0, 1):
                name = f"{net}.{block}.{part}"
                shapes |= {
                    **norm(f"{name}.norm1", dim),
                    f"{name}.to_q.weight": (dim, dim),
                    f"{name}.to_kv.weight": (2 * dim, dim),
                    f"{name}.to_out.weight": (dim, dim),
                }
            shapes |= norm(f"{net}.{block}.0.norm2", dim)
            name = f"{net}.{block}.2"
            shapes |= {
                **norm(f"{name}.0", dim),
                f"{name}.1.weight": (hidden, dim),
                f"{name}.3.weight": (dim, hidden),
            }
    return shapes


def keypoint_shapes(
    widths: tuple[int, ...] = (16, 32, 64, 128, 256, 512, 512), last: int = 768
) -> ip_files.Shapes:
    """key_point_encoder.bin. widths: of the seven blocks; last: of the last unit."""
    shapes: ip_files.Shapes = {}
    before = 1
    for block, units in enumerate((1, 3, 4, 3, 3, 2, 2)):
        for unit in range(units):
            is_last = block == 6 and unit == 1
            after = last if is_last else widths[block]
            kernel = 7 if block == 0 else 1 if is_last else 3
            name = f"blocks.{block}.{unit}.conv_block"
            shapes |= {
                f"{name}.0.weight": (after, before, kernel, kernel),
                f"{name}.0.bias": (after,),
                **{
                    f"{name}.1.{key}": (after,)
                    for key in ("weight", "bias", "running_mean", "running_var")
                },
                f"{name}.1.num_batches_tracked": (),
            }
            before = after
    return shapes


def seed_keypoints(shapes: ip_files.Shapes, he: bool = False) -> dict[str, Tensor]:
    """he: convolutions at the scale that keeps a signal through all layers."""
    tensors = {}
    for key, shape in shapes.items():
        if key.endswith("num_batches_tracked"):
            tensors[key] = torch.zeros((), dtype=torch.int64)
            continue
        value = seeded(key, shape)
        if key.endswith("running_var"):
            value = 1 + value
        if he and value.ndim == 4:
            value = value * ((2 / value[0].numel()) ** 0.5 / 0.02)
        tensors[key] = value
    return tensors


def write_flat(path: Path, tensors: Mapping[str, Tensor]) -> Path:
    """As the published pickle, or as safetensors, by the name's ending."""
    if path.suffix == ".bin":
        torch.save(dict(tensors), path)
    else:
        save_file(dict(tensors), path)
    return path
