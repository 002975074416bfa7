"""What two people with boxes cost on Flux.1, by Apply SAA and by Apply VFA with masks.

A Flux of the published width, and few blocks on a CPU. What was measured is the share of its own
unpatched step. Of the whole model it is computed: Flux.1 has 20 anchors in 19 double and 38 single
blocks. With d + 2 d blocks and n anchors, the share is taken times (20 / n) (d / 19), because all
blocks of a kind cost the same. Give 1024 x 1024 pixels enough time: `--only couple --minutes 30`.
"""

from __future__ import annotations

from argparse import Namespace
from dataclasses import replace

from comfy.model_patcher import ModelPatcher
from flexid.model_patches.inject.region import Box, box_region
from flexid.model_patches.inject.saa import apply_saa
from flexid.model_patches.inject.saa_people import make_person
from flexid.model_patches.inject.saa_settings import SaaSettings

from . import flux
from .flux_steps import (
    Blocks,
    apply_each,
    layers_for,
    plan_steps,
    random_adapter,
    random_identity,
)
from .plan import Allowance, Plan, Row

WHOLE = "of 19+38 blocks %"
BOXES: tuple[Box, ...] = ((0.1, 0.08, 0.85, 0.44), (0.1, 0.56, 0.85, 0.92))
"""As in the template Two people, two boxes (Flux.1)."""
COSTLY = SaaSettings(alpha=1.0)
"""Activation and layout control in every step, which costs most."""
TEMPLATE = SaaSettings(alpha=1.0, beta=4.0, activation=False)


def prepare(options: Namespace, allowance: Allowance) -> Plan:
    plan = plan_steps(options, allowance, _patch)
    blocks = flux.blocks_of(options)
    return replace(plan, measure=lambda: [_with_share(row, blocks) for row in plan.measure()])


def _patch(model: ModelPatcher, blocks: Blocks) -> dict[str, ModelPatcher]:
    adapter = random_adapter(layers_for(blocks))
    somebody = [make_person(random_identity(adapter, seed)) for seed in range(2)]
    regions = [box_region(box) for box in BOXES]
    couple = [replace(one, region=region) for one, region in zip(somebody, regions, strict=True)]
    return {
        "unpatched": model,
        "1 person": apply_saa(model, adapter, somebody[:1], COSTLY).model,
        "2 people, boxes": apply_saa(model, adapter, couple, COSTLY).model,
        "2 people, boxes, as the template": apply_saa(model, adapter, couple, TEMPLATE).model,
        "2 by Apply VFA, masks": apply_each(model, adapter, [one.mask for one in regions]),
    }


def _with_share(row: Row, blocks: Blocks) -> Row:
    """With the share of the whole model, where the blocks stand one to two as they do there."""
    doubles, singles = blocks
    if singles != 2 * doubles:
        return row
    anchors = layers_for((flux.DOUBLES, flux.SINGLES)) / layers_for(blocks)
    return row | {WHOLE: row["inside anchors %"] * anchors * doubles / flux.DOUBLES}
