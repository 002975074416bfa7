"""IP-Adapter and FlexIP files with the goldens' seeded weights, at the public sizes or smaller."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from flexid.mini.random_adapter import linear, norm, perceiver_layer
from safetensors.torch import save_file
from seeding import seeded
from torch import Tensor

Shapes = dict[str, tuple[int, ...]]


def resampler(
    dim: int,
    context: int,
    output: int,
    depth: int = 4,
    latents: int = 0,
    query: int = 0,
    spread: int = 1,
    normed: bool = True,
) -> Shapes:
    shapes: Shapes = {"latents": (1, latents, dim)} if latents else {}
    if query:
        shapes |= {**linear("proj_query", spread * dim, query), **norm("norm_query", dim)}
    shapes |= linear("proj_in", dim, context)
    for layer in range(depth):
        shapes |= perceiver_layer(f"layers.{layer}", dim)
    shapes |= linear("proj_out", output, dim)
    return {**shapes, **(norm("norm_out", output) if normed else {})}


def token_shapes(
    variant: str, width: int = 768, clip: int = 1280, pooled: int = 1024, dim: int | None = None
) -> Shapes:
    """The `image_proj` tensors of a public variant, keys without that prefix."""
    dim = dim or width
    face = {**linear("proj.0", 1024, 512), **norm("norm", width)}
    if variant == "base":
        return {**linear("proj", 4 * width, pooled), **norm("norm", width)}
    if variant == "plus":
        return resampler(dim, clip, width, latents=16)
    if variant == "full":
        return {**linear("proj.0", clip, clip), **linear("proj.2", width, clip)} | norm(
            "proj.3", width
        )
    if variant == "portrait":
        return {**face, **linear("proj.2", 16 * width, 1024)}
    shapes = {**face, **linear("proj.2", 4 * width, 1024)}
    if variant == "faceid_plus":
        inner = resampler(width, clip, width)
        shapes |= {f"perceiver_resampler.{key}": shape for key, shape in inner.items()}
    return shapes


def layer_shapes(widths: list[int], width: int = 768, lora: int = 0) -> Shapes:
    """The `ip_adapter` tensors for cross-attentions of these widths, in diffusers' order."""
    shapes: Shapes = {}
    for index, inner in enumerate(widths):
        for part in ("k", "v"):
            shapes[f"{2 * index + 1}.to_{part}_ip.weight"] = (inner, width)
        for number, text in ((2 * index, inner), (2 * index + 1, width)) if lora else ():
            for part, entry in (("q", inner), ("k", text), ("v", text), ("out", inner)):
                shapes[f"{number}.to_{part}_lora.down.weight"] = (lora, entry)
                shapes[f"{number}.to_{part}_lora.up.weight"] = (inner, lora)
    return shapes


def tensors_of(tokens: Shapes, layers: Shapes, sharp: float = 1.0) -> dict[str, Tensor]:
    """A whole IP-Adapter file. sharp: factor of the resamplers' to_q."""
    keys = {f"image_proj.{key}": shape for key, shape in tokens.items()}
    keys |= {f"ip_adapter.{key}": shape for key, shape in layers.items()}
    return sharpen(seed_all(keys), sharp)


def seed_all(shapes: Shapes) -> dict[str, Tensor]:
    return {key: seeded(key, shape) for key, shape in shapes.items()}


def sharpen(tensors: Mapping[str, Tensor], factor: float) -> dict[str, Tensor]:
    resamplers = ("image_proj.", "preserve.", "personal.")
    return {
        key: tensor * factor
        if key.startswith(resamplers) and key.endswith("to_q.weight")
        else tensor
        for key, tensor in tensors.items()
    }


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None):
    """As safetensors, or as the public nested pickle when the name ends in .bin."""
    if path.suffix == ".bin":
        parts = {key.split(".", 1)[0] for key in tensors}
        nested = {
            part: {k.split(".", 1)[1]: t for k, t in tensors.items() if k.startswith(f"{part}.")}
            for part in parts
        }
        torch.save(nested, path)
    else:
        save_file(dict(tensors), path, dict(metadata) if metadata else None)
    return path


def flexip_shapes(
    dim: int = 768,
    width: int = 768,
    context: int = 1024,
    pooled: int = 1024,
    depth: int = 2,
    latents: int = 16,
    blocks: Mapping[str, int] | None = None,
    personal: bool = True,
    path: str = "attention",
    fusion: str = "outputs",
) -> Shapes:
    """A FlexIP file of version 1. blocks: "input.1.0" -> channels."""
    parts = {"preserve.detail.": resampler(dim, context, width, depth, latents=latents)}
    if personal:
        parts["preserve.overall."] = resampler(dim, context, width, depth, query=pooled)
        parts["personal."] = resampler(
            dim, pooled, width, depth, query=width, normed=path == "attention"
        )
    shapes = {prefix + key: s for prefix, part in parts.items() for key, s in part.items()}
    own = personal and path == "attention" and fusion != "tokens"
    for block, channels in (blocks or {"input.1.0": 320}).items():
        for stream in ("preserve", "personal") if own else ("preserve",):
            for part in ("to_k", "to_v"):
                shapes[f"blocks.{block}.{stream}.{part}.weight"] = (channels, width)
    return shapes


def mapping(name, entry, hidden, exit_):
    return {
        **linear(f"{name}.0", hidden, entry),
        **norm(f"{name}.1", hidden),
        **linear(f"{name}.3", hidden, hidden),
        **norm(f"{name}.4", hidden),
        **linear(f"{name}.6", exit_, hidden),
    }


def pulid_v1_shapes(condition=1280, hidden=1024, vision=1024, output=2048):
    shapes = mapping("body", condition, hidden, 5 * output)
    for level in range(5):
        for name in (f"mapping_{level}", f"mapping_patch_{level}"):
            shapes |= mapping(name, vision, hidden, output)
    return shapes


def pulid_sdxl(encoder, widths=(64,), output=2048):
    """A PuLID file for SDXL in the authors' layout, seeded by its keys."""
    shapes = {f"id_adapter.{key}": shape for key, shape in encoder.items()}
    for index, width in enumerate(widths):
        for part in ("k", "v"):
            key = f"id_adapter_attn_layers.{2 * index + 1}.id_to_{part}.weight"
            shapes[key] = (width, output)
    return {key: seeded(key, shape) for key, shape in shapes.items()}
