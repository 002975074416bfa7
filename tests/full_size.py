"""Files of the published sizes with random weights, for the stock loaders of ComfyUI.

SD 1.5 takes 2.1 GB on the disk, SDXL 6.9 GB, CLIP ViT-H 1.3 GB, IP-Adapter plus 0.1 GB.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.ldm.models.autoencoder
import comfy.sd
import ip_files
import torch
from flexid.bench import unet
from torch import nn

AUTOENCODER = {
    "double_z": True,
    "z_channels": 4,
    "resolution": 256,
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "attn_resolutions": [],
    "dropout": 0.0,
}


def write_checkpoint(kind: unet.Kind, path: Path) -> None:
    """A whole checkpoint in 16 bits: UNet, text encoders and VAE, as published ones hold them."""
    model = unet.open_unet(kind, torch.float16)
    config = model.model.model_config
    with torch.device("cpu"):
        clip = comfy.sd.CLIP(config.clip_target(), embedding_directory=None)
        autoencoder = comfy.ldm.models.autoencoder.AutoencoderKL(ddconfig=AUTOENCODER, embed_dim=4)
    for module in (clip.cond_stage_model, autoencoder):
        fill(module)
    vae = comfy.sd.VAE(sd=autoencoder.state_dict())
    comfy.sd.save_checkpoint(str(path), model, clip, vae)


def write_vit_h(path: Path) -> None:
    """CLIP's tower ViT-H/14 under the names of Hugging Face."""
    folder = Path(comfy.clip_vision.__file__).parent
    config = json.loads((folder / "clip_vision_config_h.json").read_text(encoding="utf-8"))
    made = comfy.clip_vision.ClipVisionModel(config)
    fill(made.model)
    state = {key: value.half() for key, value in made.model.state_dict().items()}
    ip_files.write(path, state)


def write_ip_adapter(kind: unet.Kind, path: Path) -> None:
    """IP-Adapter plus for the UNet of that kind."""
    with torch.device("meta"):
        config = kind.config(dict(kind.unet))
        config.set_inference_dtype(torch.float16, None)
        widths = unet.widths_of(as_patcher(config.get_model({}, "")))
    shapes = ip_files.layer_shapes(widths, kind.text)
    tokens = ip_files.token_shapes("plus", width=kind.text, clip=1280)
    tensors = ip_files.tensors_of(tokens, shapes)
    # Strong enough to be seen in a picture of random weights.
    strong = {key: 20 * t if "to_v_ip" in key else t for key, t in tensors.items()}
    ip_files.write(path, {key: value.half() for key, value in strong.items()})


def as_patcher(model: Any) -> comfy.model_patcher.ModelPatcher:
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(model, load_device=cpu, offload_device=cpu)


def fill(module: nn.Module) -> None:
    """Random weights of the usual size, norms near 1."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in module.named_parameters():
            if weight.ndim > 1:
                scale = weight[0].numel() ** -0.5
                weight.copy_(scale * torch.randn(weight.shape, generator=generator))
            else:
                weight.fill_(float(name.endswith("weight")))
