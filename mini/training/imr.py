"""Expression and pose of the small Flux's people: the second stage of DynamicID (arXiv 2503.06505).

Six pictures of a person are sources and targets in turn. The reconfigurator makes the tokens of the
one into those of the other, by their motions (equation 7): its tokens should be the target's, and
the frozen Flux should predict the same with both, for the same noisy picture, noise and level. That
second part is measured on a share of the targets: it costs more than all else together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ...model_patches.adapters.imr_nets import as_seen
from ...model_patches.training.attention_kernel import plain_attention
from ...model_patches.training.flow import add_noise, early_sigmas
from ...model_patches.training.frozen_base import FrozenBase
from ...model_patches.training.imr_loss import edit_loss
from ...model_patches.training.imr_trained import TrainedImr, export_imr
from ...model_patches.training.loop import Recipe, train
from ...model_patches.training.pulid_layers import QUIET
from .. import world
from ..imr_layout import DIMS, WIDTHS, settings_for
from .adapter import Adapter, as_read
from .adapter_diffusion import Examples
from .captions import captions_of
from .data import SHOTS
from .identity_inputs import tower_input
from .imr_motion import MotionReader, Motions, Words
from .options import Options, curves, models
from .saa import read_saa

RECIPE = Recipe("imr", steps=500, rate=2e-3, warmup=50, decay=0.02, average=0.99, seed=51)
PEOPLE = 8
"""Of a step: SHOTS pairs of each."""
SHARED_PROMPT = "a portrait photo of a person"
"""What the frozen Flux reads for all of them, as in the authors' code."""
JUDGED = 12
"""Pairs of a step for which it predicts."""
WEIGHT = 4.0
"""λ of equation 7. The authors' is 1, for a base whose predictions depend more on the tokens."""
FITTED = 40
"""Batches from which the first weights of the outer layers are computed."""
FAINT, RIDGE = 1e-3, 1e-2
"""Variances below which a way to differ counts for little: of tokens, and of the last features."""
SETTLED = 40
"""Batches whose mean statistics BatchNorm keeps, with the averaged weights."""


