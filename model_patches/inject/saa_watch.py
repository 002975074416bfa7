"""Watch where the people of Apply SAA draw attention while a picture is sampled.

A watch belongs to one run: it travels in the options of a copy of the guider, and dies with the
caller's last reference. Models, their clones and ordinary runs know nothing of it.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.model_patcher
import torch
import torch.nn.functional as F
from torch import Tensor

from ..gates.gate import Moment
from .call import WATCH, Call
from .region import Grid, Region
from .run import injections_of

_EARLY = 1e-6
"""Rounding of a progress that lies on the border of two columns."""
Show = Callable[[Tensor, Tensor | float], None]
"""Is shown the final scores (R, L, H, N) and weights of a layer."""
Area = tuple[int, ...] | None


@dataclass(frozen=True)
class Who:
    """One person of one Apply SAA."""

    number: int
    """Place in the node's list, from 1."""
    label: str
    """Their name, or their number in words."""
    order: str
    """Digest of all that is theirs, so that people of two nodes are not mixed up."""


@dataclass(eq=False)
class _Seen:
    """Sum of one person's attention over the layers of one grid, (batch, tokens)."""

    grid: Grid
    total: Tensor
    layers: Tensor
    """(batch, 1): how many layers are in it."""


@dataclass(frozen=True, eq=False)
class PersonMaps:
    """Where one person drew attention."""

    label: str
    maps: Tensor
    """(columns, batch, h, w) float32 on the CPU, by latent pixel; mean over layers and heads of
    the share of attention that goes to the person, times the activation."""
    inside: tuple[float, ...] | None
    """Share of it inside the person's region, by column; None without a region."""


@dataclass(eq=False)
class ActivationWatch:
    """What was seen of one run, in at most `columns` evenly spaced moments."""

    columns: int
    moments: dict[int, Moment] = field(default_factory=dict)
    """By column, the one that was seen: the first in its part of the run."""
    seen: dict[tuple[int, Who, Area, int], _Seen] = field(default_factory=dict)
    """By column, person, area of the latent, and cell."""
    regions: dict[Who, Region | None] = field(default_factory=dict)
    size: tuple[int, int] = (0, 0)
    """Height and width of the latent."""

    def at(
        self,
        call: Call,
        area: Area,
        grid: Grid,
        moment: Moment,
        rows: slice,
        people: Sequence[tuple[Who, Region | None]],
        counts: Sequence[int],
    ) -> Show | None:
        """What to show a call's attention on one grid to; None where it is not wanted.

        rows: of the batch, to which the moment belongs. people and counts (tokens): of each.
        Raises RuntimeError in a call for a tile of the picture.
        """
        column = min(int(moment.progress * self.columns + _EARLY), self.columns - 1)
        if self.moments.setdefault(column, moment) != moment:
            return None
        whole = call.run.latent_size or call.latent_size
        if area is None and call.latent_size != whole:
            raise RuntimeError(
                f"A call covers {call.latent_size[0]}x{call.latent_size[1]} latent pixels of "
                f"{whole[0]}x{whole[1]}, and says not which: activation maps need the whole "
                "picture. Remove the tiling node, or sample without the maps."
            )
        self.size = whole
        self.regions.update(people)
        batch, device = call.batch, call.device

        def show(scores: Tensor, weight: Tensor | float) -> None:
            attention = _attend(scores, weight).split(list(counts), dim=-1)
            for (who, _), part in zip(people, attention, strict=True):
                key = (column, who, area, grid.cell)
                if key not in self.seen:
                    total = torch.zeros(batch, grid.tokens, device=device)
                    self.seen[key] = _Seen(grid, total, torch.zeros(batch, 1, device=device))
                self.seen[key].total[rows] += part.sum(-1)
                self.seen[key].layers[rows] += 1

        return show

    def people(self) -> list[PersonMaps]:
        """Maps of everybody who was seen, in the order of the node, by column; columns without a
        call are left out."""
        return [self._gather(who) for who in sorted(self.regions, key=lambda one: one.number)]

    @property
    def progress(self) -> list[float]:
        """Share of the run that was done, by column."""
        return [self.moments[column].progress for column in sorted(self.moments)]

    def _gather(self, who: Who) -> PersonMaps:
        maps = torch.stack([self._draw(who, column) for column in sorted(self.moments)])
        region = self.regions[who]
        if region is None:
            return PersonMaps(who.label, maps, None)
        mask = region.on_latent(self.size, maps.shape[1])
        sums = maps.sum((1, 2, 3))
        shares = torch.where(sums > 0, (maps * mask).sum((1, 2, 3)) / sums, 0.0)
        return PersonMaps(who.label, maps, tuple(shares.tolist()))

    def _draw(self, who: Who, column: int) -> Tensor:
        """(batch, h, w): the mean of all layers, each spread over its part of the latent."""
        batch = max(len(one.total) for one in self.seen.values())
        total = torch.zeros(batch, *self.size)
        layers = torch.zeros(batch, *self.size)
        for (at, other, area, _), one in self.seen.items():
            if (at, other) != (column, who):
                continue
            height, width, y, x = area or (*self.size, 0, 0)
            grid = one.grid
            picture = one.total.cpu().unflatten(1, (grid.rows, grid.columns))[:, None]
            large = F.interpolate(picture, scale_factor=grid.cell, mode="nearest")
            here = (slice(None), slice(y, y + height), slice(x, x + width))
            total[here] += large[:, 0, :height, :width]
            layers[here] += one.layers.cpu()[:, :, None]
        return total / layers.clamp(min=1)


def _attend(scores: Tensor, weight: Tensor | float) -> Tensor:
    """Scores (R, L, H, N) and a weight as an Activation gives it -> (R, L, N), mean of heads."""
    shares = scores.float().softmax(-1).mean(2)
    if isinstance(weight, Tensor) and weight.ndim == 2:
        weight = weight.unsqueeze(-1)
    return shares * weight


def watch_guider(guider: Any, watch: ActivationWatch) -> Any:
    """A copy of a GUIDER whose runs the watch sees; the guider itself stays as it was.

    Raises ValueError when there is no Apply SAA on its model.
    """
    options = comfy.model_patcher.create_model_options_clone(guider.model_options)
    inner = options.setdefault("transformer_options", {})
    kinds = [one.kind for one in injections_of(inner)]
    if "saa" not in kinds:
        raise ValueError(
            f"The guider's model has {len(kinds)} injections ({', '.join(kinds) or 'none'}), "
            "expected Apply SAA among them. Connect the model of Apply SAA to the guider, with "
            "somebody of a weight above 0."
        )
    inner[WATCH] = watch
    own = copy.copy(guider)
    own.model_options = options
    return own
