"""UNets of the published shapes of SD 1.5 and SDXL, with random weights, and a step of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.sample
import comfy.supported_models
import torch
from comfy.model_patcher import CoreModelPatcher, ModelPatcher
from flexid.model_patches.inject.unet import cross_attention_of, in_diffusers_order

from .plan import Row

TEXT = 77
POOL = 1 << 20
"""Random numbers that all weights are made of: only shapes and types matter here."""
_SHARED = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 320,
    "use_spatial_transformer": True,
    "legacy": False,
    "use_temporal_attention": False,
}


@dataclass(frozen=True)
class Kind:
    """One kind of Stable Diffusion."""

    name: str
    config: type
    unet: Mapping[str, Any]
    text: int
    """Channels of the text."""
    pooled: int
    """Channels of the pooled text; 0: none."""
    side: int
    """Pixels of the pictures that it was made for."""


SD15 = Kind(
    "SD 1.5",
    comfy.supported_models.SD15,
    {
        **_SHARED,
        "num_res_blocks": [2, 2, 2, 2],
        "channel_mult": [1, 2, 4, 4],
        "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
        "transformer_depth_middle": 1,
        "context_dim": 768,
        "num_heads": 8,
        "use_linear_in_transformer": False,
        "adm_in_channels": None,
    },
    text=768,
    pooled=0,
    side=512,
)
SDXL = Kind(
    "SDXL",
    comfy.supported_models.SDXL,
    {
        **_SHARED,
        "num_res_blocks": [2, 2, 2],
        "channel_mult": [1, 2, 4],
        "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
        "transformer_depth_middle": 10,
        "context_dim": 2048,
        "num_heads": -1,
        "num_head_channels": 64,
        "use_linear_in_transformer": True,
        "num_classes": "sequential",
        "adm_in_channels": 2816,
    },
    text=2048,
    pooled=1280,
    side=1024,
)


@dataclass(frozen=True)
class Size:
    """A square picture."""

    side: int

    @property
    def work(self) -> float:
        """Arithmetic of a step, nearly: it grows with the pixels."""
        return float(self.side**2)

    def columns(self) -> Row:
        return {"pixels": f"{self.side}x{self.side}"}

    def __str__(self) -> str:
        return f"{self.side}x{self.side} pixels"


def open_unet(kind: Kind, dtype: torch.dtype) -> ModelPatcher:
    """A model of ComfyUI's own class and of the published shape."""
    config = kind.config(dict(kind.unet))
    config.set_inference_dtype(dtype, None)
    base = config.get_model({}, "")
    pool = torch.randn(POOL, generator=torch.Generator().manual_seed(0)).to(dtype)
    with torch.no_grad():
        for name, weight in base.diffusion_model.named_parameters():
            if weight.ndim < 2:
                weight.fill_(float(name.endswith("weight")))  # of a norm, or a bias
                continue
            scale, flat = weight[0].numel() ** -0.5, weight.view(-1)
            for start in range(0, len(flat), POOL):
                part = flat[start : start + POOL]
                part.copy_(scale * pool[: len(part)])
    return CoreModelPatcher(
        base,
        load_device=comfy.model_management.get_torch_device(),
        offload_device=comfy.model_management.unet_offload_device(),
    )


def widths_of(model: ModelPatcher) -> list[int]:
    """Channels of the cross-attentions, in the order of diffusers."""
    found = dict(cross_attention_of(model.get_model_object("diffusion_model")))
    layers = [found[site] for site in in_diffusers_order(found)]
    return [layer.heads * layer.dim_head for layer in layers]


def prompt(kind: Kind, seed: int) -> list:
    text = torch.randn(1, TEXT, kind.text, generator=torch.Generator().manual_seed(seed))
    extra = {"pooled_output": torch.zeros(1, kind.pooled)} if kind.pooled else {}
    return [[text, extra]]


def sample_step(model: ModelPatcher, size: Size, positive: list, negative: list) -> None:
    """One step with both prompts, as under CFG."""
    latent = torch.zeros(1, 4, size.side // 8, size.side // 8)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))
    comfy.sample.sample(
        model, noise, 1, 7.0, "euler", "simple", positive, negative, latent, disable_pbar=True
    )