class ImrLoss:
    """What the loop minimises."""

    def __init__(
        self,
        net: TrainedImr,
        base: FrozenBase,
        adapter: Adapter,
        examples: Examples,
        people: int = PEOPLE,
        judged: int = JUDGED,
    ) -> None:
        """adapter: frozen, whose tokens are edited."""
        self.net, self.base, self.adapter, self.examples = net, base, adapter, examples
        self.people, self.judged = people, judged
        self.reader = MotionReader(examples.data, Words(examples.captions))
        self.prompt = examples.captions.encode([SHARED_PROMPT])

    def __call__(self, step: int, rng: np.random.Generator) -> tuple[Tensor, Mapping[str, Tensor]]:
        rows, target = self.draw(rng)
        tokens = self.tokens(rows)
        wanted = tokens[target]
        found = edit(self.net, tokens, *self.reader.pairs(rng, rows, rows[target]))
        chosen = torch.from_numpy(rng.permutation(len(rows))[: self.judged])
        latents = self.examples.targets(rows[target][chosen.numpy()])
        sigma = early_sigmas(rng, len(chosen)).to(self.base.device)
        noisy, _ = add_noise(latents, sigma)
        with torch.no_grad():
            truth = self.predict(noisy, sigma, wanted[chosen])
        drawn = self.predict(noisy, sigma, found[chosen])
        parts = edit_loss(as_read(found), as_read(wanted))
        judged = edit_loss(found[chosen], wanted[chosen], drawn, truth)
        matched, consistent = parts.tokens.mean(), judged.noise.mean()
        still = edit_loss(as_read(tokens), as_read(wanted)).tokens.mean()
        shown = {"tokens": matched, "unedited": still, "velocity": consistent}
        loss = matched + WEIGHT * consistent
        return loss, {name: value.detach() for name, value in shown.items()}

    def draw(self, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Picture numbers (B,), all of each person's, and the place of each one's target."""
        count = len(self.examples.data) // SHOTS
        people = rng.choice(count, min(self.people, count), replace=False)
        rows = (people[:, None] * SHOTS + np.arange(SHOTS)).flatten()
        step = rng.integers(1, SHOTS, size=(len(people), 1))
        other = (np.arange(SHOTS) + step) % SHOTS
        return rows, (np.arange(len(people))[:, None] * SHOTS + other).flatten()

    @torch.no_grad()
    def tokens(self, rows: np.ndarray) -> Tensor:
        """(B, N, C), of whole pictures: as the pack encodes a photo."""
        inputs, device = self.examples.inputs, self.base.device
        pixels = tower_input(inputs.grey(rows).to(device))
        present = torch.ones(len(rows), dtype=torch.bool, device=device)
        return self.adapter.tokens(pixels, inputs.embedding(rows).to(device), present).float()

    def predict(self, noisy: Tensor, sigma: Tensor, tokens: Tensor) -> Tensor:
        """The frozen Flux's velocity with these tokens."""
        text, pooled = (one.expand(len(noisy), *one.shape[1:]) for one in self.prompt)
        return self.base.velocity(noisy, sigma, text, pooled, self.adapter.injections(tokens))


def edit(net: TrainedImr, tokens: Tensor, source: Motions, target: Motions) -> Tensor:
    """Tokens (B, N, C) with the motion of each one's target in place of its own."""
    pictures = torch.cat((source.pictures, target.pictures)).to(tokens.device)
    seen = net.keypoints(as_seen(pictures))
    words = torch.cat((source.words, target.words))
    old, new = net.reconfigurator.fuse(seen, words).chunk(2)
    return net.reconfigurator(tokens, old, new).float()


def train_imr(work: Path, device: torch.device, options: Options) -> None:
    """Train for the tokens of the SAA file, and write both files below `models`.

    Raises FileNotFoundError, naming the stage, for whatever is not there yet.
    """
    recipe = replace(RECIPE, steps=options.steps or RECIPE.steps)
    base = FrozenBase(models(work) / world.FLUX, device, fast=options.compile)
    adapter = read_saa(models(work), base.anchors).to(device).requires_grad_(False).eval()
    examples = Examples(work, captions_of(work, device), device)
    torch.manual_seed(recipe.seed)
    net = TrainedImr(DIMS, WIDTHS).to(device)
    loss = ImrLoss(net, base, adapter, examples, options.batch or PEOPLE)
    with plain_attention(device), adapter.beside(base):
        begin(loss, FITTED)
        train(recipe, net, loss, curves(work), device)
        settle(loss, SETTLED)
    write_imr(net.cpu(), models(work), recipe.steps)


@torch.no_grad()
def begin(loss: ImrLoss, batches: int) -> None:
    """Let the net begin with what is alike in a person's pictures, so that all steps are left for
    motion: its first layer sees every way in which tokens differ at one size, its blocks add
    little, and its last layer makes as much of the targets as can be made of that."""
    rng, net, features = np.random.default_rng(RECIPE.seed), loss.net.reconfigurator, []
    drawn = [loss.draw(rng) for _ in range(batches)]
    tokens = [loss.tokens(rows) for rows, _ in drawn]
    _spread(net.proj_in, as_read(torch.cat(tokens)).flatten(0, 1))
    for cross, own, feed_forward in (*net.disentangleNet, *net.entangleNet):
        for last in (cross.to_out, own.to_out, feed_forward[-1]):
            last.weight.mul_(QUIET)
    keep = net.proj_out.register_forward_pre_hook(
        lambda _, inputs: features.append(inputs[0].float())
    )
    try:
        for (rows, target), one in zip(drawn, tokens, strict=True):
            edit(loss.net, one, *loss.reader.pairs(rng, rows, rows[target]))
    finally:
        keep.remove()
    wanted = torch.cat([one[target] for (_, target), one in zip(drawn, tokens, strict=True)])
    wanted = as_read(wanted) * wanted.std(-1).mean()
    _fit(net.proj_out, torch.cat(features).flatten(0, 1), wanted.flatten(0, 1))


def _spread(layer: nn.Linear, seen: Tensor) -> None:
    """Give a layer the main directions of its inputs (N, C), each at a variance of about 1."""
    mean = seen.mean(0)
    sizes, directions = torch.linalg.eigh(torch.cov(seen.T))
    scaled = directions / (sizes.clamp(min=0) + FAINT).sqrt()
    weight = scaled.T.flip(0)[: len(layer.weight)]
    layer.weight[: len(weight)] = weight
    layer.bias[: len(weight)] = -weight @ mean


def _fit(layer: nn.Linear, seen: Tensor, wanted: Tensor) -> None:
    """Give a layer the weights that make the most of `wanted` (N, out) of its inputs (N, in)."""
    seen = torch.cat((seen, torch.ones_like(seen[:, :1])), dim=1)
    ridge = RIDGE * len(seen) * torch.eye(seen.shape[1], device=seen.device)
    found = torch.linalg.solve(seen.T @ seen + ridge, seen.T @ wanted)
    layer.weight.copy_(found[:-1].T)
    layer.bias.copy_(found[-1])


@torch.no_grad()
def settle(loss: ImrLoss, batches: int) -> None:
    """Give BatchNorm the mean statistics of what the averaged weights see; those of the loop are
    of weights that changed at each step."""
    norms = [one for one in loss.net.modules() if isinstance(one, nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean
        norm.train()
    rng = np.random.default_rng(RECIPE.seed)
    for _ in range(batches):
        rows, target = loss.draw(rng)
        source, wanted = loss.reader.pairs(rng, rows, rows[target])
        pictures = torch.cat((source.pictures, wanted.pictures))
        loss.net.keypoints(as_seen(pictures.to(loss.base.device)))
    loss.net.eval()


def write_imr(net: TrainedImr, folder: Path, steps: int) -> None:
    """Both files, below a models folder in which the SAA file lies."""
    settings = settings_for(folder / world.SAA, Path(world.CLIP_L).name)
    notes = {"stage": "reconfigure", "steps": steps}
    path, keypoints = folder / world.IMR, folder / world.KEY_POINTS
    export_imr(path, keypoints, net, torch.float16, notes, settings)
