"""A small Flux with random weights that still paints pictures, in the file layout of FLUX.1.

An untrained transformer of the usual initialisation returns noise. Three choices avoid that:

- The final layer reads the latent back out of the residual stream. The layer norm before it has
  scaled it to unit variance, and in a rectified flow the noise to remove is just that, so the
  sampler takes the noise away without any training.
- Queries come mostly from their bias, so attention depends on rotary positions and not on noise:
  picture tokens mix the text tokens in slow waves across the picture.
- The layer's other outputs are the same for the four latent pixels of a token.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from .seeded import Seeded

HIDDEN = 256
HEAD = 128
CONTEXT = 64
VECTOR = 64
LATENT = 16
PATCH = 4
DOUBLE = 2
SINGLE = 4
MLP = 4 * HIDDEN
NOISE_GAIN = 6.0
"""How far the latent outweighs the blocks' output in the residual stream, while it is noise."""
STRUCTURE_GAIN = 6.0
MLP_GAIN = 0.2
GATE = 0.5
SHARPNESS = 6.0

State = dict[str, Tensor]


def write_flux(path: Path, seed: int) -> None:
    """Write the model as `path`; ComfyUI's "Load Diffusion Model" opens it as Flux (9 M values)."""
    state = flux_state(Seeded(seed))
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, path)


def flux_state(draw: Seeded) -> State:
    """All tensors under the original (BFL) key names, float32."""
    state = _embedders(draw)
    for index in range(DOUBLE):
        for stream in ("img", "txt"):
            state |= _double_stream(draw, f"double_blocks.{index}.{stream}")
    for index in range(SINGLE):
        state |= _single_block(draw, f"single_blocks.{index}")
    return state | _final_layer(draw)


def _embedders(draw: Seeded) -> State:
    state = {
        "img_in.weight": torch.eye(HIDDEN, LATENT * PATCH) * NOISE_GAIN,
        "img_in.bias": torch.zeros(HIDDEN),
    }
    state["txt_in.weight"] = draw.linear("txt_in", HIDDEN, CONTEXT)
    state["txt_in.bias"] = torch.zeros(HIDDEN)
    for name, width in (("time_in", 256), ("guidance_in", 256), ("vector_in", VECTOR)):
        for layer, columns in (("in_layer", width), ("out_layer", HIDDEN)):
            key = f"{name}.{layer}"
            state[f"{key}.weight"] = draw.linear(key, HIDDEN, columns)
            state[f"{key}.bias"] = torch.zeros(HIDDEN)
    return state


def _attention(draw: Seeded, name: str) -> tuple[Tensor, Tensor]:
    """Weight (768, 256) and bias (768,) of q, k, v: q from the bias, k and v from the content."""
    weight = draw.linear(f"{name}.qkv", 3 * HIDDEN, HIDDEN)
    weight[:HIDDEN] *= 0.15
    bias = torch.zeros(3 * HIDDEN)
    bias[: 2 * HIDDEN] = draw.normal(f"{name}.qk_bias", 2 * HIDDEN)
    return weight, bias


def _modulation(draw: Seeded, name: str, parts: int) -> State:
    """`parts` times shift, scale, gate: a constant gate, and some dependence on time and prompt."""
    weight = draw.linear(name, parts * 3 * HIDDEN, HIDDEN, gain=0.3)
    constant = torch.cat([torch.zeros(2 * HIDDEN), torch.full((HIDDEN,), GATE)])
    return {f"{name}.lin.weight": weight, f"{name}.lin.bias": constant.repeat(parts)}


def _double_stream(draw: Seeded, name: str) -> State:
    weight, bias = _attention(draw, f"{name}_attn")
    return _modulation(draw, f"{name}_mod", 2) | {
        f"{name}_attn.qkv.weight": weight,
        f"{name}_attn.qkv.bias": bias,
        f"{name}_attn.norm.query_norm.scale": torch.full((HEAD,), SHARPNESS),
        f"{name}_attn.norm.key_norm.scale": torch.ones(HEAD),
        f"{name}_attn.proj.weight": draw.linear(f"{name}_attn.proj", HIDDEN, HIDDEN),
        f"{name}_attn.proj.bias": torch.zeros(HIDDEN),
        f"{name}_mlp.0.weight": draw.linear(f"{name}_mlp.0", MLP, HIDDEN),
        f"{name}_mlp.0.bias": torch.zeros(MLP),
        f"{name}_mlp.2.weight": draw.linear(f"{name}_mlp.2", HIDDEN, MLP, gain=MLP_GAIN),
        f"{name}_mlp.2.bias": torch.zeros(HIDDEN),
    }


def _single_block(draw: Seeded, name: str) -> State:
    weight, bias = _attention(draw, name)
    inner = draw.linear(f"{name}.mlp", MLP, HIDDEN)
    attended = draw.linear(f"{name}.proj", HIDDEN, HIDDEN)
    expanded = draw.linear(f"{name}.out", HIDDEN, MLP, gain=MLP_GAIN)
    return _modulation(draw, f"{name}.modulation", 1) | {
        f"{name}.linear1.weight": torch.cat([weight, inner]),
        f"{name}.linear1.bias": torch.cat([bias, torch.zeros(MLP)]),
        f"{name}.linear2.weight": torch.cat([attended, expanded], 1),
        f"{name}.linear2.bias": torch.zeros(HIDDEN),
        f"{name}.norm.query_norm.scale": torch.full((HEAD,), SHARPNESS),
        f"{name}.norm.key_norm.scale": torch.ones(HEAD),
    }


def _final_layer(draw: Seeded) -> State:
    patch = LATENT * PATCH
    noise = torch.eye(patch, HIDDEN) * 0.5
    structure = draw.linear("final_layer", LATENT, HIDDEN, gain=STRUCTURE_GAIN)
    structure[:, :patch] = 0
    return {
        "final_layer.linear.weight": noise - structure.repeat_interleave(PATCH, 0),
        "final_layer.linear.bias": torch.zeros(patch),
        "final_layer.adaLN_modulation.1.weight": torch.zeros(2 * HIDDEN, HIDDEN),
        "final_layer.adaLN_modulation.1.bias": torch.zeros(2 * HIDDEN),
    }
