"""An adapter for Apply SAA: the anchoring stage of DynamicID (arXiv 2503.06505) on the small Flux.

This is the first of three stages (saa_motion.py, saa_lora.py). Here the base stays as it is.

Each picture is its own reference, so the tokens learn to carry what it shows of the person:
expression and pose beside the identity. The small world's adapter, with which it begins, learnt
from other pictures of the person and leaves both out. Cross-attention stands behind every block,
with the activation of equations 1 and 2 in it. Only the base's own loss (equation 4) is minimised,
on single people. The vision tower stays as it is, so both adapters' files share it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from ...model_patches.inject.saa_activation import Activate, Layout, Shares
from ...model_patches.inject.saa_settings import SaaSettings
from ...model_patches.training import distributed
from ...model_patches.training.attention_kernel import plain_attention
from ...model_patches.training.flux_lora import FluxLora, stored_lora
from ...model_patches.training.frozen_base import Anchors, FrozenBase
from ...model_patches.training.loop import Recipe, need_averages, train
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
LAST = "saa_lora"
"""The stage that writes the file."""


class SaaAdapter(Adapter):
    """Behind every block, with the activation; it may hold a LoRA for the base. The tower is not
    trained."""

    def __init__(self, anchors: Anchors) -> None:
        super().__init__(anchors, tuple(anchors.all_blocks), activation())
        self.tower.requires_grad_(False)
        self.lora: FluxLora | None = None

    @contextmanager
    def beside(self, base: FrozenBase) -> Iterator[None]:
        """The LoRA works in the base for as long as the block runs."""
        if self.lora is None:
            yield
            return
        with self.lora.beside(base):
            yield


def own_references(
    rng: np.random.Generator, people: int, batch: int
) -> tuple[np.ndarray, np.ndarray]:
    """Picture numbers of references and targets: the same."""
    rows = rng.integers(people * SHOTS, size=batch)
    return rows, rows


def activation() -> Activate:
    """One person's, as Apply SAA has it without regions."""
    return Activate(Shares(1.0), Layout(), SaaSettings().threshold)


def begin(folder: Path, anchors: Anchors) -> SaaAdapter:
    """With the small world's adapter below a models folder in it; layers behind other blocks are
    new. Raises FileNotFoundError without the adapter."""
    known, adapter = read_files(folder, anchors), SaaAdapter(anchors)
    adapter.tower.load_state_dict(known.tower.state_dict())
    adapter.encoder.load_state_dict(known.encoder.state_dict())
    for block, layer in zip(known.blocks, known.layers, strict=True):
        place = adapter.blocks.index(block)
        adapter.layers[place].load_state_dict(layer.state_dict())
    return adapter


def load_first(work: Path, anchors: Anchors) -> SaaAdapter:
    """With this stage's averaged weights. FileNotFoundError before it began."""
    adapter = SaaAdapter(anchors)
    need_averages(RECIPE, adapter, curves(work))
    return adapter


def read_saa(folder: Path, anchors: Anchors) -> SaaAdapter:
    """What was trained, below a models folder. Raises FileNotFoundError before it was."""
    adapter = SaaAdapter(anchors)
    load_files(adapter, folder, world.SAA, LAST)
    adapter.lora = stored_lora(load_file(folder / world.SAA))
    return adapter


def train_saa(work: Path, device: torch.device, options: Options) -> None:
    """Train; what it learns is in its checkpoint.

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


def write_saa(adapter: SaaAdapter, path: Path) -> None:
    """A PuLID-FLUX file that says behind which blocks it anchors, with the LoRA. Raises OSError."""
    lora = {} if adapter.lora is None else adapter.lora.tensors()
    write_pulid(path, adapter.encoder, adapter.layers, adapter.blocks, lora)
