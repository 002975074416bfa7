"""The layout of the small Flux, and ComfyUI's own module in that layout."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import comfy.ldm.flux.model
import comfy.ops
import torch

LAYOUT = {
    "in_channels": 16,
    "out_channels": 16,
    "vec_in_dim": 64,
    "context_in_dim": 64,
    "hidden_size": 256,
    "mlp_ratio": 4.0,
    "num_heads": 2,
    "depth": 2,
    "depth_single_blocks": 4,
    "axes_dim": [16, 56, 56],
    "theta": 10000,
    "patch_size": 2,
    "qkv_bias": True,
    "guidance_embed": True,
    "txt_ids_dims": [],
}
"""What ComfyUI's Flux takes, at the small world's sizes."""


def flux_config(**changes: Any) -> dict[str, Any]:
    """LAYOUT with `changes`, without the entries that this release of ComfyUI does not know."""
    known = {field.name for field in fields(comfy.ldm.flux.model.FluxParams)}
    return {name: value for name, value in {**LAYOUT, **changes}.items() if name in known}


def make_flux(**changes: Any) -> comfy.ldm.flux.model.Flux:
    """A Flux in float32 on the CPU. Its weights are not initialised yet."""
    return comfy.ldm.flux.model.Flux(
        **flux_config(**changes),
        dtype=torch.float32,
        device="cpu",
        operations=comfy.ops.disable_weight_init,
    )
