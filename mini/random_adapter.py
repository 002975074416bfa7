"""Random adapter and vision tower in the public file formats, small enough for tests and demos.

They know no faces: they show that files load, that different photos lead to different pictures,
and what the injection does to a model. Same arguments, same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

HEADS_KEY = "flexid.cross_attention_heads"
ARCFACE = 512

Shapes = dict[str, tuple[int, ...]]


def write_adapter(
    path: str | Path,
    seed: int = 0,
    hidden: int = 256,
    double_blocks: int = 2,
    single_blocks: int = 4,
    token_dim: int = 256,
    dim: int = 128,
    layers: int = 5,
    tokens: int = 32,
    id_tokens: int = 5,
    vision: int = 128,
    pooled: int = 768,
    heads: int | None = None,
    strength: float = 1.0,
    dtype: torch.dtype = torch.bfloat16,
) -> Path:
    """PuLID-FLUX format for a Flux of width `hidden`: one cross-attention for every second double
    and every fourth single block (rounded up).

    `vision` and `pooled` are the widths of the tower it reads. `heads` defaults to hidden // 128.
    `strength` is the root mean square, per channel, of what one layer adds to an image token at
    weight 1: give it that of the model's tokens and the effect is plainly visible.
    """
    count = -(-double_blocks // 2) + -(-single_blocks // 4)
    shapes = {
        f"pulid_encoder.{key}": shape
        for key, shape in _encoder(
            dim, layers, tokens, id_tokens, token_dim, vision, pooled
        ).items()
    }
    for index in range(count):
        layer = _cross_attention(hidden, token_dim)
        shapes |= {f"pulid_ca.{index}.{key}": shape for key, shape in layer.items()}
    heads = heads or max(1, hidden // 128)
    tensors = fill(shapes, seed)
    _distinguish(tensors)
    _amplify(tensors, strength, heads)
    metadata = {HEADS_KEY: str(heads)}
    return save(path, tensors, dtype, metadata)


def write_eva_clip(
    path: str | Path,
    seed: int = 0,
    width: int = 128,
    depth: int = 6,
    patch: int = 14,
    image: int = 112,
    output: int = 768,
    dtype: torch.dtype = torch.float16,
) -> Path:
    """The vision half of an EVA02-CLIP file (`visual.` keys) with `width` // 64 heads."""
    shapes = {f"visual.{k}": s for k, s in _tower(width, depth, patch, image, output).items()}
    return save(path, fill(shapes, seed), dtype, {})


def save(
    path: str | Path,
    tensors: Mapping[str, torch.Tensor],
    dtype: torch.dtype,
    metadata: dict[str, str],
) -> Path:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({k: t.to(dtype).contiguous() for k, t in tensors.items()}, path, metadata or None)
    return path


def fill(shapes: Shapes, seed: int) -> dict[str, torch.Tensor]:
    """Norm weights near 1, biases small, matrices keep the scale of what passes through them."""
    tensors = {}
    for key, shape in shapes.items():
        entropy = int.from_bytes(sha256(f"{seed} {key}".encode()).digest()[:8], "little")
        noise = np.random.Generator(np.random.PCG64(entropy)).standard_normal(shape, np.float32)
        tensors[key] = torch.from_numpy(noise) * _scale(key, shape)
        if len(shape) == 1 and key.endswith("weight"):
            tensors[key] += 1
    return tensors


def _scale(key: str, shape: tuple[int, ...]) -> float:
    if len(shape) == 1:
        return 0.1
    if key.endswith(("latents", "cls_token", "pos_embed")):
        return 1.0
    inputs = shape[0] if key.endswith("proj_out") else int(np.prod(shape[1:]))
    return inputs**-0.5


def _distinguish(tensors: dict[str, torch.Tensor]) -> None:
    """Small constants and sharp attention: tokens then depend mostly on the person."""
    for key, tensor in tensors.items():
        if key.startswith("pulid_encoder.layers.") and "to_q" in key:
            tensor *= 3
    tensors["pulid_encoder.latents"] *= 0.3


