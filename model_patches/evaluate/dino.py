"""DINOv2, the judge of IBench's Dino and Fgis: a picture as one feature, by transformers.

ComfyUI's own loader does not know the base model, and places its patches otherwise at 224 pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from .modes import CORRECTED, Mode
from .networks import fill_network, grow_box
from .pixels import dino_pixels

if TYPE_CHECKING:
    from transformers import Dinov2Model

DINO_FILE = "model.safetensors of facebook/dinov2-base"
CLS, POSITIONS = "embeddings.cls_token", "embeddings.position_embeddings"
PATCHES = "embeddings.patch_embeddings.projection.weight"
HEAD = 64
"""Channels of an attention head, in every size of DINOv2."""
Box = tuple[float, float, float, float]


def build_dino(state: Mapping[str, Tensor]) -> Dinov2Model:
    """From the tensors of DINO_FILE; its sizes are read from their shapes.

    Raises ValueError for other keys or shapes.
    """
    from transformers import Dinov2Config, Dinov2Model

    absent = [key for key in (CLS, POSITIONS, PATCHES) if key not in state]
    if absent:
        raise ValueError(
            f"these are not the tensors of {DINO_FILE}: {absent[0]} is absent; get the published "
            "file"
        )
    width, patch = state[CLS].shape[-1], state[PATCHES].shape[-1]
    first = state.get("encoder.layer.0.mlp.fc1.weight")
    config = Dinov2Config(
        hidden_size=width,
        num_hidden_layers=len({key.split(".")[2] for key in state if key.startswith("encoder.")}),
        num_attention_heads=max(1, width // HEAD),
        mlp_ratio=4 if first is None else len(first) // width,
        patch_size=patch,
        image_size=patch * math.isqrt(state[POSITIONS].shape[1] - 1),
    )
    with torch.device("meta"):
        net = Dinov2Model(config)
    fill_network(net, state, DINO_FILE)
    return net


@torch.no_grad()
def dino_feature(net: Dinov2Model, picture: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 RGB -> (1, D), the class token of the last layer, on the CPU."""
    pixels = dino_pixels(picture)[None].to(net.device)
    return net(pixel_values=pixels).last_hidden_state[:, 0].float().cpu()


def cut_face(picture: np.ndarray, box: Box, mode: Mode = CORRECTED) -> np.ndarray:
    """The face with the margin of `grow_box`, as far as the picture reaches, for Fgis.

    Raises ValueError for a box that lies outside.
    """
    height, width = picture.shape[:2]
    x0, y0, x1, y1 = grow_box(box, mode)
    cut = picture[max(0, y0) : min(height, y1), max(0, x0) : min(width, x1)]
    if 0 in cut.shape:
        raise ValueError(f"the face box {box} lies outside of the picture of {width}x{height}")
    return cut
