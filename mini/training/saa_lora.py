"""The last stage of SAA's adapter: a LoRA on the small Flux's own attention learns beside it, as in
DynamicID's anchoring (arXiv 2503.06505), and expression and pose come from the tokens.

Most captions say nothing of either here, so that the tokens must. The base's own loss alone is too
noisy a teacher for that within these steps: what a picture shows is a small part of its error. So
the base of the first stage is the teacher. It reads the caption as it was written, the words for
expression and pose included, and what is trained should predict the same without them. That is
beyond the paper, like the reader that IDFormer keeps, so that the tokens go on telling both. In the
first part of the run attention is plain, then every other step: Apply VFA and Apply SAA both draw
with this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ...model_patches.training import distributed
from ...model_patches.training.attention_kernel import plain_attention
from ...model_patches.training.flow import add_noise, early_sigmas
from ...model_patches.training.flux_lora import FluxLora, attention_shapes
from ...model_patches.training.frozen_base import FrozenBase
from ...model_patches.training.loop import Recipe, train
from .. import world
from ..portraits.captions import hide_motion
from .adapter_diffusion import Examples, drops
from .adapter_tokens import damage
from .captions import captions_of
from .data import SHOTS
from .identity_inputs import tower_input
from .options import Options, curves, models
from .saa import LAST, SaaAdapter, activation, load_first, write_saa
from .saa_motion import Taught, Truth, load_taught
from .text_model import Tokens, tokens

RECIPE = Recipe(
    LAST,
    steps=1000,
    rate=2e-3,
    warmup=50,
    decay=0.02,
    average=0.99,
    seed=41,
    # At a higher rate the tokens lose what they tell of a head's turn.
    shares={"adapter.encoder": 0.1, "adapter.lora": 0.5, "reader": 0.1},
)
BATCH = 16
UNSAID = Path("data/singles/tokens_unsaid.npz")
"""Cache of the captions without those words, below the working folder."""
RANK = 32
HIDDEN = 0.8
"""Share of the captions without their words for expression and pose."""
PLAIN = 0.6
"""Share of the run in which attention is always plain."""
EARLY = 0.35
"""Evenly spread chances to this power are the sigmas: motion is decided where noise is most."""
TEACHER, OWN, READ = 5.0, 0.2, 0.1
"""Weights: of the distance to the teacher, of the base's own loss, and of the reader's error."""


class LoraLoss:
    """What the loop minimises."""

    def __init__(
        self,
        taught: Taught,
        teacher: SaaAdapter,
        base: FrozenBase,
        examples: Examples,
        unsaid: Tokens,
        batch: int,
        steps: int,
    ) -> None:
        """taught: with a LoRA; teacher: the first stage's adapter, frozen; unsaid: all captions
        without their words for expression and pose; batch: of a process."""
        self.taught, self.teacher, self.base = taught, teacher, base
        self.examples, self.unsaid = examples, unsaid
        self.batch, self.steps = batch, steps
        self.truth = Truth(examples.data, examples.inputs, base.device)
        self.activate = activation()

    def __call__(self, step: int, rng: np.random.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        rows = rng.integers(len(self.examples.data) // SHOTS * SHOTS, size=self.batch)
        wordless, nobody = drops(rng, self.batch)
        hidden = (rng.random(self.batch) < HIDDEN) & ~nobody
        sigma = early_sigmas(rng, self.batch, EARLY).to(self.base.device)
        noisy, wanted = add_noise(self.examples.targets(rows), sigma)
        self.choose_attention(step)
        adapter, weights = self.taught.adapter, self.examples.weights(rows)
        seen = self.look(rows, ~nobody)
        said = self.examples.captions(rows, wordless)
        with torch.no_grad():
            theirs = self.teacher.injections(self.teacher.encoder(*seen))
            shown = self.base.velocity(noisy, sigma, *said, theirs)
        made = adapter.encoder(*seen)
        silent = self.examples.captions(rows, wordless, self.unsaid, hidden)
        with adapter.beside(self.base):
            found = self.base.velocity(noisy, sigma, *silent, adapter.injections(made))
        apart = ((found - shown).square() * weights).mean()
        own = ((found - wanted).square() * weights).mean()
        there = torch.from_numpy(~nobody).to(self.base.device)
        missed, told = self.truth.errors(self.taught.reader(made[there]), rows[~nobody])
        loss = TEACHER * apart + OWN * own + READ * missed
        return loss, {"apart": apart.detach(), "velocity": own.detach(), **told}

    def choose_attention(self, step: int) -> None:
        """Plain, or with the activation, for the teacher as well."""
        plain = step < PLAIN * self.steps or step % 2 == 0
        for layer in (*self.taught.adapter.layers, *self.teacher.layers):
            layer.activate = None if plain else self.activate

    @torch.no_grad()
    def look(self, rows: np.ndarray, present: np.ndarray) -> tuple[Tensor, Tensor]:
        """What both encoders read of these pictures; the tower is not trained."""
        inputs, device = self.examples.inputs, self.base.device
        pixels = tower_input(damage(inputs.grey(rows).to(device)))
        there = torch.from_numpy(present).to(device)
        return self.teacher.look(pixels, inputs.embedding(rows).to(device), there)


def train_lora(work: Path, device: torch.device, options: Options) -> None:
    """Train from both stages before, and write the file below `models`.

    Raises FileNotFoundError, naming the stage, for whatever is not there yet.
    """
    recipe = replace(RECIPE, steps=options.steps or RECIPE.steps)
    base = FrozenBase(models(work) / world.FLUX, device)
    examples = Examples(work, captions_of(work, device), device)
    taught, teacher = load_taught(work, base.anchors), load_first(work, base.anchors)
    torch.manual_seed(recipe.seed)
    adapter = taught.adapter
    adapter.lora = FluxLora(attention_shapes(base.net), RANK)
    adapter.layers.requires_grad_(True)
    teacher.to(device).requires_grad_(False).eval()
    batch = distributed.share(options.batch or BATCH)
    unsaid = tokens(list(map(hide_motion, examples.data.caption)), work / UNSAID)
    loss = LoraLoss(taught.to(device), teacher, base, examples, unsaid, batch, recipe.steps)
    with plain_attention(device):
        train(recipe, taught, loss, curves(work), device)
    if not distributed.rank():
        write_saa(adapter.cpu(), models(work) / world.SAA)