def _amplify(tensors: dict[str, torch.Tensor], strength: float, heads: int) -> None:
    """Sharpen the attention, so that not all tokens average out, and set the output's size.

    The size is measured on random tokens: both norms make it independent of the tokens' scale.
    """
    generator = torch.Generator().manual_seed(0)
    prefixes = {
        key.rsplit("to_q.", 1)[0] for key in tensors if "pulid_ca." in key and "to_q" in key
    }
    for prefix in sorted(prefixes):
        tensors[f"{prefix}to_q.weight"] *= 3
        dim, inner = tensors[f"{prefix}to_out.weight"].shape
        token_dim = tensors[f"{prefix}to_kv.weight"].shape[1]
        identity = torch.randn(32, token_dim, generator=generator)
        image = torch.randn(64, dim, generator=generator)
        k, v = (identity @ tensors[f"{prefix}to_kv.weight"].T).chunk(2, dim=-1)
        q, k, v = (
            x.unflatten(-1, (heads, inner // heads)).transpose(0, 1)
            for x in (image @ tensors[f"{prefix}to_q.weight"].T, k, v)
        )
        mixed = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        out = mixed.transpose(0, 1).flatten(1) @ tensors[f"{prefix}to_out.weight"].T
        tensors[f"{prefix}to_out.weight"] *= strength / out.square().mean().sqrt()


def norm(prefix: str, width: int) -> Shapes:
    return {f"{prefix}.weight": (width,), f"{prefix}.bias": (width,)}


def linear(prefix: str, rows: int, columns: int) -> Shapes:
    return {f"{prefix}.weight": (rows, columns), f"{prefix}.bias": (rows,)}


def _cross_attention(hidden: int, token_dim: int) -> Shapes:
    return {
        **norm("norm1", token_dim),
        **norm("norm2", hidden),
        "to_q.weight": (hidden, hidden),
        "to_kv.weight": (2 * hidden, token_dim),
        "to_out.weight": (hidden, hidden),
    }


def _mapping(prefix: str, entry: int, dim: int, exit_: int) -> Shapes:
    return {
        **linear(f"{prefix}.0", dim, entry),
        **norm(f"{prefix}.1", dim),
        **linear(f"{prefix}.3", dim, dim),
        **norm(f"{prefix}.4", dim),
        **linear(f"{prefix}.6", exit_, dim),
    }


def _encoder(
    dim: int, layers: int, tokens: int, id_tokens: int, token_dim: int, vision: int, pooled: int
) -> Shapes:
    shapes: Shapes = {"latents": (1, tokens, dim), "proj_out": (dim, token_dim)}
    for group in range(5):
        shapes |= _mapping(f"mapping_{group}", vision, dim, dim)
    shapes |= _mapping("id_embedding_mapping", ARCFACE + pooled, dim, id_tokens * dim)
    for layer in range(layers):
        shapes |= perceiver_layer(f"layers.{layer}", dim)
    return shapes


def perceiver_layer(prefix: str, dim: int) -> Shapes:
    """One layer of a resampler: attention with two norms, and what feeds forward."""
    return {
        **norm(f"{prefix}.0.norm1", dim),
        **norm(f"{prefix}.0.norm2", dim),
        f"{prefix}.0.to_q.weight": (dim, dim),
        f"{prefix}.0.to_kv.weight": (2 * dim, dim),
        f"{prefix}.0.to_out.weight": (dim, dim),
        **norm(f"{prefix}.1.0", dim),
        f"{prefix}.1.1.weight": (4 * dim, dim),
        f"{prefix}.1.3.weight": (dim, 4 * dim),
    }


def _tower(width: int, depth: int, patch: int, image: int, output: int) -> Shapes:
    mlp = int(width * 2.6667)
    shapes: Shapes = {
        "cls_token": (1, 1, width),
        "pos_embed": (1, (image // patch) ** 2 + 1, width),
        "patch_embed.proj.weight": (width, 3, patch, patch),
        "patch_embed.proj.bias": (width,),
        **norm("norm", width),
        **linear("head", output, width),
    }
    for block in range(depth):
        prefix = f"blocks.{block}"
        shapes |= {
            **norm(f"{prefix}.norm1", width),
            **norm(f"{prefix}.norm2", width),
            f"{prefix}.attn.q_proj.weight": (width, width),
            f"{prefix}.attn.k_proj.weight": (width, width),
            f"{prefix}.attn.v_proj.weight": (width, width),
            f"{prefix}.attn.q_bias": (width,),
            f"{prefix}.attn.v_bias": (width,),
            **norm(f"{prefix}.attn.inner_attn_ln", width),
            **linear(f"{prefix}.attn.proj", width, width),
            **linear(f"{prefix}.mlp.w1", mlp, width),
            **linear(f"{prefix}.mlp.w2", mlp, width),
            **norm(f"{prefix}.mlp.ffn_ln", mlp),
            **linear(f"{prefix}.mlp.w3", width, mlp),
        }
    return shapes
