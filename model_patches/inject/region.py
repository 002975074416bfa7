"""Where in the picture a person may appear -> weights of image tokens, once per run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Grid:
    """The image tokens of a site: rows x columns, each `cell` latent pixels a side."""

    rows: int
    columns: int
    cell: int

    @property
    def tokens(self) -> int:
        return self.rows * self.columns


@dataclass(frozen=True, eq=False)
class Coverage:
    """Which image tokens a region reaches, and how strongly."""

    index: Tensor | None
    """(K,) int64 positions of covered tokens, row by row; None: all of them."""
    weights: Tensor | None
    """(1 or B, K or L) weights of those tokens; None: all exactly 1."""

    def of_rows(self, rows: slice) -> Coverage:
        """The same for some rows of the batch that it was made for."""
        if self.weights is None or len(self.weights) == 1:
            return self
        return Coverage(self.index, self.weights[rows])

    def to(self, device: torch.device, dtype: torch.dtype) -> Coverage:
        index, weights = self.index, self.weights
        return Coverage(
            None if index is None else index.to(device),
            None if weights is None else weights.to(device, dtype),
        )


EVERYWHERE = Coverage(None, None)


@dataclass(frozen=True, eq=False)
class Region:
    """One person's part of the picture, given by a mask."""

    mask: Tensor
    """(B, H, W) float32 in [0, 1] on the CPU, of any size: stretched over the picture."""

    @property
    def is_empty(self) -> bool:
        return not self.mask.any()

    @property
    def share(self) -> float:
        """Part of the picture that is covered, however weakly, in [0, 1]."""
        return (self.mask > 0).float().mean().item()

    def cover(
        self, grid: Grid, latent_size: tuple[int, int], area: Sequence[int] | None, batch: int
    ) -> Coverage | None:
        """Coverage of a grid over the latent (or over an `area` of it); None: no token at all.

        The mask is averaged onto the latent, cut to the area (height, width, y, x), padded like
        the latent to whole tokens, and averaged over each token.
        """
        latent = self._shrink(latent_size)
        if area is not None:
            height, width, y, x = area
            latent = latent[:, :, y : y + height, x : x + width]
        beyond = (
            0,
            grid.columns * grid.cell - latent.shape[-1],
            0,
            grid.rows * grid.cell - latent.shape[-2],
        )
        tokens = F.avg_pool2d(F.pad(latent, beyond, mode="replicate"), grid.cell).flatten(1)
        return _coverage(_per_row(tokens, batch))

    def on_latent(self, size: tuple[int, int], batch: int) -> Tensor:
        """(1 or batch, height, width): the mask averaged onto the pixels of a whole latent."""
        return _per_row(self._shrink(size).squeeze(1), batch)

    def _shrink(self, size: tuple[int, int]) -> Tensor:
        return F.interpolate(self.mask.unsqueeze(1), size, mode="area")


def _per_row(masks: Tensor, batch: int) -> Tensor:
    """One mask for all rows, or one for each, repeated in turn."""
    return masks if len(masks) == 1 else masks[torch.arange(batch) % len(masks)]


def _coverage(tokens: Tensor) -> Coverage | None:
    covered = (tokens > 0).any(0)
    if not covered.any():
        return None
    if covered.all():
        return Coverage(None, None if (tokens == 1).all() else tokens)
    index = covered.nonzero().squeeze(1)
    weights = tokens[:, index]
    return Coverage(index, None if (weights == 1).all() else weights)


def region_of(mask: Tensor) -> Region:
    """A mask as core nodes give it, (H, W) or (B, H, W) in [0, 1]. Raises ValueError for others."""
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
    return Region(mask)
