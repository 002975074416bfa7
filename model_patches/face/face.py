"""The Face value: one person found in one photo, with what the encoders need."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Face:
    """One face. Crop, labels and embedding come from the same five points, so all encoders see
    the same person.

    Tensors live on the CPU. The crop stays 8-bit RGB: that is what the parser was trained
    on, and it makes content hashes exact.
    """

    photo: int
    """Index of the photo in the image batch."""
    photo_hash: str
    """Hex digest of the photo's pixels."""
    box: tuple[float, float, float, float]
    """x0, y0, x1, y1 in pixels of the photo."""
    points: Tensor
    """(5, 2) float32, pixels: left eye, right eye, nose, left and right mouth corner, as seen."""
    score: float
    """Detection score in [0, 1]."""
    detector: str
    """Which detector found it, for example "scrfd (antelopev2)" or "lbp cascade (bundled)"."""
    angles: tuple[float, float, float]
    """Yaw, pitch, roll in degrees, estimated from the five points."""
    ffhq_crop: Tensor
    """(512, 512, 3) uint8 RGB, FFHQ template."""
    labels: Tensor | None
    """(512, 512) uint8 parsing labels of `ffhq_crop` (19 CelebAMask classes); None: no parser."""
    embedding: Tensor | None
    """(512,) float32 raw ArcFace embedding, not normalised; None: no recogniser."""
    recogniser: str
    """Which recogniser made `embedding`; empty when there is none."""
    number: int = 0
    """Its number within the photo, counted from 0 as an index of FaceChoice is."""


def face_key(face: Face) -> str:
    """Digest of everything in a face that the encoders read, plus its photo and box."""
    state = hashlib.sha256(f"{face.photo_hash} {face.box}".encode())
    for tensor in (face.ffhq_crop, face.labels, face.embedding):
        if tensor is None:
            state.update(b"none")
        else:
            state.update(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
            state.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return state.hexdigest()
