"""Small random T5 and CLIP-L text encoders in the published key layout.

ComfyUI's own loaders know these families in one size only, so each file carries its size in its
metadata, under "flexid_text_encoder": JSON of "family" ("t5xxl" or "clip_l") and "config" (the
keys of ComfyUI's own configuration files). "Load Mini Text Encoder" reads it.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from .seeded import Seeded

KEY = "flexid_text_encoder"
T5_VOCABULARY, CLIP_VOCABULARY, CLIP_LENGTH = 32128, 49408, 77
T5_CONFIG = {"d_model": 64, "d_ff": 128, "d_kv": 32, "num_heads": 2, "num_layers": 2}
CLIP_CONFIG = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 2,
    "num_hidden_layers": 2,
    "projection_dim": 64,
}

State = dict[str, Tensor]


def write_t5(path: Path, seed: int) -> None:
    """Write the T5 encoder, its size in the metadata."""
    _save(t5_state(Seeded(seed)), path, "t5xxl", T5_CONFIG)


def write_clip_l(path: Path, seed: int) -> None:
    """Write the CLIP-L text tower, its size in the metadata."""
    _save(clip_l_state(Seeded(seed)), path, "clip_l", CLIP_CONFIG)


def _save(state: State, path: Path, family: str, config: dict[str, int]) -> None:
    # One key only: safetensors writes several in random order, and equal models would differ.
    halves = {name: tensor.half() for name, tensor in state.items()}
    save_file(halves, path, metadata={KEY: json.dumps({"family": family, "config": config})})


def t5_state(draw: Seeded) -> State:
    width, hidden = T5_CONFIG["d_model"], T5_CONFIG["d_ff"]
    inner = T5_CONFIG["d_kv"] * T5_CONFIG["num_heads"]
    words = draw.normal("shared", T5_VOCABULARY, width)
    words[0] = 0  # padding: its positions then carry what they attend to, the prompt
    state = {"shared.weight": words, "encoder.final_layer_norm.weight": torch.ones(width)}
    for index in range(T5_CONFIG["num_layers"]):
        name = f"encoder.block.{index}.layer"
        for part in "qkv":
            key = f"{name}.0.SelfAttention.{part}.weight"
            state[key] = draw.linear(key, inner, width, gain=0.3 if part == "q" else 1.0)
        key = f"{name}.0.SelfAttention.o.weight"
        state[key] = draw.linear(key, width, inner)
        for part in ("wi_0", "wi_1"):
            key = f"{name}.1.DenseReluDense.{part}.weight"
            state[key] = draw.linear(key, hidden, width)
        key = f"{name}.1.DenseReluDense.wo.weight"
        state[key] = draw.linear(key, width, hidden)
        state |= {f"{name}.{part}.layer_norm.weight": torch.ones(width) for part in range(2)}
    bias = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
    state[bias] = draw.normal(bias, 32, T5_CONFIG["num_heads"])
    return state


def clip_l_state(draw: Seeded) -> State:
    width, hidden = CLIP_CONFIG["hidden_size"], CLIP_CONFIG["intermediate_size"]
    embeddings = "text_model.embeddings"
    state = {
        f"{embeddings}.token_embedding.weight": draw.normal("tokens", CLIP_VOCABULARY, width),
        f"{embeddings}.position_embedding.weight": draw.normal(
            "positions", CLIP_LENGTH, width, std=0.3
        ),
        "text_projection.weight": torch.eye(width),
    }
    for index in range(CLIP_CONFIG["num_hidden_layers"]):
        state |= _clip_layer(draw, f"text_model.encoder.layers.{index}", width, hidden)
    return state | _norm("text_model.final_layer_norm", width)


def _clip_layer(draw: Seeded, name: str, width: int, hidden: int) -> State:
    shapes = {f"self_attn.{part}_proj": (width, width) for part in ("q", "k", "v", "out")}
    shapes |= {"mlp.fc1": (hidden, width), "mlp.fc2": (width, hidden)}
    state = _norm(f"{name}.layer_norm1", width) | _norm(f"{name}.layer_norm2", width)
    for part, (rows, columns) in shapes.items():
        state[f"{name}.{part}.weight"] = draw.linear(f"{name}.{part}", rows, columns)
        state[f"{name}.{part}.bias"] = torch.zeros(rows)
    return state


def _norm(name: str, width: int) -> State:
    return {f"{name}.weight": torch.ones(width), f"{name}.bias": torch.zeros(width)}
