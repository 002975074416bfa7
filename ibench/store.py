"""Pictures and what was measured in them, kept by content, so that nothing is done twice.

A picture's name is a digest of all that makes it: graph, seed, photo and model files. A picture
of other files or settings has another name, so nothing stale is ever read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

PAINTING, MEASURING = 1, 3
"""Raise one of them when code changes what is painted, or what is measured."""


class Store:
    """One folder: pictures/<digest>.png with .json beside it, measures/<digest>.json
    and .npy.

    Several processes may share it, also over a network: files appear whole.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def picture(self, key: str) -> Path:
        return self.folder / "pictures" / f"{key}.png"

    def has_picture(self, key: str) -> bool:
        return self.picture(key).is_file()

    def save_picture(self, key: str, picture: Tensor, made: Mapping[str, Any]) -> None:
        """picture: (H, W, 3) in [0, 1]. made: what it is of, for people who look into the folder.

        The picture comes last: where it is, the other file is, too.
        """
        eight_bit = (picture * 255).clamp(0, 255).to(torch.uint8).numpy()  # as SaveImage rounds
        text = json.dumps(made, indent=1, ensure_ascii=False)
        self._write(self.picture(key).with_suffix(".json"), lambda to: write_text(to, text))
        self._write(self.picture(key), lambda to: Image.fromarray(eight_bit).save(to, "png"))

    def load_measure(self, key: str) -> dict[str, Any] | None:
        """None where it was not measured yet."""
        path = self._measure(key)
        return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None

    def save_measure(self, key: str, found: Mapping[str, Any]) -> None:
        text = json.dumps(found, ensure_ascii=False)
        self._write(self._measure(key), lambda to: write_text(to, text))

    def _measure(self, key: str) -> Path:
        return self.folder / "measures" / f"{key}.json"

    def load_features(self, key: str) -> np.ndarray | None:
        """None where the picture was not looked at yet."""
        path = self._features(key)
        return np.load(path) if path.is_file() else None

    def save_features(self, key: str, features: np.ndarray) -> None:
        def write(to: Path) -> None:
            with to.open("wb") as file:  # given a name, numpy would add an ending
                np.save(file, features)

        self._write(self._features(key), write)

    def _features(self, key: str) -> Path:
        return self.folder / "measures" / f"{key}.npy"

    def _write(self, path: Path, write: Callable[[Path], None]) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{os.getpid()}.part")
        write(partial)
        os.replace(partial, path)


def write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def digest(*parts: Any) -> str:
    """Of plain values; 24 digits."""
    text = json.dumps(parts, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def digest_file(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:24]


def open_picture(path: Path) -> Tensor:
    """(1, H, W, 3) in [0, 1]: turned as its EXIF says, over white where it is transparent.

    Raises ValueError for a file that is no picture.
    """
    try:
        with Image.open(path) as opened:
            turned = ImageOps.exif_transpose(opened)
            if turned.mode.startswith(("I", "F")):  # 16 bits: Pillow's conversion would clip them
                values = np.array(turned, np.float32)
                grey = values / (65535 if values.max() > 255 else 255)
                return torch.from_numpy(grey)[None, ..., None].repeat(1, 1, 1, 3)
            colour = turned.convert("RGBA")
    except OSError as error:
        raise ValueError(f"{path} cannot be read as a picture: {error}") from error
    white = Image.new("RGBA", colour.size, (255, 255, 255, 255))
    pixels = np.array(Image.alpha_composite(white, colour).convert("RGB"))
    return torch.from_numpy(pixels)[None].float() / 255
