"""What the frozen encoders make of training pictures and captions, kept on the disk.

Each picture is cut to its middle square: latents for the base, patches and a class token for the
adapter. They are made once, by the first process; a stopped run goes on where it was.
"""

from __future__ import annotations

import hashlib
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from safetensors.torch import load_file
from torch import Tensor

from ..adapters.flexip import CHUNK
from ..encoders.clip_vision import CLIP, CLIP_SIZE, DINO, check_vision, look
from ..files.weight_file import format_bytes
from . import stopping
from .export import write_safetensors
from .flexip_rows import Rows

SHOW_EVERY = 100
RESERVE = 1.1
"""Free disk that is asked for, as a multiple of what is needed."""


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
            folder / "pictures" / f"{_key(fingerprint, path, *_state(path))}.safetensors"
            for path in rows.pictures
        ]
        self.captions = [
            folder / "captions" / f"{_key(fingerprint, text)}.safetensors" for text in rows.captions
        ]

    def fill(self, makers: FeatureMakers) -> None:
        """Make what is missing. Raises OSError when the disk is too small for it."""
        jobs: list[tuple[Path, Callable[[], Mapping[str, Tensor]]]] = []
        for path, picture in zip(self.pictures, self.rows.pictures, strict=True):
            jobs.append((path, lambda picture=picture: makers.of_picture(picture)))
        for path, caption in zip(self.captions, self.rows.captions, strict=True):
            jobs.append((path, lambda caption=caption: makers.of_caption(caption)))
        todo = [job for job in jobs if not job[0].exists()]
        with stopping.defer_stop() as asked:
            for number, (path, make) in enumerate(todo, 1):
                path.parent.mkdir(parents=True, exist_ok=True)
                write_safetensors(path, make(), torch.float16)
                if number == 1:
                    _check_disk(path, len(todo))
                if number % SHOW_EVERY == 0 or number == len(todo):
                    sys.stdout.write(f"features: {number} of {len(todo)}\n")
                    sys.stdout.flush()
                if asked():
                    raise KeyboardInterrupt

    def picture(self, number: int) -> dict[str, Tensor]:
        """latent, context and pooled of a picture, float32 on the CPU."""
        return _read(self.pictures[number])

    def caption(self, number: int) -> dict[str, Tensor]:
        """text and pooled of a caption, float32 on the CPU."""
        return _read(self.captions[number])


def _read(path: Path) -> dict[str, Tensor]:
    return {name: tensor.float() for name, tensor in load_file(path).items()}


def _state(path: Path) -> tuple[int, int]:
    found = path.stat()
    return found.st_size, found.st_mtime_ns


def _key(*parts: object) -> str:
    return hashlib.sha256(repr(tuple(map(str, parts))).encode()).hexdigest()[:32]


def _check_disk(first: Path, count: int) -> None:
    needed = RESERVE * first.stat().st_size * count
    free = shutil.disk_usage(first.parent).free
    if free < needed:
        raise OSError(
            f"features of {count} pictures and captions take about {format_bytes(int(needed))}, "
            f"{first.parent} has {format_bytes(free)} free. Free some space, or name another "
            "--work folder."
        )
