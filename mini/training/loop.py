"""The training loop of every recipe: resumable, with a loss curve and averaged weights.

A step depends on the seed and its number only, so a run that was stopped and resumed ends with
the weights of one that was not.
"""

from __future__ import annotations

import csv
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

Loss = Callable[[int, np.random.Generator], tuple[Tensor, Mapping[str, Tensor]]]
"""(step, randomness of that step) -> loss to minimise, and named scalars for the curve."""

LOG_EVERY = 25
SAVE_SECONDS = 180.0
FINAL_RATE = 0.05
"""The learning rate at the end, as a share of its peak (cosine decay)."""


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to train. `rate` is the peak learning rate of AdamW."""

    name: str
    steps: int
    rate: float
    warmup: int = 200
    decay: float = 0.01
    clip: float = 1.0
    average: float = 0.999
    """Decay per step of the exponential average that is kept; 0 keeps the last weights."""
    seed: int = 0


class Training:
    """One model under way: its optimiser, averaged weights, step, and the files they live in."""

    def __init__(self, recipe: Recipe, module: nn.Module, folder: Path) -> None:
        self.recipe = recipe
        self.module = module
        self.checkpoint = folder / f"{recipe.name}.ckpt"
        self.curve = folder / f"{recipe.name}.csv"
        self.step = 0
        self.weights = [p for p in module.parameters() if p.requires_grad]
        self.averages = [p.detach().clone() for p in self.weights]
        self.optimiser = torch.optim.AdamW(
            self._groups(), lr=recipe.rate, betas=(0.9, 0.99), fused=True
        )
        folder.mkdir(parents=True, exist_ok=True)
        if self.checkpoint.exists():
            self._resume()

    def _groups(self) -> list[dict]:
        """Weight decay for matrices only."""
        matrices = [p for p in self.weights if p.ndim > 1]
        vectors = [p for p in self.weights if p.ndim < 2]
        decay = self.recipe.decay
        groups = ((matrices, decay), (vectors, 0.0))
        return [{"params": p, "weight_decay": d} for p, d in groups if p]

    def _resume(self) -> None:
        saved = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        self.module.load_state_dict(saved["module"])
        self.optimiser.load_state_dict(saved["optimiser"])
        for average, value in zip(self.averages, saved["averages"], strict=True):
            average.copy_(value)
        self.step = saved["step"]
        self._forget_rows_after_checkpoint()

    def _forget_rows_after_checkpoint(self) -> None:
        if self.curve.exists():
            with self.curve.open(newline="", encoding="utf-8") as file:
                header, *rows = list(csv.reader(file))
            kept = [row for row in rows if int(row[0]) <= self.step]
            with self.curve.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([header, *kept])

    def save(self) -> None:
        """Write the checkpoint; it is replaced whole or not at all."""
        partial = self.checkpoint.with_suffix(".part")
        state = {
            "step": self.step,
            "module": self.module.state_dict(),
            "averages": self.averages,
            "optimiser": self.optimiser.state_dict(),
        }
        torch.save(state, partial)
        os.replace(partial, self.checkpoint)

    def advance(self, loss: Loss, device: torch.device) -> dict[str, float]:
        """One step; what the curve shows of it."""
        recipe = self.recipe
        for group in self.optimiser.param_groups:
            group["lr"] = recipe.rate * schedule(self.step, recipe)
        torch.manual_seed(_entropy(recipe.seed, self.step))
        with torch.autocast(device.type, torch.bfloat16):
            value, shown = loss(self.step, np.random.default_rng((recipe.seed, self.step)))
        self.optimiser.zero_grad(set_to_none=True)
        value.backward()
        norm = nn.utils.clip_grad_norm_(self.weights, recipe.clip)
        if not torch.isfinite(norm):
            raise FloatingPointError(
                f"{recipe.name}: the gradient is {norm.item()} at step {self.step}; the last "
                f"checkpoint is {self.checkpoint}. Lower the rate ({recipe.rate})."
            )
        self.optimiser.step()
        self.step += 1
        self._average()
        return {"loss": value.item(), **{k: float(v) for k, v in shown.items()}}

    @torch.no_grad()
    def _average(self) -> None:
        """Young averages follow quickly, so that they do not keep the initial weights."""
        decay = min(self.recipe.average, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(self.averages, self.weights, 1 - decay)

    @torch.no_grad()
    def load_averages(self) -> None:
        """Put the averaged weights into the module."""
        for weight, average in zip(self.weights, self.averages, strict=True):
            weight.copy_(average)

    def log(self, rows: list[dict[str, float]], seconds: float) -> None:
        """Append the mean of `rows` to the curve and show it."""
        means = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
        record = {"step": self.step, "seconds per step": seconds, **means}
        new = not self.curve.exists()
        with self.curve.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(record)
            writer.writerow([_short(value) for value in record.values()])
        text = "  ".join(f"{k} {_short(v)}" for k, v in record.items())
        sys.stdout.write(f"{self.recipe.name}: {text} of {self.recipe.steps}\n")
        sys.stdout.flush()


def train(
    recipe: Recipe,
    module: nn.Module,
    loss: Loss,
    folder: Path,
    device: torch.device | str = "cpu",
) -> nn.Module:
    """Train what requires a gradient in `module`, from its checkpoint in `folder` if there is one.

    Returns the module with its averaged weights, in evaluation mode. A stop by Ctrl-C or SIGTERM
    (as KeyboardInterrupt) saves first. Raises FloatingPointError when the loss diverges.
    """
    device = torch.device(device)
    module.train()
    run = Training(recipe, module, folder)
    saved = started = time.monotonic()
    rows: list[dict[str, float]] = []
    try:
        while run.step < recipe.steps:
            rows.append(run.advance(loss, device))
            if run.step % LOG_EVERY == 0 or run.step == recipe.steps:
                now = time.monotonic()
                run.log(rows, (now - started) / len(rows))
                started, rows = now, []
            if time.monotonic() - saved > SAVE_SECONDS:
                run.save()
                saved = time.monotonic()
    finally:
        if not isinstance(sys.exc_info()[1], FloatingPointError):
            run.save()
    if recipe.average:
        run.load_averages()
    return module.eval()


def schedule(step: int, recipe: Recipe) -> float:
    """Share of the peak learning rate: linear warm-up, then half a cosine down to FINAL_RATE."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return FINAL_RATE + (1 - FINAL_RATE) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


def _entropy(seed: int, step: int) -> int:
    return int(np.random.SeedSequence((seed, step)).generate_state(1, np.uint64)[0] >> 1)


def _short(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.5g}"
