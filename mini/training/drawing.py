"""New pictures by the captions of known ones, and whose faces they show."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...model_patches.training.drawing import Conditioning, draw
from ...model_patches.training.flux_blocks import Injections
from ...model_patches.training.frozen_base import FrozenBase
from .. import world
from .adapter_diffusion import Examples, open_likeness
from .adapter_likeness import Likeness
from .frozen_faces import Finder, Found, read_detector
from .options import models


@dataclass(frozen=True)
class Drawn:
    """New pictures (B, 3, H, W) in -1..1, or a little beyond, and the faces in them."""

    pictures: Tensor
    faces: Found


@dataclass(frozen=True)
class Drawing:
    """Draws pictures by the captions of known ones, from new noise."""

    base: FrozenBase
    examples: Examples
    likeness: Likeness
    find: Callable[[Tensor], Found]
    chained: bool = True
    """Whether gradients pass through the latents, see `draw`."""

    def captions(
        self, rows: np.ndarray, somebody: Injections, nobody: Injections
    ) -> tuple[Conditioning, Conditioning]:
        """What the pictures' captions say with `somebody`, and CFG's negatives with `nobody`."""
        unsaid = np.ones(len(rows), bool)
        captions = self.examples.captions
        return (
            Conditioning(*captions(rows, ~unsaid), somebody),
            Conditioning(*captions(rows, unsaid), nobody),
        )

    def noise(self, rows: np.ndarray) -> Tensor:
        """(B, 16, h, w)"""
        return torch.randn_like(self.examples.targets(rows))

    def __call__(self, noise: Tensor, positive: Conditioning, negative: Conditioning) -> Drawn:
        pictures = self.likeness.decode(
            draw(self.base, noise, positive, negative, chained=self.chained)
        )
        return Drawn(pictures, self.find(pictures.detach()))

    def measure_likeness(self, drawn: Drawn, rows: np.ndarray) -> Tensor:
        """Cosines (B,) with the people of the pictures `rows`, 0 where no face is found."""
        return self.likeness.of_pictures(drawn.pictures, drawn.faces, rows)


def open_drawing(work: Path, base: FrozenBase, examples: Examples, chained: bool = True) -> Drawing:
    """With the small world's networks. Raises FileNotFoundError before they are trained."""
    path = models(work) / world.DETECTOR
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. Train it first: --only detector.")
    find = Finder(read_detector(path), examples.device)
    return Drawing(base, examples, open_likeness(work, examples), find, chained)
