"""What ID guidance needs on small random models: detectors that know their answer, VAEs, a net."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import comfy.sd
import numpy as np
import tiny
import tiny_faces
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL
from comfy.model_patcher import ModelPatcher
from comfy.taesd.taesd import TAESD
from flexid.mini import random_vae
from flexid.mini.seeded import Seeded
from flexid.model_patches.face.analyser import FaceAnalyser
from flexid.model_patches.face.boxes import Detection
from flexid.model_patches.files.modules import wrap
from flexid.model_patches.identity.identity import Identity
from torch import Tensor, nn

SIZE = (8, 8)
"""Of the latents: pictures of 64 pixels."""
FACE = (12.0, 12.0, 52.0, 52.0)
NAME = "arcface (tiny)"


@dataclass
class ScriptedDetector:
    """Answers its n-th call with the n-th list of boxes, from the start again after the last."""

    script: list[list[tuple[float, float, float, float]]]
    name: str = "scripted"
    tried: str = "nothing"
    calls: list[tuple[int, ...]] = field(default_factory=list)

    def find(self, rgb: np.ndarray) -> list[Detection]:
        boxes = self.script[len(self.calls) % len(self.script)]
        self.calls.append(rgb.shape)
        return [tiny_faces.face_at(box) for box in boxes]


@dataclass
class TorchRecogniser:
    """A small convolution in place of ArcFace."""

    network: ModelPatcher
    name: str = NAME

    def embed(self, crop: np.ndarray) -> Tensor:
        pixels = torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 127.5 - 1
        return self.network.model(pixels)[0]


def sample(model: ModelPatcher, steps: int = 3, **options: Any) -> Tensor:
    """One run of a tiny Flux on small latents."""
    return tiny.sample(model, size=SIZE, steps=steps, **options)


def recogniser() -> TorchRecogniser:
    net = nn.Sequential(nn.Conv2d(3, 8, 8, 8), nn.Tanh(), nn.Flatten(), nn.Linear(8 * 14**2, 512))
    tiny.fill(net, 3)
    return TorchRecogniser(wrap(net, disable_dynamic=True))


def analyser(detector: Any = None) -> FaceAnalyser:
    return tiny_faces.analyser(detector or ScriptedDetector([[FACE]]), recogniser())


def person(seed: int = 0) -> Identity:
    rows = torch.randn(2, 512, generator=torch.Generator().manual_seed(seed))
    return Identity(features={"arcface": rows}, provenance={"recogniser": NAME})


def vae(channels: int = 16) -> comfy.sd.VAE:
    """A tiny autoencoder; that of 16 channels shows colours."""
    if channels == random_vae.LATENT:
        return comfy.sd.VAE(sd=random_vae.vae_state(Seeded(2)))
    module = TAESD(latent_channels=channels)
    tiny.fill(module, 4)
    return comfy.sd.VAE(sd=module.state_dict())


def large_vae(channels: int = 16) -> comfy.sd.VAE:
    """ComfyUI's AutoencoderKL with attention, a quarter as wide as the published one."""
    sizes = {"z_channels": channels, "resolution": 64, "in_channels": 3, "out_ch": 3, "ch": 32,
             "ch_mult": [1, 1, 2, 2], "num_res_blocks": 1, "attn_resolutions": [], "dropout": 0.0,
             "double_z": True}  # fmt: skip
    config = {"params": {"embed_dim": channels, "ddconfig": sizes}}
    module = AutoencoderKL(**config["params"])
    tiny.fill(module, 5)
    made = comfy.sd.VAE(sd=module.state_dict(), config=config)
    made.latent_channels = channels
    return made
