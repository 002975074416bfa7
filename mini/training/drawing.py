"""Pictures drawn from noise to the end, as ComfyUI's Euler sampler with CFG does, with gradients;
and whose faces they show. As PuLID's second branch does (arXiv 2404.16022): what one step predicts
at high noise is a blur of all that may still become of it, a drawn picture is not.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import comfy.samplers
import numpy as np
import torch
from torch import Tensor

from ...model_patches.face.analyser import FaceAnalyser, load_analyser
from .. import world
from ..evaluating.measures import largest
from .adapter_base import FrozenBase
from .adapter_blocks import Inject
from .adapter_likeness import Likeness, crop_grid

STEPS = 6
SCHEDULER = "sgm_uniform"
CFG = 3.0


@dataclass(frozen=True)
class Wishes:
    """What to draw: negative rows first, then as many positive ones.

    text (2B, T, D), pooled (2B, V); `injections` of 2B rows.
    """

    text: Tensor
    pooled: Tensor
    injections: dict[tuple[str, int], Inject]


def draw(base: FrozenBase, noise: Tensor, wishes: Wishes, steps: int = STEPS) -> Tensor:
    """noise (B, 16, h, w) -> latents of as many pictures."""
    sigmas = comfy.samplers.calculate_sigmas(base.sampling, SCHEDULER, steps).tolist()
    latents = noise
    for now, after in zip(sigmas[:-1], sigmas[1:], strict=True):
        level = torch.full((2 * len(noise),), now, device=noise.device)
        velocity = base.velocity(
            torch.cat((latents, latents)), level, wishes.text, wishes.pooled, wishes.injections
        )
        negative, positive = velocity.chunk(2)
        latents = latents + (after - now) * (negative + CFG * (positive - negative))
    return latents


class Resemblance:
    """Cosine between the largest face of drawn pictures and the person each should be."""

    def __init__(self, likeness: Likeness, analyser: FaceAnalyser) -> None:
        self.likeness, self.analyser = likeness, analyser

    def __call__(self, latents: Tensor, rows: np.ndarray) -> Tensor:
        """latents (B, 16, h, w) of pictures that stand for the pictures `rows` -> cosines (B,), 0
        where no face is found."""
        pictures = self.likeness.decoded(latents)
        faces = [largest(self.analyser.detector.find(rgb)) for rgb in _as_bytes(pictures)]
        found = [index for index, face in enumerate(faces) if face is not None]
        cosines = torch.zeros(len(rows), device=pictures.device)
        if not found:
            return cosines
        grid = crop_grid(np.stack([faces[index].points for index in found]))
        where = torch.tensor(found, device=pictures.device)
        return cosines.index_add(
            0, where, self.likeness.cosines(pictures[where], grid, rows[found])
        )


def open_resemblance(models: Path, likeness: Likeness) -> Resemblance:
    """With the small world's detector. Raises FileNotFoundError before it is trained."""
    path = models / world.DETECTOR
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. Train it first: --only detector.")
    return Resemblance(likeness, load_analyser(path.parent, "pack", ("CPU",), None))


def _as_bytes(pictures: Tensor) -> np.ndarray:
    """(B, 3, H, W) in -1..1 -> (B, H, W, 3) uint8, as an image is saved."""
    shown = ((pictures.detach().clamp(-1, 1) + 1) * 127.5).round().byte()
    return np.ascontiguousarray(shown.permute(0, 2, 3, 1).cpu().numpy())
