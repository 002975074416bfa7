"""The identity adapter while it is trained, and the two files it becomes.

Vision tower and IDFormer are the pack's own modules, built to be trained; the cross-attention is
the pack's definition on trained weights. So what is trained is what runs.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from ...model_patches.adapters.idformer import IDFormer, IDFormerDims
from ...model_patches.encoders.eva_tower import HEAD, EvaTower, TowerDims
from ...model_patches.face.pack import EMBEDDING
from ...model_patches.inject.attention import cross_attention
from ...model_patches.training.export import write_safetensors
from ...model_patches.training.flux_blocks import Injections
from ...model_patches.training.frozen_base import Anchors
from .. import world
from ..random_adapter import HEADS_KEY

TOWER = TowerDims(width=128, depth=6, patch=14, grid=8, mlp=320, output=128)
TOKEN_DIM = 256
ENCODER = IDFormerDims(
    queries=16,
    dim=128,
    output=TOKEN_DIM,
    layers=5,
    groups=5,
    inner=2 * HEAD,
    hidden=512,
    id_tokens=4,
    condition=EMBEDDING + TOWER.output,
    vision=TOWER.width,
)
HEAD_WIDTH = 128
QUIET = 0.1
"""The cross-attention's first outputs, as a share of ordinary ones: training starts at the base."""


class CrossAttention(nn.Module):
    """One layer under the file's names; identity tokens and image tokens -> residual."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.heads = hidden // HEAD_WIDTH
        self.norm1 = nn.LayerNorm(TOKEN_DIM)
        self.norm2 = nn.LayerNorm(hidden)
        self.to_q = nn.Linear(hidden, hidden, bias=False)
        self.to_kv = nn.Linear(TOKEN_DIM, 2 * hidden, bias=False)
        self.to_out = nn.Linear(hidden, hidden, bias=False)
        with torch.no_grad():
            self.to_out.weight.mul_(QUIET)

    def forward(self, tokens: Tensor, image: Tensor) -> Tensor:
        return cross_attention(dict(self.named_parameters()), self.heads, tokens, image)


class Adapter(nn.Module):
    """Photo -> identity tokens -> residuals after the anchored blocks."""

    def __init__(self, anchors: Anchors) -> None:
        super().__init__()
        self.anchors = anchors
        self.tower = EvaTower(TOWER)
        self.encoder = IDFormer(ENCODER)
        self.layers = nn.ModuleList(CrossAttention(anchors.hidden) for _ in anchors.blocks)
        _start(self.tower, self.encoder)
        self.requires_grad_(True)

    def tokens(self, pixels: Tensor, embedding: Tensor, present: Tensor) -> Tensor:
        """pixels (B, 3, 112, 112), embedding (B, 512) raw, present (B,) bool -> (B, N, C).

        Rows that are not present get what the pack's encoder gets for nobody: zeros.
        """
        pooled, hidden = self.tower(pixels)
        condition = torch.cat((embedding, pooled.float()), dim=-1)[:, None]
        return self.encoder(_only(condition, present), _only(hidden, present))

    def injections(self, tokens: Tensor, weight: Tensor | None = None) -> Injections:
        """Block -> what it adds to the image tokens; weight (B,), without it 1."""
        return {
            block: partial(_weighted, layer, tokens, weight)
            for block, layer in zip(self.anchors.blocks, self.layers, strict=True)
        }


def _weighted(
    layer: CrossAttention, tokens: Tensor, weight: Tensor | None, image: Tensor
) -> Tensor:
    residual = layer(tokens, image)
    return residual if weight is None else residual * weight[:, None, None].to(residual.dtype)


def _only(values: Tensor, present: Tensor) -> Tensor:
    """Zero in the other rows, whatever stands there."""
    return torch.where(present.reshape(-1, *[1] * (values.ndim - 1)), values, 0.0)


@torch.no_grad()
def _start(tower: EvaTower, encoder: IDFormer) -> None:
    """What the pack leaves empty because it loads it."""
    for parameter in (tower.cls_token, tower.pos_embed):
        nn.init.normal_(parameter, std=0.02)
    for block in tower.blocks:
        nn.init.zeros_(block.attn.q_bias)
        nn.init.zeros_(block.attn.v_bias)
    nn.init.normal_(encoder.latents, std=ENCODER.dim**-0.5)
    nn.init.normal_(encoder.proj_out, std=ENCODER.dim**-0.5)


def write_files(adapter: Adapter, folder: Path) -> None:
    """Both files, below a models folder."""
    write_eva(adapter.tower, folder / world.EVA)
    write_pulid(adapter, folder / world.PULID)


def write_eva(tower: nn.Module, path: Path) -> None:
    """The vision half of an EVA02-CLIP file, float16."""
    state = {f"visual.{k}": v for k, v in tower.state_dict().items()}
    write_safetensors(path, state, torch.float16)


def write_pulid(adapter: Adapter, path: Path) -> None:
    """A PuLID-FLUX file, bfloat16, with the number of heads in its metadata."""
    tensors = {f"pulid_encoder.{k}": v for k, v in adapter.encoder.state_dict().items()}
    tensors |= {f"pulid_ca.{k}": v for k, v in adapter.layers.state_dict().items()}
    write_safetensors(path, tensors, torch.bfloat16, {HEADS_KEY: str(adapter.layers[0].heads)})


def read_files(folder: Path, anchors: Anchors) -> Adapter:
    """What `write_files` wrote below a models folder. Raises FileNotFoundError without it."""
    adapter = Adapter(anchors)
    for name, parts in (
        (world.EVA, {"visual.": adapter.tower}),
        (world.PULID, {"pulid_encoder.": adapter.encoder, "pulid_ca.": adapter.layers}),
    ):
        path = folder / name
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing. Train it first: --only adapter_drawn.")
        stored = load_file(path)
        for prefix, module in parts.items():
            mine = {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)}
            module.load_state_dict(mine)
    return adapter
