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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_multi_avg_fn

from ..files.atomic import replacing
from . import distributed, stopping
from .muon import Muon
from .precision import autocast

Loss = Callable[[int, np.random.Generator], tuple[Tensor, Mapping[str, Tensor]]]
"""(step, randomness of that step) -> loss to minimise, and named scalars for the curve."""

LOG_EVERY = 25
SAVE_SECONDS = 180.0
ADAMW_SIZED = "match_rms_adamw"
FINAL_RATE = 0.05
"""The learning rate at the end, as a share of its peak (cosine decay)."""


@dataclass(frozen=True)
class Recipe:
    """How long and how fast to train. `rate` is the peak learning rate; Muon's steps are scaled to
    the size of AdamW's, so one number serves both (Liu et al. 2025, arXiv:2502.16982)."""

    name: str
    steps: int
    rate: float
    warmup: int = 200
    decay: float = 0.01
    clip: float = 1.0
    average: float = 0.999
    """Decay per step of the exponential average that is kept; 0 keeps the last weights."""
    seed: int = 0
    shares: Mapping[str, float] = field(default_factory=dict)
    """Part of the module -> its share of the learning rate; other parts learn at the full rate."""

    def share(self, name: str) -> float:
        """Of the parameter of that name."""
        found = (share for part, share in self.shares.items() if name.startswith(f"{part}."))
        return next(found, 1.0)


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
        self.matrices = [(p, nn.Parameter(_as_matrix(p.detach(), p))) for p in _layers(module)]
        self.owners = distributed.dealt([v.numel() * min(v.shape) for _, v in self.matrices])
        """The process that takes Muon's step, which is costly, for each matrix."""
        self.optimisers = self._optimisers()
        folder.mkdir(parents=True, exist_ok=True)
        if self.checkpoint.exists():
            self._resume()
        self._check_all_resumed()

    def _optimisers(self) -> list[torch.optim.Optimizer]:
        """Muon for the layers, AdamW for the rest; weight decay for matrices only."""
        rate, decay = self.recipe.rate, self.recipe.decay
        taken = {id(weight) for weight, _ in self.matrices}
        rest = [p for p in self.weights if id(p) not in taken]
        tables, vectors = [p for p in rest if p.ndim > 1], [p for p in rest if p.ndim < 2]
        groups = [
            {**group, "weight_decay": shrinking}
            for part, shrinking in ((tables, decay), (vectors, 0.0))
            for group in self._by_share(part, part)
        ]
        made: list[torch.optim.Optimizer] = []
        if self.matrices:
            layers, views = zip(*self.matrices, strict=True)
            made.append(
                Muon(
                    self._by_share(layers, views),
                    lr=rate,
                    weight_decay=decay,
                    adjust_lr_fn=ADAMW_SIZED,
                )
            )
        if groups:
            made.append(torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.99), fused=True))
        return made

    def _by_share(
        self, weights: Sequence[Tensor], stepped: Sequence[nn.Parameter]
    ) -> list[dict[str, Any]]:
        """What is stepped, in groups of one share of the rate each: that of the module's weight."""
        names = {id(parameter): name for name, parameter in self.module.named_parameters()}
        groups: dict[float, list[nn.Parameter]] = {}
        for weight, one in zip(weights, stepped, strict=True):
            groups.setdefault(self.recipe.share(names[id(weight)]), []).append(one)
        return [{"params": params, "share": share} for share, params in groups.items()]

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
        with autocast(device):
            value, shown = loss(self.step, np.random.default_rng(entropy))
        for weight in self.weights:
            weight.grad = None
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
            view.grad = None if gradient is None else _as_matrix(gradient, weight)
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

    def log(self, rows: list[dict[str, float]], seconds: float) -> None:
        """Append the mean of `rows` to the curve and show it."""
        means = {key: float(np.mean([row[key] for row in rows])) for key in rows[0]}
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


def _layers(module: nn.Module) -> list[Tensor]:
    """Trained weights of linear and convolution layers, each once."""
    kinds = (nn.Linear, nn.Conv2d)
    weights = [m.weight for m in module.modules() if isinstance(m, kinds)]
    return list({id(weight): weight for weight in weights if weight.requires_grad}.values())


def _as_matrix(values: Tensor, weight: Tensor) -> Tensor:
    """(out, all else), the form that Muon takes, in the order in which `weight` lies in memory: of
    the weight itself it is a view, so that a step on it is one on the layer."""
    return (values if weight.is_contiguous() else values.movedim(1, -1)).flatten(1)


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
) -> nn.Module:
    """Train what requires a gradient in `module`, from its checkpoint in `folder` if there is one.

    Returns the module with its averaged weights, in evaluation mode, in every process; only the
    first one (distributed.rank() == 0) should write it. A stop by Ctrl-C or SIGTERM finishes the
    step, saves, and is raised as KeyboardInterrupt. Raises FloatingPointError when the loss
    diverges.
    """
    device = torch.device(device)
    module.train()
    run = Training(recipe, module, folder)
    with stopping.defer_stop() as asked:
        try:
            _take_steps(run, loss, device, asked)
        finally:
            diverged = isinstance(sys.exc_info()[1], FloatingPointError)
            if not distributed.rank() and run.whole and not diverged:
                run.save()
    distributed.meet()  # the next stage of every process reads what the first has saved
    if recipe.average:
        run.load_averages()
    return module.eval()


def _take_steps(run: Training, loss: Loss, device: torch.device, asked: Callable[[], bool]) -> None:
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
    """Share of the peak learning rate: linear warm-up, then half a cosine down to FINAL_RATE."""
    if step < recipe.warmup:
        return (step + 1) / recipe.warmup
    progress = (step - recipe.warmup) / max(1, recipe.steps - recipe.warmup)
    return FINAL_RATE + (1 - FINAL_RATE) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


def _number(entropy: tuple[int, ...]) -> int:
    return int(np.random.SeedSequence(entropy).generate_state(1, np.uint64)[0] >> 1)


def _shorten_number(value: float) -> str:
    return str(value) if isinstance(value, int) else f"{value:.5g}"
