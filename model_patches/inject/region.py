"""Where in the picture a person may appear -> weights of image tokens, once per run."""

from __future__ import annotations

import math
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

        As `token_weights`.
        """
        return _coverage(self.token_weights(grid, latent_size, area, batch))

    def token_weights(
        self, grid: Grid, latent_size: tuple[int, int], area: Sequence[int] | None, batch: int
    ) -> Tensor:
        """(1 or batch, tokens) weights of a grid over the latent, or over an `area` of it.

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
        return _per_row(tokens, batch)

    def on_latent(self, size: tuple[int, int], batch: int) -> Tensor:
        """(1 or batch, height, width): the mask averaged onto the pixels of a whole latent."""
        return _per_row(self._shrink(size).squeeze(1), batch)

    def _shrink(self, size: tuple[int, int]) -> Tensor:
        return F.interpolate(self.mask.unsqueeze(1), size, mode="area")


Box = tuple[float, float, float, float]
"""y_min, x_min, y_max, x_max as shares of the picture's height and width."""
_FINE = 256


@dataclass(frozen=True, eq=False)
class BoxRegion(Region):
    """A rectangle, exact on every grid. `mask` is the same on 256 x 256 pixels."""

    box: Box

    @property
    def share(self) -> float:
        y_min, x_min, y_max, x_max = self.box
        return (y_max - y_min) * (x_max - x_min)

    def _shrink(self, size: tuple[int, int]) -> Tensor:
        return _draw_box(self.box, size)[None, None]


def _draw_box(box: Box, size: tuple[int, int]) -> Tensor:
    """(height, width): the share of each pixel that lies in the box."""
    down, across = (
        _share_of_line(low, high, count)
        for low, high, count in zip(box[:2], box[2:], size, strict=True)
    )
    return down[:, None] * across


def _share_of_line(low: float, high: float, count: int) -> Tensor:
    starts = torch.arange(count, dtype=torch.float64)
    shares = (starts + 1).clamp(max=high * count) - starts.clamp(min=low * count)
    return shares.clamp(0.0, 1.0).float()


def box_region(box: Sequence[float]) -> BoxRegion:
    """A rectangle y_min, x_min, y_max, x_max in shares of the picture; what lies outside is cut.

    Raises ValueError unless it has four finite numbers, each minimum at most its maximum.
    """
    if len(box) != 4 or not all(math.isfinite(value) for value in box):
        raise ValueError(
            f"A box is {list(box)}, expected four finite numbers y_min, x_min, y_max, x_max as "
            "shares of the picture. Draw it again."
        )
    if box[0] > box[2] or box[1] > box[3]:
        raise ValueError(
            f"A box is {list(box)}, whose minimum is above its maximum; expected y_min, x_min, "
            "y_max, x_max. Draw it again."
        )
    y_min, x_min, y_max, x_max = (min(max(float(value), 0.0), 1.0) for value in box)
    cut = (y_min, x_min, y_max, x_max)
    return BoxRegion(_draw_box(cut, (_FINE, _FINE))[None], cut)


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
