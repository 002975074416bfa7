"""From a face to the picture that FaceCLIP's face encoder was trained on."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..face.align import ARCFACE_112, robust_similarity, similarity
from ..face.face import Face

SIDE = 448
"""The authors' crops: ArcFace's five-point template at four times its size."""


def faceclip_pixels(face: Face) -> Tensor:
    """(1, 3, 448, 448) float32 RGB in [0, 1], black outside of the photo's crop.

    Cut out of the larger FFHQ crop, which holds the same pixels, by way of the five points.
    """
    points = face.points.numpy()
    to_ffhq = np.vstack([robust_similarity(points)[0], (0, 0, 1)])
    to_crop = np.vstack([similarity(points, ARCFACE_112 * (SIDE / 112)), (0, 0, 1)])
    matrix = torch.from_numpy(to_ffhq @ np.linalg.inv(to_crop))[:2].float()
    picture = face.ffhq_crop.permute(2, 0, 1)[None].float() / 255
    axis = torch.arange(SIDE, dtype=torch.float32)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    where = torch.stack((x, y, torch.ones_like(x)), dim=-1) @ matrix.T
    where = (where + 0.5) / picture.shape[-1] * 2 - 1
    return F.grid_sample(picture, where[None], padding_mode="zeros", align_corners=False)


def no_face() -> Tensor:
    """FaceCLIP's input without a person: a black picture of the same size."""
    return torch.zeros(1, 3, SIDE, SIDE)
