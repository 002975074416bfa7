"""Small SD 1.5 and SDXL UNets of ComfyUI's own classes, and a sampling run with them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.supported_models
import comfy.utils
import tiny
import torch
from flexid.bench.unet import widths_of
from flexid.model_patches.inject.unet import cross_attention_of
from seeding import seeded
from torch import Tensor, nn

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


STREAMS = (64, 128)
"""Widths of SDXL's text streams here, CLIP-L and bigG; 768 and 1280 in the published one."""
SIZES = 6 * 256
"""Width of what SDXL appends to the pooled text: height, width, crop and target, embedded."""
SDXL = {
    **{key: UNET[key] for key in ("image_size", "in_channels", "out_channels", "model_channels")},
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [0, 2],
    "transformer_depth_output": [0, 0, 2, 2],
    "transformer_depth_middle": 2,
    "context_dim": sum(STREAMS),
    "num_heads": -1,
    "num_head_channels": 32,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "legacy": False,
    "num_classes": "sequential",
    "adm_in_channels": STREAMS[1] + SIZES,
    "use_temporal_attention": False,
}


TOPOLOGY = {
    **UNET,
    "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4],
    "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
    "transformer_depth_output": [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0],
    "context_dim": 768,
}
"""SD 1.5's at a tenth of its width, as the goldens have it."""
WIDTHS = [32, 32, 64, 64, 128, 128, 128, 128, 128, 64, 64, 64, 32, 32, 32, 128]
"""Of its cross-attentions, in the order of diffusers."""


class OneBlock(nn.Module):
    """What a UNet's walk finds, with one cross-attention."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer


def named_sd15() -> comfy.model_patcher.ModelPatcher:
    """SD 1.5's topology, weights by their names in diffusers; always on the CPU."""
    config = comfy.supported_models.SD15(dict(TOPOLOGY))
    config.set_inference_dtype(torch.float32, None)
    base = config.get_model({}, "")
    names = comfy.utils.unet_to_diffusers({**TOPOLOGY, "num_res_blocks": [2, 2, 2, 2]})
    theirs = {ours: name for name, ours in names.items()}
    state = base.diffusion_model.state_dict()
    seeds = {key: seeded(theirs[key], tensor.shape) for key, tensor in state.items()}
    base.diffusion_model.load_state_dict(seeds)
    cpu = torch.device("cpu")
    return comfy.model_patcher.CoreModelPatcher(base, load_device=cpu, offload_device=cpu)


def attention_widths(model: comfy.model_patcher.ModelPatcher) -> tuple[list[int], int]:
    """Channels of its cross-attentions in the order of diffusers, and of the text they read."""
    _, first = next(cross_attention_of(model.get_model_object("diffusion_model")))
    return widths_of(model), first.to_k.in_features


def sd15() -> comfy.model_patcher.ModelPatcher:
    """Model channels 32, context 64; eps prediction, SD 1.5's schedule."""
    return patcher_of(comfy.supported_models.SD15(dict(UNET)))


def sdxl() -> comfy.model_patcher.ModelPatcher:
    """Channels 32 and 64, cross-attention below the first level only, context 64 + 128, pooled 128.

    Stock loaders take SDXL at its full size alone; these are its classes all the same.
    """
    return patcher_of(comfy.supported_models.SDXL(dict(SDXL)))


def patcher_of(config: Any) -> comfy.model_patcher.ModelPatcher:
    """A model of ComfyUI's, from one of its own configurations, with seeded weights."""
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


def conditioning_xl(seed: int, chunks: int = 1, **extra: Any) -> list:
    """Both streams side by side and the pooled text of bigG, as CLIPTextEncode hands them on."""
    generator = torch.Generator().manual_seed(seed)
    streams = [torch.randn(1, 77 * chunks, width, generator=generator) for width in STREAMS]
    pooled = torch.randn(1, STREAMS[1], generator=generator)
    return [[torch.cat(streams, dim=-1), {"pooled_output": pooled, **extra}]]


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
    size: tuple[int, int] = (8, 8),
) -> Tensor:
    latent = torch.zeros(batch, 4, *size)
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


def first_read(model: comfy.model_patcher.ModelPatcher, run: Callable[..., Any]) -> Tensor:
    """What the first cross-attention returns in the first model call of `run(model)`."""
    seen = []

    def spy(n: Tensor, extra: dict) -> Tensor:
        seen.append(n.clone())
        return n

    watched = model.clone()
    watched.set_model_attn2_output_patch(spy)
    run(watched)
    return seen[0]
