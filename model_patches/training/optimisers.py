"""How fast what is trained: Muon for linear and convolution layers, AdamW for the rest.

Weights of layers are matrices, which Muon (Jordan et al. 2024) steps along orthogonal directions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from .muon import Muon

ADAMW_SIZED = "match_rms_adamw"

Matrices = Sequence[tuple[Tensor, nn.Parameter]]
"""A layer's weight, and the same values as the matrix that Muon steps."""


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
    last: float = 0.05
    """The learning rate at the end, as a share of its peak (cosine decay); 1: a constant rate."""
    average: float = 0.999
    """Decay per step of the exponential average that is kept; 0 keeps the last weights."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Of AdamW."""
    seed: int = 0
    muon: bool = True
    """Whether Muon trains the layers; AdamW trains everything otherwise."""
    shares: Mapping[str, float] = field(default_factory=dict)
    """Part of the module -> its share of the learning rate; other parts learn at the full rate."""

    def share(self, name: str) -> float:
        """Of the parameter of that name."""
        found = (share for part, share in self.shares.items() if name.startswith(f"{part}."))
        return next(found, 1.0)


class AdamWOptions(Protocol):
    """What trainers on users' data let their users choose."""

    @property
    def steps(self) -> int: ...
    @property
    def rate(self) -> float: ...
    @property
    def warmup(self) -> int: ...
    @property
    def decay(self) -> float: ...
    @property
    def average(self) -> float: ...
    @property
    def seed(self) -> int: ...


def adamw_recipe(name: str, chosen: AdamWOptions, last: float = Recipe.last) -> Recipe:
    """AdamW alone, with torch's own betas, as the authors' trainings have it. last: see Recipe."""
    return Recipe(
        name,
        steps=chosen.steps,
        rate=chosen.rate,
        warmup=chosen.warmup,
        decay=chosen.decay,
        last=last,
        average=chosen.average,
        betas=(0.9, 0.999),
        seed=chosen.seed,
        muon=False,
    )


def make_optimisers(
    recipe: Recipe, module: nn.Module, weights: Sequence[nn.Parameter], matrices: Matrices
) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, AdamW for the other weights; weight decay for matrices only."""
    names = {id(parameter): name for name, parameter in module.named_parameters()}

    def by_share(of: Sequence[Tensor], stepped: Sequence[nn.Parameter]) -> list[dict[str, Any]]:
        """What is stepped, in groups of one share of the rate each: that of the module's weight."""
        groups: dict[float, list[nn.Parameter]] = {}
        for weight, one in zip(of, stepped, strict=True):
            groups.setdefault(recipe.share(names[id(weight)]), []).append(one)
        return [{"params": params, "share": share} for share, params in groups.items()]

    taken = {id(weight) for weight, _ in matrices}
    rest = [p for p in weights if id(p) not in taken]
    tables, vectors = [p for p in rest if p.ndim > 1], [p for p in rest if p.ndim < 2]
    groups = [
        {**group, "weight_decay": shrinking}
        for part, shrinking in ((tables, recipe.decay), (vectors, 0.0))
        for group in by_share(part, part)
    ]
    made: list[torch.optim.Optimizer] = []
    if matrices:
        layers, views = zip(*matrices, strict=True)
        parts = by_share(layers, views)
        made.append(
            Muon(parts, lr=recipe.rate, weight_decay=recipe.decay, adjust_lr_fn=ADAMW_SIZED)
        )
    if groups:
        made.append(torch.optim.AdamW(groups, lr=recipe.rate, betas=recipe.betas, fused=True))
    return made


def matrices_of(module: nn.Module) -> Matrices:
    """Those of all layers that are trained, each once."""
    return [(p, nn.Parameter(as_matrix(p.detach(), p))) for p in _layers(module)]


def _layers(module: nn.Module) -> list[Tensor]:
    """Trained weights of linear and convolution layers, each once."""
    kinds = (nn.Linear, nn.Conv2d)
    weights = [m.weight for m in module.modules() if isinstance(m, kinds)]
    return list({id(weight): weight for weight in weights if weight.requires_grad}.values())


def as_matrix(values: Tensor, weight: Tensor) -> Tensor:
    """(out, all else), the form that Muon takes, in the order in which `weight` lies in memory: of
    the weight itself it is a view, so that a step on it is one on the layer."""
    return (values if weight.is_contiguous() else values.movedim(1, -1)).flatten(1)
