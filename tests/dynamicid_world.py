"""A small DynamicID file for the small UNets, small encoders, and people for it."""

from __future__ import annotations

from pathlib import Path

import comfy.clip_vision
import dynamicid_files
import numpy as np
import tiny_faces
import tiny_unet
import tiny_vision
import torch
from comfy.model_patcher import ModelPatcher
from flexid.model_patches.adapters.dynamicid import FAMILY, DynamicIDAdapter, load_dynamicid
from flexid.model_patches.face.analyser import FaceAnalyser
from flexid.model_patches.face.boxes import Detection
from flexid.model_patches.identity.identity import Encoding, Identity
from torch import Tensor

CLIP = tiny_vision.CLIP["hidden_size"]
RANK = 4


def adapter(
    folder: Path, model: ModelPatcher, loud: float = 200.0, encoder: float = 1.0
) -> DynamicIDAdapter:
    """A SAA file for this UNet. loud: factor of the values, so that people are to be seen.
    encoder: factor of the face encoder's weights, for another encoder."""
    widths, width = tiny_unet.attention_widths(model)
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
    return tiny_vision.vision(tiny_vision.CLIP)


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
