"""The EVA02-CLIP vision transformer that PuLID reads faces with.

Pre-norm blocks with SwiGLU and sub-norms, 2-D rotary positions on top of learned ones, five taps
on the residual stream. Key names are those of the published file after `visual.`.
Sources: EVA-02 (arXiv 2303.11331), EVA-CLIP (arXiv 2303.15389).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..files.checks import Shapes, count_layers, shape_of

HEAD = 64
TRAINED_GRID = 16
TAPS = 5
EPS = 1e-6


@dataclass(frozen=True)
class TowerDims:
    """Sizes of a tower: `width` channels, `depth` blocks, `grid` patches of `patch` px a side."""

    width: int
    depth: int
    patch: int
    grid: int
    mlp: int
    output: int

    @property
    def heads(self) -> int:
        return self.width // HEAD

    @property
    def image_size(self) -> int:
        """Side of the square input in pixels."""
        return self.patch * self.grid

    @property
    def tokens(self) -> int:
        """Patch tokens plus the class token."""
        return self.grid * self.grid + 1

    @property
    def taps(self) -> tuple[int, ...]:
        """Blocks whose input is handed out, shallow to deep: sixths of the depth."""
        return tuple(self.depth * k // (TAPS + 1) for k in range(1, TAPS + 1))


def tower_dims(shapes: Shapes, what: str, wanted: str) -> TowerDims:
    """Read the sizes off the tensors (keys without `visual.`). Raises ValueError."""
    width, channels, patch, _ = shape_of(shapes, "patch_embed.proj.weight", 4, what, wanted)
    tokens = shape_of(shapes, "pos_embed", 3, what, wanted)[1]
    mlp = shape_of(shapes, "blocks.0.mlp.w1.weight", 2, what, wanted)[0]
    output = shape_of(shapes, "head.weight", 2, what, wanted)[0]
    depth = count_layers(shapes, "blocks.", what, wanted)
    grid = round((tokens - 1) ** 0.5)
    problems = [
        (width % HEAD, f"width {width} is not a multiple of {HEAD}"),
        (channels != 3, f"the input has {channels} channels, expected 3"),
        (grid * grid + 1 != tokens, f"{tokens} positions are not a square grid plus one"),
        (depth < TAPS + 1, f"{depth} blocks, expected at least {TAPS + 1}"),
    ]
    for wrong, text in problems:
        if wrong:
            raise ValueError(f"{what} has an unusable geometry: {text}. Use {wanted}.")
    return TowerDims(width, depth, patch, grid, mlp, output)


def rope_tables(grid: int, device: torch.device | None = None) -> tuple[Tensor, Tensor]:
    """Cosine and sine, each (grid², 64) float32, rows then columns of the patch grid.

    Always float32: rounding these to bf16 moves the hidden states by up to 2.5e-2.
    """
    half = HEAD // 2
    frequency = 10000 ** (-torch.arange(0, half, 2, dtype=torch.float32, device=device) / half)
    position = torch.arange(grid, dtype=torch.float32, device=device) * (TRAINED_GRID / grid)
    angle = (position[:, None] * frequency).repeat_interleave(2, dim=1)
    rows = angle[:, None, :].expand(grid, grid, half)
    columns = angle[None, :, :].expand(grid, grid, half)
    angle = torch.cat((rows, columns), dim=-1).reshape(grid * grid, HEAD)
    return angle.cos(), angle.sin()


def _rotate(x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate (B, heads, T, 64) by position; the class token at index 0 stays."""
    cls, patches = x[:, :, :1], x[:, :, 1:].float()
    a, b = patches.unflatten(-1, (-1, 2)).unbind(-1)
    turned = torch.stack((-b, a), dim=-1).flatten(-2)
    patches = patches * rope[0] + turned * rope[1]
    return torch.cat((cls, patches.to(x.dtype)), dim=2)


