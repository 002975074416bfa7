"""PuLID's SDXL files for a small UNet, and people encoded for them."""

from __future__ import annotations

from pathlib import Path

import ip_files
import tiny_unet
import torch
from comfy.model_patcher import ModelPatcher
from flexid.model_patches.adapters.pulid_sdxl import FAMILY, SdxlAdapter, load_sdxl_adapter
from flexid.model_patches.identity.identity import Identity
from identities import identity_of

WIDTH = sum(tiny_unet.STREAMS)


def sdxl_adapter(folder: Path, model: ModelPatcher) -> SdxlAdapter:
    """Strong enough to change every picture."""
    widths, _ = tiny_unet.attention_widths(model)
    encoder = ip_files.pulid_v1_shapes(48, 32, 24, WIDTH)
    tensors = {
        key: (200 if "to_v" in key else 20) * value if "attn_layers" in key else value
        for key, value in ip_files.pulid_sdxl(encoder, widths, WIDTH).items()
    }
    return load_sdxl_adapter(ip_files.write(folder / "pulid_v1.safetensors", tensors))


def somebody(adapter: SdxlAdapter, seed: int = 1) -> Identity:
    tokens, nobody = (
        torch.randn(1, 10, WIDTH, generator=torch.Generator().manual_seed(number))
        for number in (seed, 99)
    )
    return identity_of({FAMILY: tokens}, {FAMILY: nobody}, adapter.encoder_digest)
