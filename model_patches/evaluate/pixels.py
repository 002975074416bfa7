"""Pictures as the encoders of the published figures see them: four ways to 224 pixels."""

from __future__ import annotations

import numpy as np
import torch
import torchvision.transforms.functional as tf
from PIL import Image
from torch import Tensor

from .networks import MEAN, STD

SIDE = 224
DINO_SIDE = 256
CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
BICUBIC = tf.InterpolationMode.BICUBIC


def clip_pixels(picture: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 RGB -> (3, 224, 224): OpenAI's way, resized by Pillow. The corrected one."""
    return tf.normalize(_crop(_resize(picture, SIDE)), CLIP_MEAN, CLIP_STD)


def dino_pixels(picture: np.ndarray) -> Tensor:
    """(H, W, 3) uint8 RGB -> (3, 224, 224): shorter side to 256, middle, ImageNet's mean."""
    return tf.normalize(_crop(_resize(picture, DINO_SIDE)), MEAN, STD)


def compat_aesthetic_pixels(picture: np.ndarray) -> Tensor:
    """IBench's Aesthetic: resized as a tensor without antialiasing, overshoot kept."""
    values = _as_tensor(picture)
    values = _crop(tf.resize(values, _size(picture, SIDE), BICUBIC, antialias=False))
    return tf.normalize(values / 255, CLIP_MEAN, CLIP_STD)


def compat_clip_pixels(picture: np.ndarray) -> Tensor:
    """IBench's ClipI and ClipT: resized as a tensor with antialiasing, overshoot kept."""
    values = _as_tensor(picture) / 255
    values = _crop(tf.resize(values, _size(picture, SIDE), BICUBIC, antialias=True))
    return tf.normalize(values, CLIP_MEAN, CLIP_STD)


def keep_masked(picture: Tensor, mask: Tensor) -> Tensor:
    """(H, W, C) with all outside the mask (H, W) black: what FlexIP compares after segmentation.

    Raises ValueError when the sizes differ or the mask is empty.
    """
    if picture.shape[:2] != mask.shape:
        raise ValueError(
            f"expected a mask as large as the picture, got {tuple(mask.shape)} and "
            f"{tuple(picture.shape[:2])}; resize the mask first"
        )
    if not (mask > 0).any():
        raise ValueError("the mask is empty, expected a subject; segment the picture again")
    return picture * mask[..., None].to(picture)


def _as_tensor(picture: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float()


def _size(picture: np.ndarray, side: int) -> list[int]:
    height, width = picture.shape[:2]
    shorter = min(height, width)
    return [side * height // shorter, side * width // shorter]


def _resize(picture: np.ndarray, side: int) -> Tensor:
    """By Pillow, in 8 bits -> (3, h, w) in 0..1."""
    height, width = _size(picture, side)
    image = Image.fromarray(picture).resize((width, height), Image.Resampling.BICUBIC)
    return tf.to_tensor(image)


def _crop(values: Tensor) -> Tensor:
    return tf.center_crop(values, [SIDE, SIDE])
