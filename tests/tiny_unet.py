"""A small SD 1.5 UNet of ComfyUI's own classes, and a sampling run with it."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.supported_models
import tiny
import torch
from torch import Tensor

UNET = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1],
    "channel_mult": [1],
    "transformer_depth": [1],
    "transformer_depth_output": [1, 1],
    "transformer_depth_middle": 1,
    "context_dim": 64,
    "num_heads": 8,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": False,
    "legacy": False,
    "adm_in_channels": None,
    "use_temporal_attention": False,
}


def sd15() -> comfy.model_patcher.ModelPatcher:
    """Model channels 32, context 64; eps prediction, SD 1.5's schedule."""
    config = comfy.supported_models.SD15(dict(UNET))
    config.set_inference_dtype(torch.float32, None)
    base = config.get_model({}, "")
    tiny.fill(base.diffusion_model)
    return comfy.model_patcher.CoreModelPatcher(
        base,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def conditioning(seed: int, chunks: int = 1, **extra: Any) -> list:
    generator = torch.Generator().manual_seed(seed)
    return [[torch.randn(1, 77 * chunks, UNET["context_dim"], generator=generator), extra]]


def sample(
    model: comfy.model_patcher.ModelPatcher,
    positive: list,
    negative: list,
    *,
    steps: int = 4,
    cfg: float = 5.0,
    sampler: str = "euler",
    batch: int = 1,
    denoise: float = 1.0,
) -> Tensor:
    latent = torch.zeros(batch, 4, 8, 8)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))
    return comfy.sample.sample(
        model,
        noise,
        steps,
        cfg,
        sampler,
        "normal",
        positive,
        negative,
        latent,
        denoise=denoise,
        disable_pbar=True,
        seed=0,
    )
