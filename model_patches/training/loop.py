"""The training loop of every recipe: resumable, with a loss curve and averaged weights.

A step depends on the seed, its number and the number of processes only, so a run that was stopped
or killed and resumed ends with the weights of one that was not. Under torchrun the processes share
every step (distributed.py); the first one logs and saves.

Weights of linear and convolution layers are trained by Muon (Jordan et al. 2024), the others by
AdamW. On two cores that decides whether the small world can be trained at all: after 300 steps of
8 the autoencoder is at 21.8 dB with it, at 18.1 dB with AdamW alone.
"""

from __future__ import annotations

import csv
import math
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..files.atomic import replacing
from . import distributed, stopping
from .optimisers import Recipe, as_matrix, make_optimisers, matrices_of
from .precision import autocast

Loss = Callable[[int, np.random.Generator], tuple[Tensor, Mapping[str, Tensor]]]
"""(step, randomness of that step) -> loss to minimise, and named scalars for the curve. A loss may
add gradients of its own, of parts of the step that it has finished with."""

Milestone = Callable[["Training"], None]

LOG_EVERY = 25
SAVE_SECONDS = 180.0


class Training:
    """One model under way: its optimiser, averaged weights, step, and the files they live in."""

    def __init__(self, recipe: Recipe, module: nn.Module, folder: Path) -> None:
        self.recipe = recipe
        self.module = module
        self.checkpoint = checkpoint_of(recipe, folder)
        self.curve = folder / f"{recipe.name}.csv"
        self.step = 0
        self.whole = True
        """False while a step is half taken: what is then in memory must not be saved."""
        self.weights = [p for p in module.parameters() if p.requires_grad]
        distributed.hand_out(self.weights, [0] * len(self.weights))
        self.averages = [p.detach().clone() for p in self.weights]
        self.matrices = matrices_of(module) if recipe.muon else []
        self.owners = distributed.dealt([v.numel() * min(v.shape) for _, v in self.matrices])
        """The process that takes Muon's step, which is costly, for each matrix."""
        self.optimisers = make_optimisers(recipe, module, self.weights, self.matrices)
        folder.mkdir(parents=True, exist_ok=True)
        if self.checkpoint.exists():
            self._resume()
        self._check_all_resumed()

    def _resume(self) -> None:
        saved = torch.load(self.checkpoint, map_location="cpu", weights_only=True)
        self.module.load_state_dict(saved["module"])
        for optimiser, state in zip(self.optimisers, saved["optimisers"], strict=True):
            shares = [group["share"] for group in optimiser.param_groups]
            optimiser.load_state_dict(state)
            # The recipe's: a checkpoint may be older than they are, or than their latest values.
            for group, share in zip(optimiser.param_groups, shares, strict=True):
                group["share"] = share
        for average, value in zip(self.averages, saved["averages"], strict=True):
            average.copy_(value)
        self.step = saved["step"]
        if not distributed.rank():
            self._forget_rows_after_checkpoint()

    def _check_all_resumed(self) -> None:
        first = distributed.of_first(self.step)
        if distributed.any_of(first != self.step):
            raise ValueError(
                f"{self.checkpoint} is at step {self.step} in process {distributed.rank()}, at "
                f"step {first} in the first one. All machines must see the same folder."
            )

    def _forget_rows_after_checkpoint(self) -> None:
        if self.curve.exists():
            with self.curve.open(newline="", encoding="utf-8") as file:
                header, *rows = list(csv.reader(file))
            kept = [row for row in rows if int(row[0]) <= self.step]
            with self.curve.open("w", newline="", encoding="utf-8") as file:
                csv.writer(file).writerows([header, *kept])

    def save(self) -> None:
        """Write the checkpoint; it is replaced whole or not at all."""
        state = {
            "step": self.step,
            "module": self.module.state_dict(),
            "averages": self.averages,
            "optimisers": [optimiser.state_dict() for optimiser in self.optimisers],
        }
        with replacing(self.checkpoint) as temporary:
            torch.save(state, temporary)

    def advance(self, loss: Loss, device: torch.device) -> dict[str, float]:
        """One step; what the curve shows of it."""
        recipe = self.recipe
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate * group["share"] * schedule(self.step, recipe)
        entropy = (recipe.seed, self.step, distributed.rank())
        torch.manual_seed(_number(entropy))
        for weight in self.weights:
            weight.grad = None
        with autocast(device):
            value, shown = loss(self.step, np.random.default_rng(entropy))
        value.backward()
        distributed.average_gradients(self.weights)
        norm = nn.utils.clip_grad_norm_(self.weights, recipe.clip)
        if not torch.isfinite(norm):
            raise FloatingPointError(
                f"{recipe.name}: the gradient is {norm.item()} at step {self.step}; the last "
                f"checkpoint is {self.checkpoint}. Lower the rate ({recipe.rate})."
            )
        for (weight, view), owner in zip(self.matrices, self.owners, strict=True):
            gradient = weight.grad if owner == distributed.rank() else None
            view.grad = None if gradient is None else as_matrix(gradient, weight)
        self.whole = False
        for optimiser in self.optimisers:
            optimiser.step()
        distributed.hand_out([view for _, view in self.matrices], self.owners)
        self.step += 1
        self._average()
        if self.step % LOG_EVERY == 0:
            self.share_momentum()
        self.whole = True
        return {"loss": value.item(), **{k: float(v) for k, v in shown.items()}}

    def share_momentum(self) -> None:
        """Before saving: the first process then has all of it. All processes must take part."""
        if distributed.count() == 1 or not self.matrices:
            return
        muon = self.optimisers[0].state
        momenta = [
            muon[view].setdefault("momentum_buffer", torch.zeros_like(view))
            for _, view in self.matrices
        ]
        distributed.hand_out(momenta, self.owners)

    @torch.no_grad()
    def _average(self) -> None:
        """Follow quickly at first, so that the average does not keep the initial weights."""
        decay = min(self.recipe.average, (1 + self.step) / (10 + self.step))
        get_ema_multi_avg_fn(decay)(self.averages, tuple(self.weights), self.step)

    def load_averages(self) -> None:
        """Put the averaged weights into the module."""
        _put(self.averages, self.weights)

    @contextmanager
    def averaged(self) -> Iterator[nn.Module]:
        """The module in evaluation mode, with its averaged weights for as long as the body runs."""
        weights = [weight.detach().clone() for weight in self.weights]
        if self.recipe.average:
            self.load_averages()
        self.module.eval()
        try:
            yield self.module
        finally:
            _put(weights, self.weights)
            self.module.train()

    def log(self, rows: list[dict[str, float]], seconds: float) -> None:
        """Append the mean of `rows` to the curve and show it. NaN: the step had no such value."""
        means = {key: _mean([row[key] for row in rows]) for key in rows[0]}
        record = {"step": self.step, "seconds per step": seconds, **means}
        new = not self.curve.exists()
        with self.curve.open("a", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            if new:
                writer.writerow(record)
            writer.writerow([_shorten_number(value) for value in record.values()])
        text = "  ".join(f"{k} {_shorten_number(v)}" for k, v in record.items())
        sys.stdout.write(f"{self.recipe.name}: {text} of {self.recipe.steps}\n")
        sys.stdout.flush()


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else math.nan


def checkpoint_of(recipe: Recipe, folder: Path) -> Path:
    return folder / f"{recipe.name}.ckpt"


@torch.no_grad()
def _put(averages: Sequence[Tensor], weights: Sequence[Tensor]) -> None:
    for weight, average in zip(weights, averages, strict=True):
        weight.copy_(average)


def load_averages(recipe: Recipe, module: nn.Module, folder: Path) -> int:
    """Give `module` the averaged weights of the last checkpoint; its step, 0 before the first.

    Only reads: the training may be under way.
    """
    checkpoint = checkpoint_of(recipe, folder)
    if not checkpoint.exists():
        return 0
    saved = torch.load(checkpoint, map_location="cpu", weights_only=True)
    module.load_state_dict(saved["module"])
    _put(saved["averages"], [p for p in module.parameters() if p.requires_grad])
    return saved["step"]


def need_averages(recipe: Recipe, module: nn.Module, folder: Path) -> None:
    """As `load_averages`. Raises FileNotFoundError, naming the stage, before the first step."""
    if not load_averages(recipe, module, folder):
        raise FileNotFoundError(
            f"{checkpoint_of(recipe, folder)} is missing. Train it first: --only {recipe.name}."
        )


def train(
    recipe: Recipe,
    module: nn.Module,
    loss: Loss,
    folder: Path,
    device: torch.device | str = "cpu",
    milestone: Milestone | None = None,
) -> nn.Module:
    """Train what requires a gradient in `module`, from its checkpoint in `folder` if there is one.

    Returns the module with its averaged weights, in evaluation mode, in every process; only the
    first one (distributed.rank() == 0) should write it. A stop by Ctrl-C or SIGTERM finishes the
    step, saves, and is raised as KeyboardInterrupt. Raises FloatingPointError when the loss
    diverges. milestone: called in every process after every step.
    """
    device = torch.device(device)
    module.train()
    run = Training(recipe, module, folder)
    with stopping.defer_stop() as asked:
        try:
            _take_steps(run, loss, device, asked, milestone)
        finally:
            diverged = isinstance(sys.exc_info()[1], FloatingPointError)
            if not distributed.rank() and run.whole and not diverged:
                run.save()
    distributed.meet()  # the next stage of every process reads what the first has saved
    if recipe.average:
        run.load_averages()
    return module.eval()


def _take_steps(
    run: Training,
    loss: Loss,
    device: torch.device,
    asked: Callable[[], bool],
    milestone: Milestone | None,
) -> None:
    """Train to the end. Raises KeyboardInterrupt, between two steps, once a stop is asked for in
    any of the processes."""
    saved = started = time.monotonic()
    rows: list[dict[str, float]] = []
    while True:
        stop = distributed.any_of(asked())
        if stop or run.step >= run.recipe.steps:
            run.share_momentum()
            if stop:
                raise KeyboardInterrupt
            return
        rows.append(run.advance(loss, device))
        if milestone is not None:
            milestone(run)
        if run.step % LOG_EVERY and run.step < run.recipe.steps:
            continue
        now = time.monotonic()
        if not distributed.rank():
            run.log(rows, (now - started) / len(rows))
            if now - saved > SAVE_SECONDS:
                run.save()
                saved = time.monotonic()
        started, rows = time.monotonic(), []


def schedule(step: int, recipe: Recipe) -> float:
    """Share of the peak learning rate: linear warm-up, then half a cosine down to the last."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    cosine = (1 + math.cos(math.pi * min(1.0, progress))) / 2
    return recipe.last + (1 - recipe.last) * cosine


def _number(entropy: tuple[int, ...]) -> int:
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


def _shorten_number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.5g}"
