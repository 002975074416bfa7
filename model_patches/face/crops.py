"""Differentiable crops of faces: where a recogniser's crop lies in a picture, and how it is read.

The crops are those of `align.arcface_crop`, as grids for `grid_sample`, so that what a recogniser
says of a crop has a gradient with respect to the picture, or to the latent it was decoded from.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .align import ARCFACE_112, similarity

SIDE = 112
"""Side of a recogniser's crop in pixels, as ArcFace models take it."""
SHIFT, ZOOM, TURN = 4.0, 0.06, 5.0
"""How far a jittered crop strays at most: pixels of the crop, a share, degrees."""


def crop_grid(points: np.ndarray, size: tuple[int, int]) -> Tensor:
    """Where `grid_sample` finds the recogniser's crops: (B, SIDE, SIDE, 2) float32 in -1..1.

    points (B, 5, 2) in pixels of pictures of `size` (height, width).
    """
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float64)
    places = np.stack((x, y, np.ones_like(x)), axis=-1)
    rows = []
    for five in points:
        forward = np.vstack([similarity(five, ARCFACE_112), (0, 0, 1)])
        rows.append(places @ np.linalg.inv(forward)[:2].T)
    height, width = size
    return torch.from_numpy((np.stack(rows) + 0.5) / (width, height) * 2 - 1).float()


def around(latents: Tensor, grid: Tensor, window: int) -> tuple[Tensor, Tensor]:
    """The square of `window` cells that each crop lies in, and the crops' grid within it.

    latents (B, C, h, w); grid (B, S, S, 2) as `crop_grid` gives it for the whole picture. A picture
    that is smaller than the window is taken whole.
    """
    edges = torch.tensor([latents.shape[-1], latents.shape[-2]])
    sides = edges.clamp(max=window)
    cells = (grid + 1) / 2 * edges
    corner = (cells.mean((1, 2)) - sides / 2).round().clamp(min=0).minimum(edges - sides)
    wide, high = sides.tolist()
    parts = [
        latent[:, y : y + high, x : x + wide]
        for latent, (x, y) in zip(latents, corner.long().tolist(), strict=True)
    ]
    return torch.stack(parts), (cells - corner[:, None, None]) / sides * 2 - 1


def widest_window(grid: Tensor, size: tuple[int, int], margin: int) -> int:
    """Side of the square of cells that holds every crop of a grid and `margin` cells around it.

    grid (B, S, S, 2) as `crop_grid` gives it; size (height, width) of the latent in cells.
    """
    cells = (grid + 1) / 2 * torch.tensor([size[1], size[0]])
    extent = cells.amax((1, 2)) - cells.amin((1, 2))
    return int(np.ceil(extent.max().item())) + 2 * margin


def jitter_grid(grid: Tensor, count: int, seed: int) -> list[Tensor]:
    """The grid itself, and `count` - 1 crops of the same face, mirrored, shifted, scaled or turned.

    grid (B, S, S, 2). The same seed gives the same crops. What pleases a recogniser in all of them
    is less often a texture made for one of them.
    """
    rng = np.random.default_rng(seed)
    grids = [grid]
    for number in range(1, count):
        turn = np.radians(rng.uniform(-TURN, TURN))
        zoom = 1 + rng.uniform(-ZOOM, ZOOM)
        shift = rng.uniform(-SHIFT, SHIFT, 2)
        grids.append(_move_grid(grid, number % 2 == 1, zoom, turn, shift))
    return grids


def _move_grid(grid: Tensor, mirrored: bool, zoom: float, turn: float, shift: np.ndarray) -> Tensor:
    """The crop turned by `turn` radians and scaled about its centre, then shifted by pixels."""
    side = grid.shape[1]
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    x = -x if mirrored else x
    cos, sin = np.cos(turn) * zoom, np.sin(turn) * zoom
    right = (cos * x - sin * y + shift[0] + (side - 1) / 2)[None, ..., None]
    down = (sin * x + cos * y + shift[1] + (side - 1) / 2)[None, ..., None]
    origin = grid[:, :1, :1]
    step_right = grid[:, :1, 1:2] - origin
    step_down = grid[:, 1:2, :1] - origin
    right, down = (torch.from_numpy(one).to(grid) for one in (right, down))
    return origin + right * step_right + down * step_down


def cut(pictures: Tensor, grid: Tensor) -> Tensor:
    """Crops (B, 3, S, S) of pictures (B or 1, 3, H, W), black outside; differentiable.

    A picture that is much larger than the crop is averaged first, so that every pixel counts: the
    gradient would otherwise reach a few of them, as noise.
    """
    steps = (grid[:, 0, 1] - grid[:, 0, 0]) / 2
    edges = torch.tensor([pictures.shape[-1], pictures.shape[-2]], device=grid.device)
    read = float((steps * edges).norm(dim=-1).min())
    factor = 1
    while read >= 2 * factor and not any(edge % (2 * factor) for edge in edges.tolist()):
        factor *= 2
    if factor > 1:
        pictures = F.avg_pool2d(pictures, factor)
    pictures = pictures.expand(len(grid), -1, -1, -1)
    where = grid.to(pictures.device, pictures.dtype)
    return F.grid_sample(pictures, where, padding_mode="zeros", align_corners=False)
