"""PuLID's identity loss: decode what the model predicts, and ask the recogniser who it is.

Of one step's prediction only where that is a picture, and the noisy one no longer; the face is
where the target picture has it. Of a drawn picture the face is where the detector finds it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import comfy.latent_formats
import comfy.utils
import numpy as np
import torch
import torch.nn.functional as F
from comfy.taesd.taesd import TAESD
from torch import Tensor, nn

from ...model_patches.face.align import ARCFACE_112, similarity
from .data import SIZE, Portraits
from .identity_inputs import SIDE

WINDOW = 11
"""Side of what is decoded around the face, in latent cells of 8 pixels: 88 of 128 pixels hold the
recogniser's crop of nearly every face, at less than half the cost."""
JUDGED = (0.4, 0.9)
"""Sigmas between which a prediction is judged: below, the noisy picture shows the face already;
above, the prediction is a blur."""


def crop_grid(points: np.ndarray) -> Tensor:
    """Face points (B, 5, 2) in pixels -> where `grid_sample` finds the recogniser's crops."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float64)
    places = np.stack((x, y, np.ones_like(x)), axis=-1)
    rows = []
    for five in points:
        forward = np.vstack([similarity(five, ARCFACE_112), (0, 0, 1)])
        rows.append(places @ np.linalg.inv(forward)[:2].T)
    return torch.from_numpy((np.stack(rows) + 0.5) / SIZE * 2 - 1).float()


def around(latents: Tensor, grid: Tensor) -> tuple[Tensor, Tensor]:
    """The latents (B, C, WINDOW, WINDOW) that the crops of `grid` lie in, and the grid in these.

    latents (B, C, E, E); grid (B, S, S, 2) as `crop_grid` gives it for the whole picture.
    """
    edge = latents.shape[-1]
    cells = (grid + 1) / 2 * edge
    corner = (cells.mean((1, 2)) - WINDOW / 2).round().clamp(0, edge - WINDOW)
    parts = [
        latent[:, y : y + WINDOW, x : x + WINDOW]
        for latent, (x, y) in zip(latents, corner.long().tolist(), strict=True)
    ]
    return torch.stack(parts), (cells - corner[:, None, None]) / WINDOW * 2 - 1


def centres(embeddings: np.ndarray, people: np.ndarray) -> Tensor:
    """Unit means of the pictures of each person 0, 1, 2, ...: (people, D)."""
    unit = F.normalize(torch.from_numpy(np.array(embeddings)), dim=-1)
    sums = torch.zeros(int(people.max()) + 1, unit.shape[1])
    return F.normalize(sums.index_add_(0, torch.from_numpy(np.array(people)), unit), dim=-1)


class Likeness:
    """Cosine between predicted faces and the people they should be."""

    def __init__(
        self,
        vae: Path,
        recogniser: nn.Module,
        data: Portraits,
        wanted: Callable[[np.ndarray], Tensor],
        device: torch.device,
    ) -> None:
        """`wanted`: picture numbers -> unit embeddings (B, 512) of who they should show."""
        module = TAESD(latent_channels=comfy.latent_formats.Flux().latent_channels)
        module.load_state_dict(comfy.utils.load_torch_file(str(vae)))
        layout = torch.channels_last
        self.vae = module.requires_grad_(False).to(device, memory_format=layout)
        self.recogniser = recogniser.to(device, memory_format=layout)
        self.format, self.data, self.device = comfy.latent_formats.Flux(), data, device
        self.wanted = wanted

    def __call__(self, latents: Tensor, rows: np.ndarray) -> Tensor:
        """latents (B, 16, 16, 16) as predicted, for the pictures `rows` -> cosines (B,)."""
        parts, grid = around(latents, crop_grid(self.data.points[rows]))
        return self.cosines(self.decoded(parts), grid, rows)

    def decoded(self, latents: Tensor) -> Tensor:
        """(B, 16, h, w) -> (B, 3, 8 h, 8 w) in -1..1, or a little beyond."""
        return self.vae.decode(self.format.process_out(latents).to(self.device)).float()

    def cosines(self, pictures: Tensor, grid: Tensor, rows: np.ndarray) -> Tensor:
        """Pictures whose faces `grid` cuts out, against the people of the pictures `rows`: (B,)."""
        crops = F.grid_sample(
            pictures, grid.to(self.device), padding_mode="zeros", align_corners=False
        ).clamp(-1, 1)
        found = F.normalize(self.recogniser(crops).float(), dim=-1)
        return (found * self.wanted(rows).to(self.device)).sum(-1)
