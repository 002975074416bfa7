"""How like a person a predicted picture is, and in which direction it is more like: ∇S.

The gradient is taken with respect to the prediction, not to the noisy picture: the diffusion model
itself is not differentiated, which ComfyUI's blocks would not allow and which costs three times as
much. Only the part of the latent around the face is decoded with gradients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ...face.crops import around, crop_grid, cut, jitter_grid, widest_window
from .correction import similarity_gradient

MARGIN = 2
"""Cells around a face's crop that are decoded as well: a decoder looks beyond each cell."""
ENCODERS = ("encoder.", "taesd_encoder.", "quant_conv.")
"""Beginnings of the names of an autoencoder's weights that decoding does not need."""


class Decoding(nn.Module):
    """An autoencoder of ComfyUI's whose forward is its decoder."""

    def __init__(self, stage: nn.Module) -> None:
        super().__init__()
        self.stage: Any = stage

    def forward(self, latents: Tensor) -> Tensor:
        return self.stage.decode(latents)


def take_weights(module: nn.Module, device: torch.device) -> dict[str, Tensor]:
    """Copies of a module's tensors, which autograd may keep.

    ComfyUI loads weights in inference mode, and what is made there cannot be saved for a backward
    pass. The copies live as long as the run that asked for them.
    """
    with torch.inference_mode(False), torch.no_grad():
        return {
            name: _copy(value, device)
            for name, value in (*module.named_parameters(), *module.named_buffers())
            if not name.removeprefix("stage.").startswith(ENCODERS)
        }


def _copy(value: Tensor, device: torch.device) -> Tensor:
    if value.is_meta:  # ComfyUI's sign of a weight that its file does not have
        return torch.zeros(value.shape, dtype=value.dtype, device=device)
    return value.detach().to(device, copy=True)


@dataclass(frozen=True, eq=False)
class Judge:
    """A decoder and a recogniser on the device of a run."""

    vae: Any
    """A comfy.sd.VAE."""
    decoding: Decoding
    decoder: Mapping[str, Tensor]
    recogniser: ModelPatcher
    weights: Mapping[str, Tensor]
    to_vae: Any
    """Latents as the diffusion model sees them -> as the autoencoder does."""

    def decode(self, latents: Tensor) -> Tensor:
        """(B, C, h, w) as the diffusion model sees them -> RGB (B, 3, H, W) float32 in 0..1."""
        given = self.to_vae(latents).to(self.vae.vae_dtype)
        pictures = torch.func.functional_call(self.decoding, dict(self.decoder), (given,))
        return self.vae.process_output(pictures.float())

    def look(self, latents: Tensor) -> np.ndarray:
        """(C, h, w) -> (H, W, 3) uint8, without gradients, for a detector."""
        with torch.no_grad():
            picture = self.decode(latents[None])[0].clamp(0, 1)
        return (picture.movedim(0, -1) * 255).round().to("cpu", torch.uint8).numpy()

    def embed(self, pictures: Tensor, grid: Tensor) -> Tensor:
        """RGB (1, 3, H, W) in 0..1 and a grid (B, S, S, 2) -> raw embeddings (B, D)."""
        crops = cut(pictures, grid) * 2 - 1
        return torch.func.functional_call(self.recogniser.model, dict(self.weights), (crops,))

    def gradient(
        self, latents: Tensor, points: np.ndarray, size: tuple[int, int],
        wanted: Tensor, jitters: int, seed: int,
    ) -> tuple[Tensor, int]:  # fmt: skip
        """∇S with respect to (C, h, w), and over how many of its numbers it is spread.

        points (5, 2) of the face in pixels of the whole picture of `size` (height, width). S is the
        mean cosine of `jitters` crops to `wanted` (D,).
        """
        grid = crop_grid(points[None], size)
        window = widest_window(grid, (latents.shape[-2], latents.shape[-1]), MARGIN)
        numbers = latents[:, :window, :window].numel()

        def embed(leaf: Tensor) -> Tensor:
            part, moved = around(leaf[None], grid, window)
            return self.embed(self.decode(part), torch.cat(jitter_grid(moved, jitters, seed)))

        return similarity_gradient(latents, embed, wanted)[0], numbers
