"""Step time with VFA and SAA against the unpatched model, at Flux.1's width.

On a CPU with few blocks, and with fewer image tokens where the time is short; on a GPU with all
blocks at 1024 x 1024. Every configuration runs in every round, in turn, in one process.
"""

from __future__ import annotations

from argparse import Namespace

import torch
from comfy.model_patcher import ModelPatcher
from flexid.model_patches.inject.saa import apply_saa
from flexid.model_patches.inject.saa_people import make_person
from flexid.model_patches.inject.saa_settings import SaaSettings

from .flux_steps import (
    Blocks,
    apply_each,
    layers_for,
    plan_steps,
    random_adapter,
    random_identity,
)
from .plan import Allowance, Plan

SETTINGS = SaaSettings(unplaced="strips", alpha=1.0)
"""Layout control in every step, which costs most."""


def prepare(options: Namespace, allowance: Allowance) -> Plan:
    return plan_steps(options, allowance, _patch)


def _patch(model: ModelPatcher, blocks: Blocks) -> dict[str, ModelPatcher]:
    adapter = random_adapter(layers_for(blocks))
    people = [make_person(random_identity(adapter, seed)) for seed in range(2)]
    return {
        "unpatched": model,
        "weight 0": apply_each(model, adapter, [None], weight=0.0),
        "1 identity": apply_each(model, adapter, [None]),
        "2 masked": apply_each(model, adapter, [_strip(i, 2) for i in range(2)]),
        "4 masked": apply_each(model, adapter, [_strip(i, 4) for i in range(4)]),
        "2 unmasked": apply_each(model, adapter, [None, None]),
        "2 people by SAA": apply_saa(model, adapter, people, SETTINGS).model,
    }


def _strip(number: int, count: int) -> torch.Tensor:
    mask = torch.zeros(1, 1024, 1024)
    width = 1024 // count
    mask[:, :, number * width : (number + 1) * width] = 1
    return mask
