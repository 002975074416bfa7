"""Trains the semantic projector: the frozen base reads the changed text and draws the person.

Second stage, behind `sip_face.py`. As the adapter it learns on one step's error, and on whole drawn
pictures, of which the recogniser says who they show. References and targets are drawn freely, never
from one sitting: what both have in common is the person. In some of the pictures the adapter draws
the person, too, as in a graph with both; there above all a residual drowns what else the text says,
so a critic compares each picture with the one without it. α spans what the pack uses (0.1, and 0.05
to 0.15 under the context-aware gate), and a little more.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...model_patches.training import distributed
from ...model_patches.training.attention_kernel import plain_attention
from ...model_patches.training.flow import add_noise, early_sigmas
from ...model_patches.training.flux_blocks import Injections
from ...model_patches.training.frozen_base import FrozenBase
from ...model_patches.training.loop import Recipe, load_averages, train
from .. import world
from .adapter import Adapter, read_files
from .adapter_diffusion import Examples, strangers
from .adapter_drawn import WEIGHT
from .captions import captions_of
from .critic import Critic, open_critic
from .data import SHOTS, Portraits
from .drawing import Drawing, open_drawing
from .options import Options, curves, models
from .sip import Projector, write_face_t5
from .sip_face import Described, FaceReader, load_face, new_reader, soften

RECIPE = Recipe("sip", steps=763, rate=2e-3, warmup=40, decay=0.02, average=0.99, seed=23)
BATCH = 128
"""Examples of a step, and as many drawn pictures."""
ALPHAS = (0.05, 0.2)
CONTENT = 0.5
"""Share of rows where only the written tokens move, as with scope "content"."""
BESIDE, WEIGHTS = 0.6, (0.5, 1.0)
"""Share of the pictures with the adapter at work, and its weight in them."""
STRAYED = 0.3
"""Weight of the critic's loss."""
DESCRIBED = 0.1
"""Weight of the first stage's loss."""


class Taught(nn.Module):
    """The projector, and the reader of its face tokens."""

    def __init__(self, width: int, reader: FaceReader) -> None:
        super().__init__()
        self.projector, self.teller = Projector(width, reader.face), reader.teller


class Company:
    """The trained adapter, which the projector works beside in a graph."""

    def __init__(self, adapter: Adapter, examples: Examples) -> None:
        self.adapter = adapter.requires_grad_(False).to(examples.device)
        self.examples = examples

    @torch.no_grad()
    def injections(self, rows: np.ndarray, weight: Tensor) -> tuple[Injections, Injections]:
        """Of the people in these pictures at weights (B,); and of nobody, for CFG's negatives."""
        inputs, device = self.examples.inputs, self.examples.device
        pixels, embedding = inputs.tower(rows).to(device), inputs.embedding(rows).to(device)
        present = torch.ones(len(rows), dtype=torch.bool, device=device)
        somebody = self.adapter.tokens(pixels, embedding, present)
        # The same for every row: of nobody the encoder reads zeros.
        nobody = self.adapter.tokens(pixels[:1], embedding[:1], ~present[:1]).expand_as(somebody)
        return self.adapter.injections(somebody, weight), self.adapter.injections(nobody, weight)


