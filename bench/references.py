"""What Apply Reference Guidance costs: whole runs against the same run with its reference.

On a CPU with a small Flux, on a GPU with one of the published size. The error is that of the final
latent, as a part of all that the reference changes in it: |x - x(every 1)| / |x(1) - x(0)|. With
random weights it says how well a difference keeps, not how a picture looks.
"""

from __future__ import annotations

import statistics
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass

import comfy.patcher_extension
import comfy.sample
import torch
from comfy.model_patcher import ModelPatcher
from flexid.mini import tiny_flux
from flexid.model_patches.inject.guidance.apply import apply_reference_guidance
from torch import Tensor

from . import flux
from .clock import now
from .plan import MARGIN, Allowance, Plan, Row, rounds_in

STEPS = 20
HALF = 0.5
"""The weight at which both predictions count alike."""


@dataclass(frozen=True)
class World:
    """A model, and how large its prompts and pictures are."""

    model: ModelPatcher
    side: int
    """Latent pixels of the picture and of its reference."""
    text: int
    text_width: int
    pooled: int

    def prompt(self, reference: bool = True) -> list:
        generator = torch.Generator().manual_seed(1)
        tokens = torch.randn(1, self.text, self.text_width, generator=generator)
        extra = {"pooled_output": torch.zeros(1, self.pooled), "guidance": 2.5}
        if reference:
            extra["reference_latents"] = [self.noise(2)]
        return [[tokens, extra]]

    def noise(self, seed: int) -> Tensor:
        shape = (1, 16, self.side, self.side)
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    def run(self, model: ModelPatcher, prompt: list) -> Tensor:
        noise = self.noise(0)
        return comfy.sample.sample(
            model, noise, STEPS, 1.0, "euler", "simple", prompt, prompt,
            torch.zeros_like(noise), disable_pbar=True,
        )  # fmt: skip


Runs = Mapping[str, tuple[ModelPatcher, list]]


def prepare(options: Namespace, allowance: Allowance) -> Plan:
    world = _open_world(options)
    runs = _runs(world)
    started = now()
    predictions = {name: _count_rows(world, *run) / STEPS for name, run in runs.items()}
    tried = now() - started
    rounds = rounds_in(MARGIN * allowance.left(), tried, options.rounds)

    def measure() -> list[Row]:
        times: dict[str, list[float]] = {name: [] for name in runs}
        latents: dict[str, Tensor] = {}
        for _ in allowance.rounds(rounds):
            for name, (model, prompt) in runs.items():
                started = now()
                latents[name] = world.run(model, prompt)
                times[name].append(now() - started)
        return _rows(predictions, times, latents)

    width = world.model.model.diffusion_model.hidden_size
    what = f"{rounds} rounds of {len(runs)} runs, {STEPS} steps, width {width}, " + (
        f"latent {world.side}x{world.side}"
    )
    return Plan(rounds * tried, what, measure)


def _open_world(options: Namespace) -> World:
    if torch.cuda.is_available():
        model = flux.open_flux(flux.blocks_of(options), options.dtype)
        return World(model, 128, flux.SIZES[0].text, flux.TEXT_WIDTH, flux.POOLED)
    return World(tiny_flux.flux(options.dtype), 24, 64, tiny_flux.CONTEXT, tiny_flux.VECTOR)


def _runs(world: World) -> Runs:
    """What each run is called -> its model and its prompt."""
    prompt = world.prompt()

    def guide(**options: object) -> tuple[ModelPatcher, list]:
        return apply_reference_guidance(world.model, prompt, **options).model, prompt

    return {
        "with the reference": (world.model, prompt),
        "without it": (world.model, world.prompt(reference=False)),
        "weight 1": guide(weight=1.0),
        "weight 0": guide(weight=0.0),
        "weight 0.5": guide(weight=HALF),
        "weight 0.5, every 2": guide(weight=HALF, every=2),
        "weight 0.5, every 4": guide(weight=HALF, every=4),
        "weight 0.5, attention": guide(weight=HALF, method="attention"),
    }


def _rows(
    predictions: Mapping[str, float],
    times: Mapping[str, list[float]],
    latents: Mapping[str, Tensor],
) -> list[Row]:
    seconds = {name: statistics.median(taken) for name, taken in times.items()}
    whole = (latents["with the reference"] - latents["without it"]).norm()
    rows: list[Row] = []
    for name in times:
        row: Row = {
            "run": name,
            "rounds": len(times[name]),
            "predictions per step": predictions[name],
            "s": seconds[name],
            "vs with the reference": seconds[name] / seconds["with the reference"],
            "vs without it": seconds[name] / seconds["without it"],
        }
        if "every" in name:
            error = (latents[name] - latents["weight 0.5"]).norm() / whole
            row["error %"] = 100 * error.item()
        rows.append(row)
    return rows


def _count_rows(world: World, model: ModelPatcher, prompt: list) -> int:
    """Rows that the model predicts in a run; a batch of two is two."""
    rows = 0

    def count(executor, x, *args, **kwargs):
        nonlocal rows
        rows += x.shape[0]
        return executor(x, *args, **kwargs)

    watched = model.clone()
    kind = comfy.patcher_extension.WrappersMP.APPLY_MODEL
    watched.add_wrapper_with_key(kind, "bench", count)
    world.run(watched, prompt)
    return rows
