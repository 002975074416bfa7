"""The two networks of DynamicID's motion editing: the Identity-Motion Reconfigurator and its
keypoint encoder. Key names are those of the published files.

Source: DynamicID (arXiv 2503.06505), equations 5 and 6. The published forward pass folds heads into
a tensor that it then takes for an unfolded one, and stops; standard multi-head attention is meant.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .perceiver import PerceiverAttention

HEAD = 64
"""Channels of an attention head; the tensors cannot tell."""
SIDE = 96
"""Pixels a side of a picture of landmarks."""
UNITS = (1, 3, 4, 3, 3, 2, 2)
"""Convolutions of each block of the keypoint encoder."""


@dataclass(frozen=True)
class ImrDims:
    """Sizes: face tokens of `width` channels, `depth` blocks of `dim` on either side, `motion`
    tokens made of `landmarks` and `text` channels."""

    width: int
    dim: int
    inner: int
    hidden: int
    depth: int
    landmarks: int
    text: int
    motion: int
    fused: int
    """Channels between the two layers that fuse landmarks and text."""


class SelfAttention(nn.Module):
    """Tokens (B, N, dim) attend to each other; (B, N, dim), the update."""

    def __init__(self, dim: int, inner: int, operations: Any = nn, **factory: Any) -> None:
        super().__init__()
        self.heads = inner // HEAD
        self.norm1 = operations.LayerNorm(dim, **factory)
        self.to_q = operations.Linear(dim, inner, bias=False, **factory)
        self.to_kv = operations.Linear(dim, 2 * inner, bias=False, **factory)
        self.to_out = operations.Linear(inner, dim, bias=False, **factory)

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = self.norm1(tokens)
        parts = (self.to_q(tokens), *self.to_kv(tokens).chunk(2, dim=-1))
        q, k, v = (x.unflatten(-1, (self.heads, -1)).transpose(1, 2) for x in parts)
        out = F.scaled_dot_product_attention(q, k, v)
        return self.to_out(out.transpose(1, 2).flatten(2))


class MotionBlock(nn.ModuleList):
    """Tokens read motion, then each other, then a feed-forward part; all are added to them."""

    def __init__(self, dims: ImrDims, operations: Any = nn, **factory: Any) -> None:
        dim = dims.dim
        super().__init__(
            (
                PerceiverAttention(dim, dims.inner // HEAD, HEAD, operations, **factory),
                SelfAttention(dim, dims.inner, operations, **factory),
                nn.Sequential(
                    operations.LayerNorm(dim, **factory),
                    operations.Linear(dim, dims.hidden, bias=False, **factory),
                    nn.GELU(),
                    operations.Linear(dims.hidden, dim, bias=False, **factory),
                ),
            )
        )

    def forward(self, tokens: Tensor, motion: Tensor) -> Tensor:
        cross, own, feed_forward = self
        tokens = tokens + cross(tokens, motion)
        tokens = tokens + own(tokens)
        return tokens + feed_forward(tokens)


class Reconfigurator(nn.Module):
    """Takes one motion out of face tokens, and puts others in."""

    def __init__(self, dims: ImrDims, operations: Any = nn, **factory: Any) -> None:
        super().__init__()
        self.dims = dims
        dim, read = dims.dim, dims.landmarks + dims.text
        self.feature_fusion = nn.Sequential(
            operations.LayerNorm(read, **factory),
            operations.Linear(read, dims.fused, **factory),
            nn.GELU(),
            operations.LayerNorm(dims.fused, **factory),
            operations.Linear(dims.fused, dims.motion * dim, **factory),
            nn.GELU(),
        )
        self.norm_in = operations.LayerNorm(dims.width, **factory)
        self.proj_in = operations.Linear(dims.width, dim, **factory)
        self.norm_out = operations.LayerNorm(dim, **factory)
        self.proj_out = operations.Linear(dim, dims.width, **factory)
        self.disentangleNet, self.entangleNet = (
            nn.ModuleList(MotionBlock(dims, operations, **factory) for _ in range(dims.depth))
            for _ in range(2)
        )

    def fuse(self, landmarks: Tensor, text: Tensor) -> Tensor:
        """Equation 5: (B, landmarks), (B, text) -> motion tokens (B, motion, dim)."""
        fused = self.feature_fusion(torch.cat((landmarks, text), dim=-1))
        return fused.unflatten(-1, (self.dims.motion, self.dims.dim))

    def disentangle(self, tokens: Tensor, source: Tensor) -> Tensor:
        """Face tokens (1, N, width) without their motion (1, motion, dim): (1, N, dim)."""
        tokens = self.proj_in(self.norm_in(tokens))
        for block in self.disentangleNet:
            tokens = block(tokens, source)
        return tokens

    def entangle(self, identity: Tensor, targets: Tensor) -> Tensor:
        """(1, N, dim) with each motion of targets (T, motion, dim): (T, N, width)."""
        tokens = identity.expand(len(targets), -1, -1)
        for block in self.entangleNet:
            tokens = block(tokens, targets)
        return self.proj_out(self.norm_out(tokens))

    def forward(self, tokens: Tensor, source: Tensor, targets: Tensor) -> Tensor:
        """Equation 6: tokens (1, N, width), motions (1 or T, motion, dim) -> (T, N, width)."""
        return self.entangle(self.disentangle(tokens, source), targets)


def as_seen(pictures: Tensor) -> Tensor:
    """Pictures of landmarks (B, 96, 96) uint8 -> (B, 1, 96, 96) float32 of -1 and 1."""
    return (pictures.unsqueeze(1).float() / 255 - 0.5) / 0.5


class ConvUnit(nn.Module):
    """Convolution and BatchNorm; with `residual` the input is added; then ReLU."""

    def __init__(
        self,
        sizes: tuple[int, int, int],
        stride: int,
        padding: int,
        residual: bool,
        operations: Any = nn,
        **factory: Any,
    ) -> None:
        super().__init__()
        before, after, kernel = sizes
        self.residual = residual
        conv = operations.Conv2d(before, after, kernel, stride, padding, **factory)
        self.conv_block = nn.Sequential(conv, nn.BatchNorm2d(after, **factory))

    def forward(self, picture: Tensor) -> Tensor:
        out = self.conv_block(picture)
        return F.relu(out + picture if self.residual else out)


class KeypointEncoder(nn.Module):
    """Pictures of landmarks (B, 1, 96, 96) of -1 and 1 -> features (B, channels).

    kernels: (before, after, kernel) of each unit, block by block.
    """

    def __init__(
        self,
        kernels: Sequence[Sequence[tuple[int, int, int]]],
        operations: Any = nn,
        **factory: Any,
    ) -> None:
        super().__init__()
        last = len(kernels) - 1
        self.blocks = nn.ModuleList(
            nn.ModuleList(
                ConvUnit(
                    sizes,
                    2 if number == 0 and 0 < block < last else 1,
                    0 if block == last else sizes[2] // 2,
                    number > 0 and block < last,
                    operations,
                    **factory,
                )
                for number, sizes in enumerate(units)
            )
            for block, units in enumerate(kernels)
        )

    def forward(self, pictures: Tensor) -> Tensor:
        for units in self.blocks.children():
            for unit in units.children():
                pictures = unit(pictures)
        return pictures.flatten(1)