class SipLoss:
    """What the loop minimises."""

    def __init__(
        self, module: Taught, drawing: Drawing, company: Company, critic: Critic, batch: int
    ) -> None:
        self.module, self.drawing, self.batch = module, drawing, batch
        self.company, self.critic = company, critic
        self.base, self.examples = drawing.base, drawing.examples
        self.described = Described(self.examples.data, self.base.device)

    def __call__(self, step: int, rng: np.random.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        reference, target = strangers(rng, len(self.examples.data) // SHOTS, self.batch)
        pixels = soften(self.examples.inputs.face(reference).to(self.base.device))
        patches = self.module.projector.patches(pixels)
        described = self.described(self.module.teller(patches), reference)
        velocity = self.velocity(patches, target, rng)
        drawn = self.drawn_losses(patches, reference, target, rng)
        loss = velocity + WEIGHT * (1 - drawn["alike"])
        loss = loss + STRAYED * drawn["strayed"] + DESCRIBED * described
        shown = {"described": described, "velocity": velocity, **drawn}
        return loss, {name: value.detach() for name, value in shown.items()}

    def velocity(self, patches: Tensor, target: np.ndarray, rng: np.random.Generator) -> Tensor:
        """The second stage's loss of the adapter, with the direction on the prompt instead."""
        text, pooled = self.examples.captions(target, np.zeros(len(target), bool))
        edited = self.edit_text(patches, text, target, rng)
        sigma = early_sigmas(rng, len(target)).to(self.base.device)
        noisy, wanted = add_noise(self.examples.targets(target), sigma)
        errors = (self.base.velocity(noisy, sigma, edited, pooled, {}) - wanted).square()
        return (errors * self.examples.weights(target)).mean()

    def drawn_losses(
        self, patches: Tensor, reference: np.ndarray, target: np.ndarray, rng: np.random.Generator
    ) -> dict[str, Tensor]:
        """Of new pictures by the targets' captions: their mean cosine, what the residual adds to
        it, and how far they stray from the same pictures without it."""
        count = len(target)
        beside = (rng.random(count) < BESIDE) * rng.uniform(*WEIGHTS, count)
        weight = torch.from_numpy(beside).float().to(self.base.device)
        injections = self.company.injections(reference, weight)
        said, unsaid = self.drawing.captions(target, *injections)
        noise = self.drawing.noise(target)
        with torch.no_grad():
            plain = self.drawing(noise, said, unsaid)
        edited = self.edit_text(patches, said.text, target, rng)
        drawn = self.drawing(noise, replace(said, text=edited), unsaid)
        alike = self.drawing.measure_likeness(drawn, target)
        gained = alike.detach() - self.drawing.measure_likeness(plain, target)
        strayed = self.critic(plain, drawn)
        return {"alike": alike.mean(), "gained": gained.mean(), "strayed": strayed}

    def edit_text(
        self, patches: Tensor, text: Tensor, target: np.ndarray, rng: np.random.Generator
    ) -> Tensor:
        """The targets' captions, by an α and in a scope of chance."""
        device = self.base.device
        everywhere = torch.from_numpy(rng.random((len(target), 1)) >= CONTENT).to(device)
        scope = self.examples.captions.written_mask(target) | everywhere
        alpha = torch.from_numpy(rng.uniform(*ALPHAS, len(target))).float().to(device)
        return self.module.projector.add_direction(patches, text.float(), scope, alpha)


def train_sip(work: Path, device: torch.device, options: Options) -> None:
    """Train and write the file below `models`. FileNotFoundError, naming the stage, before."""
    recipe = replace(RECIPE, steps=options.steps or RECIPE.steps)
    base = FrozenBase(models(work) / world.FLUX, device, fast=options.compile)
    examples = Examples(work, captions_of(work, device), device)
    torch.manual_seed(recipe.seed)
    reader = new_reader(examples.data.vectors.shape[1])
    load_face(work, reader)
    module = Taught(base.text_width, reader).to(device)
    drawing = open_drawing(work, base, examples, chained=False)
    company = Company(read_files(models(work), base.anchors), examples)
    batch = distributed.share(options.batch or BATCH)
    loss = SipLoss(module, drawing, company, open_critic(work, device), batch)
    with plain_attention(device):
        train(recipe, module, loss, curves(work), device)
    if not distributed.rank():
        write_face_t5(module.projector, models(work) / world.FACE_T5)


def load_trained(work: Path, width: int) -> tuple[Projector, int]:
    """The projector for a T5 of that width as trained so far; the step, 0 before the first."""
    module = Taught(width, new_reader(Portraits(work).vectors.shape[1]))
    return module.projector, load_averages(RECIPE, module, curves(work))
