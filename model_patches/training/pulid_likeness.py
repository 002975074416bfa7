"""The identity loss of a step: what a prediction shows, decoded around the face, for a recogniser.

Sources: EditIDv2 (arXiv 2509.05659, eq. 9 and 10) and PuLID (arXiv 2404.16022). The published
EditIDv2 training has no gradient here; this one goes from the recogniser through the decoder and
the prediction into what is trained.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.sd
import comfy.utils
import numpy as np
import torch
from comfy.taesd.taesd import Decoder
from torch import Tensor, nn

from ..face.crops import crop_grid
from .identity_loss import Decode, IdentityLoss

MARGIN = 4
"""Latent cells around the crop that are decoded with it: the decoder sees a cell's neighbours."""


@dataclass(frozen=True)
class LikenessPlan:
    """How much the identity loss counts: weight at sigma 0, falling to 0 at sigma `until`."""

    weight: float = 0.1
    until: float = 0.6

    def at(self, sigma: Tensor) -> Tensor:
        """(B,) in 0..weight."""
        return self.weight * ((self.until - sigma) / self.until).clamp(0, 1)


class Likeness:
    """Cosines between predicted faces and the people they should show."""

    def __init__(self, decode: Decode, recogniser: nn.Module) -> None:
        """recogniser: crops (B, 3, 112, 112) RGB in -1..1 -> embeddings, frozen, on the device of
        the latents."""
        self.decode, self.recogniser = decode, recogniser

    def __call__(
        self, latents: Tensor, points: np.ndarray, size: tuple[int, int], wanted: Tensor
    ) -> Tensor:
        """Arguments as in `IdentityLoss.of_latents` -> cosines (B,)."""
        window = window_of(points, size, (latents.shape[-2], latents.shape[-1]))
        judge = IdentityLoss(self.decode, self.recogniser, window)
        return judge.of_latents(latents, points, size, wanted)

    def check(self, crop: Tensor, known: Tensor) -> None:
        """Raise ValueError unless the recogniser sees a crop (1, 3, 112, 112) as the face pack
        did, who is `known` (1, D): the loss would pull towards somebody else."""
        with torch.no_grad():
            found = self.recogniser(crop)
        if found.shape != known.shape:
            raise ValueError(
                f"the recogniser gives {found.shape[-1]} values, the face pack's {known.shape[-1]}."
                " Name the recogniser of that pack."
            )
        cosine = torch.cosine_similarity(found.float().cpu(), known.cpu()).item()
        if not cosine > AGREES:
            raise ValueError(
                f"the recogniser and the face pack's give one face embeddings of cosine "
                f"{cosine:.3f}, expected more than {AGREES}. Name the recogniser of that pack."
            )


AGREES = 0.95
"""The two crops are interpolated differently, and the pack may run in half precision."""


def window_of(points: np.ndarray, size: tuple[int, int], grid: tuple[int, int]) -> int:
    """How many latent cells hold the largest of the recogniser's crops, with a margin.

    points (B, 5, 2) in pixels of pictures of `size`; grid: (rows, columns) of the latents.
    """
    places = (crop_grid(points, size) + 1) / 2 * torch.tensor([grid[1], grid[0]])
    spread = places.amax((1, 2)) - places.amin((1, 2))
    return min(max(grid), math.ceil(float(spread.max())) + 2 * MARGIN)


def open_decoder(path: Path, latent_format: Any, device: torch.device) -> Decode:
    """The decoder of a VAE, or TAEF1's alone, frozen and with gradients to its input.

    Raises ValueError for another file.
    """
    state, metadata = comfy.utils.load_torch_file(str(path), return_metadata=True)
    if "1.weight" in state:
        return _open_small(path, state, device)
    # Parameters that are made under inference mode cannot be differentiated through.
    with torch.inference_mode(False):
        vae = comfy.sd.VAE(sd=state, metadata=metadata)
    vae.throw_exception_if_invalid()
    module: Any = vae.first_stage_model
    _check_channels(path, vae.latent_channels, latent_format)
    module.requires_grad_(False).eval().to(device, torch.float32)

    def decode(latents: Tensor) -> Tensor:
        with torch.autocast(device.type, enabled=False):
            return module.decode(latent_format.process_out(latents.float()))

    return decode


def _open_small(path: Path, state: Mapping[str, Tensor], device: torch.device) -> Decode:
    """TAEF1's decoder: latents as the model sees them -> 0..1."""
    net = Decoder(latent_channels=state["1.weight"].shape[1])
    net.load_state_dict({key: value.float() for key, value in state.items()})
    net.requires_grad_(False).eval().to(device)

    def decode(latents: Tensor) -> Tensor:
        with torch.autocast(device.type, enabled=False):
            return net(latents.float()) * 2 - 1

    return decode


def _check_channels(path: Path, channels: int, latent_format: Any) -> None:
    if channels != latent_format.latent_channels:
        raise ValueError(
            f"{path.name} decodes latents of {channels} channels, the base makes "
            f"{latent_format.latent_channels}. Name Flux's VAE (ae.safetensors) or TAEF1."
        )
