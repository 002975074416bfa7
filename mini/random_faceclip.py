"""Small random FaceCLIP files in the published key layout: FaceT5, and the pair L and bigG."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from .seeded import Seeded

VIT = {"width": 64, "depth": 2, "patch": 9, "tokens": 144, "classes": 32}
STAGES = 2
FFN = 128
FACE_HEADS, POINTS = 8, 4
WORDS, LENGTH = 49408, 77

State = dict[str, Tensor]


def write_face_t5(path: Path, seed: int, width: int = 64) -> None:
    """Write a torch file like face_t5_encoder.pt, with a scrap of the T5 that surrounds it."""
    draw = Seeded(seed)
    state = _tower(draw, "encoder_2.", width, deformable=False)
    state["encoder_2.positional_embedding"] = sinusoid(512, width)
    state["encoder_2.encoder.block.0.ff_layer.wo.weight"] = draw.normal("rest", 4, 4)
    torch.save({name: tensor.bfloat16() for name, tensor in state.items()}, path)


def write_face_clip(path: Path, seed: int, widths: tuple[int, int] = (64, 128)) -> None:
    """Write a torch file like face_clip_encoder.pt: two towers, keys with their `model.` pieces."""
    draw = Seeded(seed)
    state = {}
    for letter, width in zip("lg", widths, strict=True):
        state |= _tower(draw, f"face_clip_{letter}.model.", width, deformable=True)
        state |= _words(draw, f"face_clip_{letter}.model.", width)
    torch.save({name: tensor.bfloat16() for name, tensor in state.items()}, path)


def sinusoid(length: int, width: int) -> Tensor:
    """(1, length, width): sine and cosine in turn, base 10000."""
    place = torch.arange(length, dtype=torch.float32)[:, None]
    angle = place * 10000 ** (-torch.arange(0, width, 2, dtype=torch.float32) / width)
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(1)[None]


def _tower(draw: Seeded, prefix: str, width: int, deformable: bool) -> State:
    face = VIT["width"]
    state = {f"face_encoder.{k}": v for k, v in _vit(draw, prefix).items()}
    state |= _linear(draw, prefix, "face_patch_proj", width, face)
    state |= _linear(draw, prefix, "face_pos_proj", width, face)
    if deformable:
        state |= _linear(draw, prefix, "text_embed_proj", width, width)
        state |= _linear(draw, prefix, "text_pos_proj", width, width)
        state |= _linear(draw, prefix, "proj1", width, VIT["classes"])
    for index in range(STAGES):
        state |= _stage(draw, prefix, index, width, deformable)
    state |= _linear(draw, prefix, "fuser.enc_output", width, width)
    state |= _norm("fuser.enc_output_norm", width)
    return {prefix + key: value for key, value in state.items()}


def _stage(draw: Seeded, prefix: str, index: int, width: int, deformable: bool) -> State:
    inner = FFN // 2
    fusion = f"fuser.encoder.fusion_layers.{index}"
    state = {f"{fusion}.gamma_{side}": torch.ones(width) for side in "vl"}
    for side in "vl":
        state |= _norm(f"{fusion}.layer_norm_{side}", width)
        for name in (f"{side}_proj", f"values_{side}_proj"):
            state |= _linear(draw, prefix, f"{fusion}.attn.{name}", inner, width)
        state |= _linear(draw, prefix, f"{fusion}.attn.out_{side}_proj", width, inner)
    for name, ffn in (("text_layers", FFN // 2), ("layers", FFN)):
        layer = f"fuser.encoder.{name}.{index}"
        state |= _norm(f"{layer}.norm1", width) | _norm(f"{layer}.norm2", width)
        state |= _linear(draw, prefix, f"{layer}.linear1", ffn, width)
        state |= _linear(draw, prefix, f"{layer}.linear2", width, ffn)
        state |= _attention(draw, prefix, layer, width, deformable and name == "layers")
    return state


def _attention(draw: Seeded, prefix: str, layer: str, width: int, deformable: bool) -> State:
    stem = f"{layer}.self_attn"
    if not deformable:
        packed = _linear(draw, prefix, f"{stem}.in_proj", 3 * width, width)
        packed = {key.replace("in_proj.", "in_proj_"): value for key, value in packed.items()}
        return packed | _linear(draw, prefix, f"{stem}.out_proj", width, width)
    points = FACE_HEADS * POINTS
    return (
        _linear(draw, prefix, f"{stem}.sampling_offsets", 2 * points, width)
        | _linear(draw, prefix, f"{stem}.attention_weights", points, width)
        | _linear(draw, prefix, f"{stem}.value_proj", width, width)
        | _linear(draw, prefix, f"{stem}.output_proj", width, width)
    )


def _vit(draw: Seeded, prefix: str) -> State:
    width, patch = VIT["width"], VIT["patch"]
    kernel = draw.normal(f"{prefix}patch", width, 3, patch, patch, std=1 / patch)
    state = {"pos_embed": draw.normal(f"{prefix}pos", 1, VIT["tokens"], width, std=0.3)}
    state |= {"mask_token": torch.zeros(1, 1, width), "patch_embed.proj.weight": kernel}
    state |= {"patch_embed.proj.bias": torch.zeros(width)} | _norm("norm", width)
    for index in range(VIT["depth"]):
        name = f"blocks.{index}"
        state |= _norm(f"{name}.norm1", width) | _norm(f"{name}.norm2", width)
        qkv = _linear(draw, prefix, f"{name}.attn.qkv", 3 * width, width)
        state |= {f"{name}.attn.qkv.weight": qkv[f"{name}.attn.qkv.weight"]}
        state |= _linear(draw, prefix, f"{name}.attn.proj", width, width)
        state |= _linear(draw, prefix, f"{name}.mlp.fc1", 4 * width, width)
        state |= _linear(draw, prefix, f"{name}.mlp.fc2", width, 4 * width)
    state["feature.0.weight"] = draw.linear(f"{prefix}f0", width, VIT["tokens"] * width)
    state["feature.2.weight"] = draw.linear(f"{prefix}f2", VIT["classes"], width)
    for name, size in (("feature.1", width), ("feature.3", VIT["classes"])):
        state |= _norm(name, size)
        state |= {
            f"{name}.running_mean": torch.zeros(size),
            f"{name}.running_var": torch.ones(size),
        }
        state[f"{name}.num_batches_tracked"] = torch.zeros(())
    return state


def _words(draw: Seeded, prefix: str, width: int) -> State:
    state = {
        "positional_embedding": draw.normal(f"{prefix}places", LENGTH, width, std=0.3),
        "token_embedding.weight": draw.normal(f"{prefix}words", WORDS, width),
        "text_projection": torch.eye(width),
        "logit_scale": torch.zeros(1),
    } | _norm("ln_final", width)
    for index in range(2):
        name = f"transformer.resblocks.{index}"
        state |= _norm(f"{name}.ln_1", width) | _norm(f"{name}.ln_2", width)
        packed = _linear(draw, prefix, f"{name}.attn.in_proj", 3 * width, width)
        state |= {key.replace("in_proj.", "in_proj_"): value for key, value in packed.items()}
        state |= _linear(draw, prefix, f"{name}.attn.out_proj", width, width)
        state |= _linear(draw, prefix, f"{name}.mlp.c_fc", 2 * width, width)
        state |= _linear(draw, prefix, f"{name}.mlp.c_proj", width, 2 * width)
    return {prefix + key: value for key, value in state.items()}


def _linear(draw: Seeded, prefix: str, name: str, rows: int, columns: int) -> State:
    weight = draw.linear(f"{prefix}{name}", rows, columns)
    return {f"{name}.weight": weight, f"{name}.bias": torch.zeros(rows)}


def _norm(name: str, width: int) -> State:
    return {f"{name}.weight": torch.ones(width), f"{name}.bias": torch.zeros(width)}
