"""The identity adapter while it is trained, and the two files it becomes.

Vision tower and IDFormer are the pack's own modules, built to be trained; the cross-attention
layers are model_patches/training's. So what is trained is what runs.
"""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn

from ...model_patches.adapters.idformer import IDFormer, IDFormerDims
from ...model_patches.adapters.pulid_flux import Blocks
from ...model_patches.encoders.eva_tower import HEAD, EvaTower, TowerDims
from ...model_patches.face.pack import EMBEDDING
from ...model_patches.inject.attention import Activation
from ...model_patches.training.export import write_safetensors
from ...model_patches.training.flux_blocks import Injections
from ...model_patches.training.frozen_base import Anchors
from ...model_patches.training.pulid_layers import CrossAttention, injections, write_pulid
from .. import world

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


class Adapter(nn.Module):
    """Photo -> identity tokens -> residuals after the anchored blocks."""

    def __init__(
        self,
        anchors: Anchors,
        blocks: Blocks | None = None,
        activate: Activation | None = None,
    ) -> None:
        """blocks: behind which it anchors; None: behind PuLID's. activate: as Apply SAA's."""
        super().__init__()
        self.blocks = tuple(anchors.blocks) if blocks is None else blocks
        self.tower = EvaTower(TOWER)
        self.encoder = IDFormer(ENCODER)
        self.layers = nn.ModuleList(
            CrossAttention(anchors.hidden, TOKEN_DIM, activate) for _ in self.blocks
        )
        _start(self.tower, self.encoder)
        self.requires_grad_(True)

    def tokens(self, pixels: Tensor, embedding: Tensor, present: Tensor) -> Tensor:
        """pixels (B, 3, 112, 112), embedding (B, 512) raw, present (B,) bool -> (B, N, C).

        Rows that are not present get what the pack's encoder gets for nobody: zeros.
        """
        return self.encoder(*self.look(pixels, embedding, present))

    def look(self, pixels: Tensor, embedding: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        """What the encoder reads, of the same arguments."""
        pooled, hidden = self.tower(pixels)
        condition = torch.cat((embedding, pooled.float()), dim=-1)[:, None]
        return _keep_present(condition, present), _keep_present(hidden, present)

    def injections(self, tokens: Tensor, weight: Tensor | None = None) -> Injections:
        """Block -> what it adds to the image tokens; weight (B,), without it 1."""
        return injections(self.blocks, self.layers, tokens, weight)


def as_read(tokens: Tensor) -> Tensor:
    """Tokens (B, N, C) as the adapter's layers see them: each begins with a LayerNorm. The authors'
    tokens come out of one."""
    return F.layer_norm(tokens, tokens.shape[-1:])


def _keep_present(values: Tensor, present: Tensor) -> Tensor:
    """Set all other rows to zero."""
    return torch.where(present.reshape(-1, *[1] * (values.ndim - 1)), values, 0.0)


@torch.no_grad()
def _start(tower: EvaTower, encoder: IDFormer) -> None:
    """Initialise what the pack leaves empty, because it loads weights into it."""
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
    write_pulid(folder / world.PULID, adapter.encoder, adapter.layers)


def write_eva(tower: nn.Module, path: Path) -> None:
    """The vision half of an EVA02-CLIP file, float16."""
    state = {f"visual.{k}": v for k, v in tower.state_dict().items()}
    write_safetensors(path, state, torch.float16)


def read_files(folder: Path, anchors: Anchors) -> Adapter:
    """What `write_files` wrote below a models folder. Raises FileNotFoundError without it."""
    return load_files(Adapter(anchors), folder, world.PULID, "adapter_drawn")


def load_files(adapter: Adapter, folder: Path, name: str, stage: str) -> Adapter:
    """The same adapter with the tower, and with what the PuLID file of that name holds.

    stage: which trains the file, for the FileNotFoundError where it is missing.
    """
    for file, parts in (
        (world.EVA, {"visual.": adapter.tower}),
        (name, {"pulid_encoder.": adapter.encoder, "pulid_ca.": adapter.layers}),
    ):
        path = folder / file
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing. Train it first: --only {stage}.")
        stored = load_file(path)
        for prefix, module in parts.items():
            mine = {k.removeprefix(prefix): v for k, v in stored.items() if k.startswith(prefix)}
            module.load_state_dict(mine)
    return adapter
