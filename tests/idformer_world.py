"""PuLID's encoder at full size with the weights of the golden vectors, and its inputs."""

from __future__ import annotations

from pathlib import Path

import torch
from flexid.model_patches.adapters.idformer import IDFormer, idformer_dims
from seeding import golden_shapes, seeded, seeded_input
from torch import Tensor

PREFIX = "pulid_encoder."


def seeded_idformer(golden: Path, dtype: torch.dtype = torch.float32) -> IDFormer:
    shapes = golden_shapes(golden, "pulid_flux", PREFIX)
    bare = {key.removeprefix(PREFIX): shape for key, shape in shapes.items()}
    module = IDFormer(idformer_dims(bare, "seeded", "the file"), device="meta").eval()
    tensors = {key: seeded(PREFIX + key, shape).to(dtype) for key, shape in bare.items()}
    module.load_state_dict(tensors, strict=True, assign=True)
    return module


def reference(suffix: str = "") -> tuple[Tensor, Tensor]:
    """condition (1, 1, 1280) and hidden (1, 5, 577, 1024) of one reference photo."""
    arcface = seeded_input(f"arcface{suffix}", (1, 512))
    pooled = seeded_input(f"eva_pooled{suffix}", (1, 768))
    pooled = pooled / pooled.norm(dim=-1, keepdim=True)
    levels = [seeded_input(f"eva_hidden{suffix}.{i}", (1, 577, 1024)) for i in range(5)]
    return torch.cat((arcface, pooled), dim=-1)[:, None], torch.stack(levels, dim=1)