class Attention(nn.Module):
    """Self-attention with rotary positions and a norm before the output projection."""

    def __init__(self, dims: TowerDims, operations: Any, **factory: Any) -> None:
        super().__init__()
        width = dims.width
        self.heads = dims.heads
        self.q_proj = operations.Linear(width, width, bias=False, **factory)
        self.k_proj = operations.Linear(width, width, bias=False, **factory)
        self.v_proj = operations.Linear(width, width, bias=False, **factory)
        self.q_bias = nn.Parameter(torch.empty(width, **factory), requires_grad=False)
        self.v_bias = nn.Parameter(torch.empty(width, **factory), requires_grad=False)
        self.inner_attn_ln = operations.LayerNorm(width, eps=EPS, **factory)
        self.proj = operations.Linear(width, width, **factory)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        q = self._split_heads(self.q_proj(x) + self.q_bias.to(x))
        k = self._split_heads(self.k_proj(x))
        v = self._split_heads(self.v_proj(x) + self.v_bias.to(x))
        out = F.scaled_dot_product_attention(_rotate(q, rope), _rotate(k, rope), v)
        return self.proj(self.inner_attn_ln(out.transpose(1, 2).flatten(2)))

    def _split_heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, HEAD)).transpose(1, 2)


class SwiGLU(nn.Module):
    """Gated feed-forward with a norm on the gated values."""

    def __init__(self, dims: TowerDims, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.w1 = operations.Linear(dims.width, dims.mlp, **factory)
        self.w2 = operations.Linear(dims.width, dims.mlp, **factory)
        self.ffn_ln = operations.LayerNorm(dims.mlp, eps=EPS, **factory)
        self.w3 = operations.Linear(dims.mlp, dims.width, **factory)

    def forward(self, x: Tensor) -> Tensor:
        return self.w3(self.ffn_ln(F.silu(self.w1(x)) * self.w2(x)))


class Block(nn.Module):
    """One pre-norm transformer block."""

    def __init__(self, dims: TowerDims, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.norm1 = operations.LayerNorm(dims.width, eps=EPS, **factory)
        self.attn = Attention(dims, operations, **factory)
        self.norm2 = operations.LayerNorm(dims.width, eps=EPS, **factory)
        self.mlp = SwiGLU(dims, operations, **factory)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor]) -> Tensor:
        x = x + self.attn(self.norm1(x), rope)
        return x + self.mlp(self.norm2(x))


class EvaTower(nn.Module):
    """Normalised pixels (B, 3, S, S) -> unit-norm pooled (B, output), taps (B, 5, T, width)."""

    def __init__(self, dims: TowerDims, operations: Any = nn, **factory: Any) -> None:
        super().__init__()
        self.dims = dims
        width, patch = dims.width, dims.patch
        proj = operations.Conv2d(3, width, patch, stride=patch, **factory)
        self.patch_embed = nn.ModuleDict({"proj": proj})
        self.cls_token = nn.Parameter(torch.empty(1, 1, width, **factory), requires_grad=False)
        self.pos_embed = nn.Parameter(
            torch.empty(1, dims.tokens, width, **factory), requires_grad=False
        )
        self.blocks = nn.ModuleList(Block(dims, operations, **factory) for _ in range(dims.depth))
        self.norm = operations.LayerNorm(width, eps=EPS, **factory)
        self.head = operations.Linear(width, dims.output, **factory)

    def embed(self, pixels: Tensor) -> Tensor:
        """Patches in row-major order behind the class token, learned positions added."""
        patches = self.patch_embed["proj"](pixels).flatten(2).transpose(1, 2)
        cls = self.cls_token.to(patches).expand(len(patches), -1, -1)
        return torch.cat((cls, patches), dim=1) + self.pos_embed.to(patches)

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        rope = rope_tables(self.dims.grid, pixels.device)
        taps = []
        x = self.embed(pixels)
        for index, block in enumerate(self.blocks):
            if index in self.dims.taps:
                taps.append(x)
            x = block(x, rope)
        pooled = self.head(self.norm(x)[:, 0])
        return pooled / pooled.norm(dim=-1, keepdim=True), torch.stack(taps, dim=1)
