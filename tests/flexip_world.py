"""Small adapters for the small UNets, and people for them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import ip_files
import tiny_unet
import torch
from comfy.model_patcher import ModelPatcher
from flexid.model_patches.adapters.flexip import FAMILY, FlexIPAdapter
from flexid.model_patches.adapters.flexip_file import load_flexip
from flexid.model_patches.adapters.flexip_settings import FlexIPSettings, settings_of
from flexid.model_patches.adapters.ip_adapter import load_ip_adapter
from flexid.model_patches.identity.identity import Encoding, Identity
from flexid.model_patches.inject.unet import cross_attention_of
from torch import Tensor

POOLED = 24
LATENTS = 5


def loud(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The goldens' seeds change almost nothing in a picture; here everything is to be seen."""
    values = ("to_v.weight", "to_v_ip.weight")
    return {
        key: (200 if key.endswith(values) else 12) * t if t.ndim == 2 else t
        for key, t in tensors.items()
    }


def flexip(
    folder: Path,
    model: ModelPatcher,
    personal: bool = True,
    latents: int = LATENTS,
    silent: bool = False,
    **settings: str,
) -> FlexIPAdapter:
    """A FlexIP file for this UNet. silent: values of zeros, as training begins."""
    attention = dict(cross_attention_of(model.get_model_object("diffusion_model")))
    stated = dataclasses.replace(FlexIPSettings(), **settings)
    blocks = {
        f"{site.kind}.{site.number}.{site.depth}": layer.heads * layer.dim_head
        for site, layer in attention.items()
    }
    width = next(iter(attention.values())).to_k.in_features
    shapes = ip_files.flexip_shapes(
        dim=64,
        width=width,
        context=40,
        pooled=POOLED,
        depth=1,
        latents=latents,
        blocks=blocks,
        personal=personal,
        path=stated.personal_path,
        fusion=stated.fusion,
    )
    tensors = loud(ip_files.seed_all(shapes))
    if silent:
        tensors = {k: t * 0 if k.endswith("to_v.weight") else t for k, t in tensors.items()}
    return load_flexip(ip_files.write(folder / "flexip.safetensors", tensors, settings_of(stated)))


def ip_adapter(folder: Path, model: ModelPatcher, variant: str = "plus") -> FlexIPAdapter:
    """A public IP-Adapter file for this UNet."""
    widths, width = tiny_unet.attention_widths(model)
    tokens = ip_files.token_shapes(variant, width=width, clip=32, pooled=POOLED, dim=64)
    lora = 4 if variant == "faceid" else 0
    shapes = ip_files.layer_shapes(widths, width, lora)
    tensors = loud(ip_files.tensors_of(tokens, shapes))
    return load_ip_adapter(ip_files.write(folder / f"{variant}.safetensors", tensors))


def person(adapter: FlexIPAdapter, seed: int = 1, pooled: int = POOLED) -> Identity:
    """Somebody, encoded for this adapter."""
    generator = torch.Generator().manual_seed(seed)
    shape = (1, adapter.tokens, adapter.width)
    tokens = torch.randn(shape, generator=generator)
    seen = torch.randn(1, pooled, generator=generator)
    null = torch.randn(shape, generator=torch.Generator().manual_seed(99))
    made = Encoding(FAMILY, adapter.encoder_digest, tokens, null, {"pooled": seen})
    return Identity({FAMILY: made})
