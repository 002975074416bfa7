"""What the frozen encoders make of training pictures and captions, kept on the disk.

Each picture is cut to its middle square: latents for the base, patches and a class token for the
adapter. They are made once, by the first process; a stopped run goes on where it was.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ..adapters.flexip import CHUNK
from ..adapters.ip_tokens import Features
from ..encoders.clip_vision import CLIP, CLIP_SIZE, DINO, check_vision, look
from .feature_files import Work, fill_files, key_of, read_features
from .flexip_rows import Rows


@dataclass(frozen=True, eq=False)
class FeatureMakers:
    """ComfyUI's frozen encoders."""

    vae: Any
    clip: Any
    """The base's text encoder."""
    clip_vision: Any
    dino: Any
    """None: the adapter reads CLIP's patches."""
    size: int
    """Pixels a side of what is trained on."""
    context_size: int
    """Pixels a side of what DINOv2 sees."""
    fingerprint: str
    """Of the files behind all of these: other files make other features."""

    def check(self) -> None:
        """Raise ValueError when a vision encoder is another one than expected."""
        check_vision(self.clip_vision, CLIP, "--clip-vision")
        if self.dino is not None:
            check_vision(self.dino, DINO, "--dino")

    def of_picture(self, path: Path) -> dict[str, Tensor]:
        """latent (4, h, w), context (N, D), pooled (E,)."""
        pixels = read_square(path, self.size)
        seen = look(self.clip_vision, pixels, CLIP_SIZE)
        context = seen.patches
        if self.dino is not None:
            context = look(self.dino, pixels, self.context_size).patches[:, 1:]
        with torch.no_grad():
            latent = self.vae.encode(pixels)
        return {"latent": latent[0], "context": context[0], "pooled": seen.pooled[0]}

    def of_caption(self, caption: str) -> dict[str, Tensor]:
        """text (77, c): a longer caption's first chunk; pooled (P,)."""
        with torch.no_grad():
            text, pooled = self.clip.encode_from_tokens(
                self.clip.tokenize(caption), return_pooled=True
            )
        return {"text": text[0, :CHUNK], "pooled": pooled[0]}


def read_square(path: Path, size: int) -> Tensor:
    """The middle square of a picture, upright: (1, size, size, 3) in [0, 1]."""
    with Image.open(path) as opened:
        picture = ImageOps.exif_transpose(opened).convert("RGB")
    square = ImageOps.fit(picture, (size, size), Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(square)).float()[None] / 255


class FeatureStore:
    """Features of all pictures and captions, in a folder."""

    def __init__(self, folder: Path, rows: Rows, fingerprint: str) -> None:
        self.rows = rows
        self.pictures = [
            folder / "pictures" / f"{key_of(fingerprint, path, *_state(path))}.safetensors"
            for path in rows.pictures
        ]
        self.captions = [
            folder / "captions" / f"{key_of(fingerprint, text)}.safetensors"
            for text in rows.captions
        ]

    def fill(self, makers: FeatureMakers) -> None:
        """Make what is missing. Raises OSError when the disk is too small for it."""
        jobs: list[Work] = []
        for path, picture in zip(self.pictures, self.rows.pictures, strict=True):
            jobs.append((path, lambda picture=picture: makers.of_picture(picture)))
        for path, caption in zip(self.captions, self.rows.captions, strict=True):
            jobs.append((path, lambda caption=caption: makers.of_caption(caption)))
        fill_files(jobs, "pictures and captions", torch.float16)

    def latent(self, number: int) -> Tensor:
        """(4, h, w) of a picture, float32 on the CPU."""
        return read_features(self.pictures[number])["latent"]

    def photo(self, number: int) -> Features:
        """context (N, D) and pooled (E,) of a picture, float32 on the CPU."""
        found = read_features(self.pictures[number])
        return {"context": found["context"], "pooled": found["pooled"]}

    def caption(self, number: int) -> dict[str, Tensor]:
        """text and pooled of a caption, float32 on the CPU."""
        return read_features(self.captions[number])


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns
