"""From an aligned face to the pixels that the vision towers of PuLID and CLIP read.

For PuLID everything but face and hair turns white and the rest (by default) loses its colour; CLIP
sees the head in colour before grey. Clothes and scenery do not become part of the identity.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ..face.face import Face

WHITENING = {
    "auto": "parsing labels where the face has them, otherwise the ellipse",
    "parsed": "parsing labels: keeps skin, brows, eyes, glasses, nose, mouth, lips and hair",
    "ellipse": "a head-shaped ellipse on the aligned crop; needs no parser, cuts wide hair",
    "off": "nothing is whitened",
}

BACKGROUND_LABELS = (0, 7, 8, 9, 14, 15, 16, 18)
"""Background, both ears, earring, neck, necklace, cloth, hat (CelebAMask classes)."""
LUMA = (0.299, 0.587, 0.114)
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

# Centre and half axes as fractions of the side. The FFHQ template puts the eyes at 0.47 and the
# mouth at 0.73 of the height; hair above and chin below end near 0.04 and 0.93.
ELLIPSE = (0.5, 0.485, 0.345, 0.445)


def eva_pixels(face: Face, size: int, whitening: str, grey: bool = True) -> Tensor:
    """(1, 3, size, size) float32, CLIP-normalised, of the FFHQ crop.

    `whitening` is a key of WHITENING. The resize is antialiased bicubic on the CPU, unclamped: it
    overshoots by a few percent, as in training. Raises ValueError when "parsed" has no labels.
    """
    mode = whitening_used(face, whitening)
    picture = face.ffhq_crop.permute(2, 0, 1)[None].float() / 255
    if grey:
        picture = to_grey(picture)
    if mode != "off":
        picture = torch.where(background(face, mode), torch.ones(()), picture)
    return normalise(resize(picture, size))


def head_picture(face: Face) -> Tensor:
    """(1, 512, 512, 3) in [0, 1]: the FFHQ crop with grey in place of its background."""
    picture = face.ffhq_crop.float() / 255
    hidden = background(face, whitening_used(face, "auto"))
    return torch.where(hidden[..., None], torch.full((), 0.5), picture)[None]


def whitening_used(face: Face, whitening: str) -> str:
    """Resolve "auto" for this face; ValueError for an unknown mode or one it cannot have."""
    if whitening not in WHITENING:
        raise ValueError(f"whitening is {whitening!r}, expected one of {', '.join(WHITENING)}.")
    if whitening == "auto":
        return "ellipse" if face.labels is None else "parsed"
    if whitening == "parsed" and face.labels is None:
        raise ValueError(
            f"whitening is 'parsed', but the face in photo {face.photo + 1} has no parsing labels. "
            "Put facexlib's parsing_bisenet.pth into models/facexlib and detect again, "
            "or choose 'auto' or 'ellipse'."
        )
    return whitening


def background(face: Face, mode: str) -> Tensor:
    """(H, W) bool, True where `mode` ("parsed" or "ellipse") hides the crop."""
    if mode == "parsed" and (labels := face.labels) is not None:
        return torch.isin(labels, torch.tensor(BACKGROUND_LABELS, dtype=labels.dtype))
    height, width = face.ffhq_crop.shape[:2]
    x0, y0, rx, ry = ELLIPSE
    y = (torch.arange(height) + 0.5) / height
    x = (torch.arange(width) + 0.5) / width
    return ((x - x0) / rx).square() + ((y[:, None] - y0) / ry).square() > 1


def to_grey(picture: Tensor) -> Tensor:
    """(B, 3, H, W) in [0, 1] -> its luma on three channels."""
    weights = picture.new_tensor(LUMA)[None, :, None, None]
    return (picture * weights).sum(1, keepdim=True).expand_as(picture)


def resize(picture: Tensor, size: int) -> Tensor:
    """Antialiased bicubic to (B, C, size, size), not clamped."""
    return F.interpolate(picture, (size, size), mode="bicubic", antialias=True)


def normalise(picture: Tensor) -> Tensor:
    """Subtract CLIP's mean and divide by its deviation, per channel."""
    mean = picture.new_tensor(CLIP_MEAN)[None, :, None, None]
    return (picture - mean) / picture.new_tensor(CLIP_STD)[None, :, None, None]
