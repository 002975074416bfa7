"""PuLID's identity loss: decode what the model predicts, and ask a recogniser who it is.

A prediction of one step is judged only where it shows a face and the noisy picture does not yet
(`JUDGED`); the face is where the target picture has it. In a picture that was sampled to the end
the face is where a detector finds it. Decoder, crop and recogniser are differentiable throughout.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..face.crops import around, crop_grid

JUDGED = (0.4, 0.9)
"""Sigmas between which a prediction is judged: below, the noisy picture shows the face already;
above, the prediction is a blur."""

Decode = Callable[[Tensor], Tensor]
"""Latents (B, C, h, w) as the diffusion model sees them -> RGB (B, 3, s·h, s·w) in -1..1, where s
is the size of a latent cell in pixels. Values a little beyond -1..1 are allowed."""


def centres(embeddings: np.ndarray, people: np.ndarray) -> Tensor:
    """Unit means (P, D) of each person's embeddings: who a picture of that person should show.

    embeddings (N, D), not necessarily unit; people (N,) numbers 0 .. P - 1, each used.
    """
    unit = F.normalize(torch.from_numpy(np.array(embeddings)), dim=-1)
    sums = torch.zeros(int(people.max()) + 1, unit.shape[1])
    return F.normalize(sums.index_add_(0, torch.from_numpy(np.array(people)), unit), dim=-1)


class IdentityLoss:
    """Cosines between faces and the people they should show; the loss is one minus their mean."""

    def __init__(self, decode: Decode, recogniser: nn.Module, window: int) -> None:
        """recogniser: crops (B, 3, SIDE, SIDE) RGB in -1..1 -> embeddings (B, D). It must be frozen
        and on the device of the latents.

        window: how many latent cells are decoded around a face. It should hold the largest crop:
        what lies beyond is black.
        """
        self.decode, self.recogniser, self.window = decode, recogniser, window

    def of_latents(
        self, latents: Tensor, points: np.ndarray, size: tuple[int, int], wanted: Tensor
    ) -> Tensor:
        """Predicted latents (B, C, h, w) of pictures of `size` (height, width) -> cosines (B,).

        points (B, 5, 2): the target pictures' faces in pixels; wanted (B, D) unit embeddings.
        """
        parts, grid = around(latents, crop_grid(points, size), self.window)
        return self._cosines(self.decode(parts), grid, wanted)

    def of_pictures(
        self, pictures: Tensor, points: Tensor, there: Tensor, wanted: Tensor
    ) -> Tensor:
        """Pictures (B, 3, H, W) in -1..1 -> cosines (B,), 0 where no face was found.

        points (B, 5, 2) in pixels, without gradients; there (B,) bool; wanted (B, D) unit.
        """
        cosines = torch.zeros(len(pictures), device=pictures.device)
        found = np.flatnonzero(there.cpu().numpy())
        if not len(found):
            return cosines
        height, width = pictures.shape[-2:]
        grid = crop_grid(points.cpu().numpy()[found], (height, width))
        where = torch.from_numpy(found).to(pictures.device)
        judged = self._cosines(pictures[where], grid, wanted.to(pictures.device)[where])
        return cosines.index_add(0, where, judged)

    def _cosines(self, pictures: Tensor, grid: Tensor, wanted: Tensor) -> Tensor:
        where = grid.to(pictures.device)
        crops = F.grid_sample(pictures, where, padding_mode="zeros", align_corners=False)
        found = F.normalize(self.recogniser(crops.clamp(-1, 1)).float(), dim=-1)
        return (found * wanted.to(pictures.device)).sum(-1)
