"""A small DynamicID file for the small UNets, small encoders, and people for it."""

from __future__ import annotations

from pathlib import Path

import comfy.clip_vision
import dynamicid_files
import numpy as np
import tiny_faces
import torch
from comfy.model_patcher import ModelPatcher
from flexid.model_patches.adapters.dynamicid import FAMILY, DynamicIDAdapter, load_dynamicid
from flexid.model_patches.face.analyser import FaceAnalyser
from flexid.model_patches.face.boxes import Detection
from flexid.model_patches.identity.identity import Encoding, Identity
from flexid.model_patches.inject.unet import cross_attention_of, in_diffusers_order
from torch import Tensor

CLIP = 32
RANK = 4


def adapter(
    folder: Path, model: ModelPatcher, loud: float = 200.0, encoder: float = 1.0
) -> DynamicIDAdapter:
    """A SAA file for this UNet. loud: factor of the values, so that people are to be seen.
    encoder: factor of the face encoder's weights, for another encoder."""
    found = dict(cross_attention_of(model.get_model_object("diffusion_model")))
    layers = [found[site] for site in in_diffusers_order(found)]
    width = layers[0].to_k.in_features
    widths = [layer.heads * layer.dim_head for layer in layers]
    attention = {
        key: (loud if "to_v_ip" in key else 12) * value if "_ip" in key else value
        for key, value in dynamicid_files.attention(widths, width, RANK).items()
    }
    made = dynamicid_files.projection(width, CLIP)
    parts = attention, {key: encoder * value for key, value in made.items()}
    return load_dynamicid(dynamicid_files.write_saa(folder / "SAA.bin", *parts))


def person(adapter: DynamicIDAdapter, seed: int = 1) -> Identity:
    """Somebody, encoded for this adapter."""

    def tokens(number: int) -> Tensor:
        generator = torch.Generator().manual_seed(number)
        return torch.randn(1, adapter.tokens, adapter.width, generator=generator)

    made = Encoding(FAMILY, adapter.encoder_digest, tokens(seed), tokens(99))
    return Identity({FAMILY: made})


def vision() -> comfy.clip_vision.ClipVisionModel:
    """ComfyUI's own CLIP vision encoder, small, with seeded weights."""
    made = comfy.clip_vision.ClipVisionModel(
        {
            "model_type": "clip_vision_model",
            "hidden_size": CLIP,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "intermediate_size": 64,
            "hidden_act": "gelu",
            "image_size": 224,
            "patch_size": 56,
            "num_channels": 3,
            "projection_dim": 24,
        }
    )
    generator = torch.Generator().manual_seed(0)
    for parameter in made.model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = 0.1 * noise + (1.0 if parameter.ndim == 1 else 0.0)
    return made


class ColourRecogniser:
    """An embedding that tells the order of the colours: the channels' means, spread over 512."""

    name = "colours"

    def embed(self, crop: np.ndarray) -> Tensor:
        means = torch.from_numpy(crop.reshape(-1, 3).mean(0)).float()
        return means.repeat(171)[:512]


class TwoFaces:
    """A large, doubtful face on the left and a small, sure one on the right of every photo."""

    name = "two faces"
    tried = "nothing"

    def find(self, rgb: np.ndarray) -> list[Detection]:
        height, width = rgb.shape[:2]
        half = width / 2
        return [
            tiny_faces.face_at((0.0, 0.0, 0.9 * half, 0.9 * height), 0.8),
            tiny_faces.face_at((half + 5, 5.0, width - 5.0, half), 0.95),
        ]


def analyser(recogniser: object | None = None) -> FaceAnalyser:
    return tiny_faces.analyser(TwoFaces(), recogniser or ColourRecogniser())
