"""An adapter for Apply SAA: the anchoring stage of DynamicID (arXiv 2503.06505) on the small Flux.

Each picture is its own reference, so the tokens learn to carry what it shows of the person:
expression and pose beside the identity. The small world's adapter, with which it begins, learnt
from other pictures of the person and leaves both out. Cross-attention stands behind every block,
with the activation of equations 1 and 2 in it. Only the base's own loss (equation 4) is minimised,
on single people. The vision tower stays as it is, so both adapters' files share it.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ...model_patches.inject.saa_activation import Activate, Layout, Shares
from ...model_patches.inject.saa_settings import SaaSettings
from ...model_patches.training import distributed
from ...model_patches.training.attention_kernel import plain_attention
from ...model_patches.training.frozen_base import Anchors, FrozenBase
from ...model_patches.training.loop import Recipe, train
from ...model_patches.training.pulid_layers import write_pulid
from .. import world
from .adapter import Adapter, load_files, read_files
from .adapter_diffusion import AdapterLoss, Examples
from .captions import captions_of
from .data import SHOTS
from .options import Options, curves, models

RECIPE = Recipe(
    "saa",
    steps=1200,
    rate=2e-3,
    warmup=100,
    decay=0.02,
    seed=41,
    # It knows people already, and has to learn motion beside them.
    shares={"encoder": 0.5},
)
BATCH = 32


def own_references(
    rng: np.random.Generator, people: int, batch: int
) -> tuple[np.ndarray, np.ndarray]:
    """Picture numbers of references and targets: the same."""
    rows = rng.integers(people * SHOTS, size=batch)
    return rows, rows


def make_adapter(anchors: Anchors) -> Adapter:
    """Behind every block, with one person's activation as Apply SAA has it without regions."""
    activate = Activate(Shares(1.0), Layout(), SaaSettings().threshold)
    return Adapter(anchors, tuple(anchors.all_blocks), activate)


def begin(folder: Path, anchors: Anchors) -> Adapter:
    """With the small world's adapter below a models folder in it; layers behind other blocks are
    new. The tower is not trained. Raises FileNotFoundError without the adapter."""
    known, adapter = read_files(folder, anchors), make_adapter(anchors)
    adapter.tower.load_state_dict(known.tower.state_dict())
    adapter.encoder.load_state_dict(known.encoder.state_dict())
    for block, layer in zip(known.blocks, known.layers, strict=True):
        place = adapter.blocks.index(block)
        adapter.layers[place].load_state_dict(layer.state_dict())
    adapter.tower.requires_grad_(False)
    return adapter


def read_saa(folder: Path, anchors: Anchors) -> Adapter:
    """What was trained, below a models folder. Raises FileNotFoundError before it was."""
    return load_files(make_adapter(anchors), folder, world.SAA, RECIPE.name)


def train_saa(work: Path, device: torch.device, options: Options) -> None:
    """Train, and write the file below `models`.

    Raises FileNotFoundError, naming the stage, for whatever is not there yet.
    """
    recipe = replace(RECIPE, steps=options.steps or RECIPE.steps)
    base = FrozenBase(models(work) / world.FLUX, device, fast=options.compile)
    examples = Examples(work, captions_of(work, device), device)
    torch.manual_seed(recipe.seed)
    adapter = begin(models(work), base.anchors).to(device)
    batch = distributed.share(options.batch or BATCH)
    loss = AdapterLoss(adapter, base, examples, batch, views=own_references)
    with plain_attention(device):
        train(recipe, adapter, loss, curves(work), device)
    if not distributed.rank():
        write_saa(adapter.cpu(), models(work) / world.SAA)


def write_saa(adapter: Adapter, path: Path) -> None:
    """A PuLID-FLUX file that says behind which blocks it anchors. Raises OSError."""
    write_pulid(path, adapter.encoder, adapter.layers, adapter.blocks)
