"""FaceCLIP's face transformer: 112 px crop -> patch tokens (and, with its head, one vector).

The plain pre-norm ViT of insightface's ArcFace training (patch 9, ReLU6, no class token). Key names
are those of the published files after `face_encoder.`. Source: github.com/bytedance/FaceCLIP.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..files.checks import Shapes, count_layers, shape_of

HEADS = 8
IMAGE = 112
NORM_EPS = 2e-5


@dataclass(frozen=True)
class VitDims:
    """Sizes: `width` channels, `depth` blocks, `patch` px, `tokens` patches, `output` classes."""

    width: int
    depth: int
    mlp: int
    patch: int
    tokens: int
    output: int
    """Width of the head's vector; 0 for a tower without head."""
    heads: int = HEADS


def vit_dims(shapes: Shapes, what: str, wanted: str, heads: int = HEADS) -> VitDims:
    """Read the sizes off the tensors (keys without `face_encoder.`). Raises ValueError."""
    width, channels, patch, _ = shape_of(shapes, "patch_embed.proj.weight", 4, what, wanted)
    tokens = shape_of(shapes, "pos_embed", 3, what, wanted)[1]
    mlp = shape_of(shapes, "blocks.0.mlp.fc1.weight", 2, what, wanted)[0]
    output = 0
    if "feature.2.weight" in shapes:
        output = shape_of(shapes, "feature.2.weight", 2, what, wanted)[0]
    problems = [
        (channels != 3, f"{channels} input channels, expected 3"),
        (width % heads, f"width {width} does not divide into {heads} heads"),
        ((IMAGE // patch) ** 2 != tokens, f"{tokens} positions for patches of {patch} px"),
    ]
    for wrong, text in problems:
        if wrong:
            raise ValueError(f"{what} has an unusable face encoder: {text}. Use {wanted}.")
    depth = count_layers(shapes, "blocks.", what, wanted)
    return VitDims(width, depth, mlp, patch, tokens, output, heads)


class FaceVit(nn.Module):
    """RGB in [0, 1] (B, 3, S, S), any S -> patch tokens (B, tokens, width).

    With a head also the class vector (B, output), not normalised.
    """

    def __init__(self, dims: VitDims, operations: Any = nn, **factory: Any) -> None:
        super().__init__()
        self.dims = dims
        width = dims.width
        proj = operations.Conv2d(3, width, dims.patch, stride=dims.patch, **factory)
        self.patch_embed = nn.ModuleDict({"proj": proj})
        empty = torch.empty(1, dims.tokens, width, **factory)
        self.pos_embed = nn.Parameter(empty, requires_grad=False)
        self.blocks = nn.ModuleList(_Block(dims, operations, **factory) for _ in range(dims.depth))
        self.norm = operations.LayerNorm(width, **factory)
        self.feature = _make_head(dims, operations, **factory) if dims.output else None

    def forward(self, picture: Tensor) -> tuple[Tensor, Tensor | None]:
        size = (IMAGE, IMAGE)
        if picture.shape[-2:] != size:  # as the authors shrink their 448 px crops
            picture = F.interpolate(picture, size, mode="bilinear", align_corners=False)
        x = self.patch_embed["proj"](picture).flatten(2).transpose(1, 2)
        x = x + self.pos_embed.to(x)
        for block in self.blocks:
            x = block(x)
        patches = self.norm(x)
        return patches, None if self.feature is None else self.feature(patches.flatten(1))


def _make_head(dims: VitDims, operations: Any, **factory: Any) -> nn.Sequential:
    width = dims.width
    return nn.Sequential(
        operations.Linear(dims.tokens * width, width, bias=False, **factory),
        _BatchNorm(width, **factory),
        operations.Linear(width, dims.output, bias=False, **factory),
        _BatchNorm(dims.output, **factory),
    )


class _BatchNorm(nn.Module):
    """Batch norm at inference, an affine map by the stored statistics, in float32."""

    weight: Tensor
    bias: Tensor
    running_mean: Tensor
    running_var: Tensor

    def __init__(self, width: int, **factory: Any) -> None:
        super().__init__()
        for name in ("weight", "bias"):
            empty = torch.empty(width, **factory)
            setattr(self, name, nn.Parameter(empty, requires_grad=False))
        for name in ("running_mean", "running_var"):
            self.register_buffer(name, torch.empty(width, **factory))

    def forward(self, x: Tensor) -> Tensor:
        parts = (self.weight, self.bias, self.running_mean, self.running_var)
        weight, bias, mean, var = (part.to(x.device, torch.float32) for part in parts)
        return ((x.float() - mean) * torch.rsqrt(var + NORM_EPS) * weight + bias).to(x.dtype)


class _Block(nn.Module):
    def __init__(self, dims: VitDims, operations: Any, **factory: Any) -> None:
        super().__init__()
        width = dims.width
        self.heads = dims.heads
        self.norm1 = operations.LayerNorm(width, **factory)
        self.norm2 = operations.LayerNorm(width, **factory)
        self.attn = nn.ModuleDict(
            {
                "qkv": operations.Linear(width, 3 * width, bias=False, **factory),
                "proj": operations.Linear(width, width, **factory),
            }
        )
        self.mlp = nn.ModuleDict(
            {
                "fc1": operations.Linear(width, dims.mlp, **factory),
                "fc2": operations.Linear(dims.mlp, width, **factory),
            }
        )

    def forward(self, x: Tensor) -> Tensor:
        qkv = self.attn["qkv"](self.norm1(x)).unflatten(-1, (3, self.heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.attn["proj"](attended)
        return x + self.mlp["fc2"](F.relu6(self.mlp["fc1"](self.norm2(x))))
