"""What each reference picture of a model counts, and what follows from it at a moment of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from ...files.cache import tensor_key
from ...gates.gate import OPEN, Gate, Moment
from ..call import PromptRows, Run
from ..region import Region
from ..run import WholePrediction
from .levels import Share, Subset, level_fields, level_shares

GUIDANCE = "guidance"
LABEL = "Apply Reference Guidance"
ALL = 0
"""In place of a reference's number, from 1: all that have no setting of their own."""
MOST_REFERENCES = 4
LARGEST = 3.0
LARGEST_EVERY = 8
_EXACT = 1e-6

Method = Literal["two predictions", "attention"]
METHODS: tuple[Method, ...] = ("two predictions", "attention")


@dataclass(frozen=True, eq=False)
class Setting:
    """What one reference, or all of them, count."""

    weight: float
    gate: Gate
    region: Region | None

    @property
    def is_neutral(self) -> bool:
        return self.weight == 1.0 and not self.gate.factors and self.region is None

    @property
    def content(self) -> tuple:
        return self.weight, self.gate, self.region and tensor_key(self.region.mask)


NEUTRAL = Setting(1.0, OPEN, None)


@dataclass(frozen=True, eq=False)
class ReferenceGuidance(WholePrediction):
    """The settings of all references on one model: an Injection that acts on whole predictions."""

    settings: Mapping[int, Setting]
    method: Method
    every: int
    """Steps from one prediction of the references' effect to the next."""
    order: str

    kind = GUIDANCE
    label = LABEL

    def check_run(self, prompts: Sequence[PromptRows], options: Mapping[str, Any]) -> None:
        if not any(prompt.references for prompt in prompts):
            raise RuntimeError(
                f"{LABEL} is on this model, but 0 of the run's {len(prompts)} prompts carry a "
                "reference picture. Put Reference Latent (or the model's own edit node) before the "
                "sampler, or bypass this node."
            )

    def setting(self, number: int) -> Setting:
        """Of the reference of that number, from 0."""
        return self.settings.get(number + 1, self.settings.get(ALL, NEUTRAL))

    def weight(self, number: int, moment: Moment) -> float:
        """Of the reference of that number, from 0."""
        setting = self.setting(number)
        return _snap(setting.gate.weight(moment, setting.weight))

    def shares(self, count: int, moment: Moment, x: Tensor, run: Run) -> Mapping[Subset, Share]:
        """How much each subset of `count` references counts at this moment for a latent x."""
        settings = [self.setting(number) for number in range(count)]
        weights = tuple(self.weight(number, moment) for number in range(count))
        if all(one.region is None for one in settings):
            return level_shares(weights)
        key = (GUIDANCE, "fields", weights, tuple(x.shape), x.device)
        if key not in run.cache:
            fields = torch.stack(
                [_field(one, weight, x) for one, weight in zip(settings, weights, strict=True)]
            )
            run.cache[key] = {
                subset: share.to(x.device, torch.float32).reshape(_shape(share, x))
                for subset, share in level_fields(fields).items()
            }
        return run.cache[key]


def _snap(weight: float) -> float:
    """0 and 1 are exact, so that a gate's rounding costs no second prediction."""
    for end in (0.0, 1.0):
        if abs(weight - end) <= _EXACT:
            return end
    return weight


def _field(setting: Setting, weight: float, x: Tensor) -> Tensor:
    """(batch, h, w) weights of one reference."""
    batch, size = x.shape[0], (x.shape[-2], x.shape[-1])
    if setting.region is None:
        return torch.full((batch, *size), weight)
    return setting.region.on_latent(size, batch).expand(batch, *size) * weight


def _shape(share: Tensor, x: Tensor) -> tuple[int, ...]:
    """(B, 1, h, w) for pictures; one more axis for latents with frames."""
    return (share.shape[0], 1, *[1] * (x.ndim - 4), *share.shape[-2:])
