"""ComfyUI's own vision encoders, small, with seeded weights."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import comfy.clip_vision
import torch

CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "hidden_act": "gelu",
    "image_size": 224,
    "patch_size": 56,
    "num_channels": 3,
    "projection_dim": 24,
}
DINO = {
    "model_type": "dinov2",
    "hidden_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "layer_norm_eps": 1e-6,
    "use_swiglu_ffn": False,
    "image_size": 518,
}


def vision(config: Mapping[str, Any]) -> comfy.clip_vision.ClipVisionModel:
    with tempfile.TemporaryDirectory() as folder:  # older ComfyUIs take a file, not a dict
        path = Path(folder, "config.json")
        path.write_text(json.dumps(config), encoding="utf-8")
        made = comfy.clip_vision.ClipVisionModel(str(path))
    generator = torch.Generator().manual_seed(0)
    for parameter in made.model.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        parameter.data = 0.1 * noise + (1.0 if parameter.ndim == 1 else 0.0)
    return made
