"""The identity loss on the small world's pictures: its decoder, recogniser, points and people."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import comfy.latent_formats
import comfy.utils
import numpy as np
import torch
from comfy.taesd.taesd import TAESD
from torch import Tensor, nn

from ...model_patches.training.identity_loss import IdentityLoss
from .data import SIZE, Portraits
from .frozen_faces import Found

WINDOW = 11
"""Latent cells of 8 pixels that are decoded around the face: 88 of 128 pixels hold the recogniser's
crop of nearly every face, at less than half the cost."""


class Likeness:
    """Cosines between pictures' faces and the people they should show."""

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
        self.format, self.data, self.device = comfy.latent_formats.Flux(), data, device
        self.wanted = wanted
        judge = recogniser.to(device, memory_format=layout)
        self.loss = IdentityLoss(self.decode, judge, WINDOW)

    def __call__(self, latents: Tensor, rows: np.ndarray) -> Tensor:
        """latents (B, 16, 16, 16) as predicted, for the pictures `rows` -> cosines (B,)."""
        points = self.data.points[rows]
        return self.loss.of_latents(latents, points, (SIZE, SIZE), self.wanted(rows))

    def decode(self, latents: Tensor) -> Tensor:
        """(B, 16, h, w) -> (B, 3, 8 h, 8 w) in -1..1, or a little beyond."""
        return self.vae.decode(self.format.process_out(latents).to(self.device)).float()

    def of_pictures(self, pictures: Tensor, faces: Found, rows: np.ndarray) -> Tensor:
        """(B, 3, H, W) -> cosines (B,) with the people of the pictures `rows`; 0 without a face."""
        return self.loss.of_pictures(pictures, faces.points, faces.there, self.wanted(rows))
