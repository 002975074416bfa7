"""Pixel masks -> weights of image tokens. Done once per run, never per block or step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

PATCH = 2  # latent pixels per token side, Flux


@dataclass(frozen=True, eq=False)
class Coverage:
    """Which image tokens a mask reaches, and how strongly."""

    index: Tensor | None
    """(K,) int64 positions of covered tokens, row by row; None: all of them."""
    weights: Tensor | None
    """(1 or B, K or L) weights of those tokens; None: all exactly 1."""


EVERYWHERE = Coverage(None, None)


def check_mask(mask: Tensor) -> Tensor:
    """A mask as core nodes give it, (H, W) or (B, H, W) in [0, 1], as (B, H, W) float32 on CPU."""
    if mask.ndim not in (2, 3) or 0 in mask.shape:
        raise ValueError(
            f"The mask has shape {tuple(mask.shape)}; expected (height, width) or (batch, height, "
            "width) with at least one pixel. Connect a MASK output, for example of Load Image."
        )
    mask = mask.detach().to("cpu", torch.float32)
    mask = mask.unsqueeze(0) if mask.ndim == 2 else mask
    low, high = mask.min().item(), mask.max().item()
    if not (low >= 0.0 and high <= 1.0):  # also false for NaN
        raise ValueError(
            f"The mask has values from {low:g} to {high:g}; expected numbers in [0, 1]. Clamp it, "
            "for example with Mask Composite or Threshold Mask, or repair the node that made it."
        )
    return mask


def cover(
    mask: Tensor, latent_size: tuple[int, int], area: Sequence[int] | None, batch: int
) -> Coverage | None:
    """Token coverage of a pixel mask (B, H, W) for a latent (or an area of it); None: nothing.

    The mask is averaged onto the latent grid, cut to `area` (height, width, y, x), padded like
    the latent to whole patches, and averaged over each patch.
    """
    latent = F.interpolate(mask.unsqueeze(1), latent_size, mode="area")
    if area is not None:
        height, width, y, x = area
        latent = latent[:, :, y : y + height, x : x + width]
    odd = (0, -latent.shape[-1] % PATCH, 0, -latent.shape[-2] % PATCH)
    tokens = F.avg_pool2d(F.pad(latent, odd, mode="replicate"), PATCH).flatten(1)
    if len(tokens) > 1:
        tokens = tokens[torch.arange(batch) % len(tokens)]
    covered = (tokens > 0).any(0)
    if not covered.any():
        return None
    if covered.all():
        return Coverage(None, None if (tokens == 1).all() else tokens)
    index = covered.nonzero().squeeze(1)
    weights = tokens[:, index]
    return Coverage(index, None if (weights == 1).all() else weights)
