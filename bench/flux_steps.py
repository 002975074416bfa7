"""A section that measures steps of a Flux at the published width, and what it patches with."""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Callable

import torch
from comfy.model_patcher import ModelPatcher
from flexid.mini import tiny_flux
from flexid.model_patches.adapters.pulid_flux import IdentityAdapter, attention_shapes
from flexid.model_patches.identity.identity import Encoding, Identity
from flexid.model_patches.inject.vfa import apply_vfa

from . import flux, step
from .plan import Allowance, Plan, Row, choose

TOKENS, TOKEN_DIM, HEADS = 32, 2048, 16

Blocks = tuple[int, int]
Patch = Callable[[ModelPatcher, Blocks], dict[str, ModelPatcher]]
"""(model, its double and single blocks) -> patched models by name, the unpatched one first."""


def plan_steps(options: Namespace, allowance: Allowance, patch: Patch) -> Plan:
    """Every configuration in every round, in turn, at the largest size that fits."""
    blocks = flux.blocks_of(options)
    model = flux.open_flux(blocks, options.dtype)
    patched = patch(model, blocks)
    for one in patched.values():  # moves weights and folds
        flux.sample_step(one, flux.WARM_UP)
    tried = flux.step_seconds(model, flux.TRIED)

    def cost(size: flux.Size) -> float:
        steps = len(patched) * (2 if torch.cuda.is_available() else 1)
        return tried * size.work / flux.TRIED.work * steps

    size, rounds = choose(flux.sizes(), cost, allowance.left(), options.rounds)
    shape = {"blocks": "+".join(map(str, blocks)), "dtype": flux.NAMES[options.dtype]}
    configurations = {name: flux.at_size(one, size) for name, one in patched.items()}

    def measure() -> list[Row]:
        times = step.measure(configurations, allowance, rounds)
        return step.rows(configurations, times, size.columns() | shape)

    what = f"{rounds} rounds of {len(patched)} configurations, {size}, " + ", ".join(
        [f"{shape['blocks']} blocks", shape["dtype"]]
    )
    return Plan(rounds * cost(size), what, measure)


def layers_for(blocks: Blocks) -> int:
    """Cross-attentions of a PuLID file: behind every second double, every fourth single block."""
    return math.ceil(blocks[0] / 2) + math.ceil(blocks[1] / 4)


def random_adapter(layers: int) -> IdentityAdapter:
    """All layers share one layer's tensors: only shapes and types matter here."""
    generator = torch.Generator().manual_seed(0)
    shapes = attention_shapes(1, flux.WIDTH, TOKEN_DIM, 128 * HEADS)
    layer = {
        name.removeprefix("0."): (torch.randn(shape, generator=generator) * 0.02).bfloat16()
        for name, shape in shapes.items()
    }
    weights = {f"{i}.{name}": value for i in range(layers) for name, value in layer.items()}
    return tiny_flux.adapter(cross_attention=weights, heads=HEADS, digest=f"bench-steps-{layers}")


def random_identity(adapter: IdentityAdapter, seed: int) -> Identity:
    tokens = torch.randn(1, TOKENS, TOKEN_DIM, generator=torch.Generator().manual_seed(seed))
    encoding = Encoding("pulid_flux", adapter.encoder_digest, tokens, tokens)
    return Identity({"pulid_flux": encoding})


def apply_each(
    model: ModelPatcher, adapter: IdentityAdapter, masks: list, weight: float = 1.0
) -> ModelPatcher:
    """Apply VFA once for each mask; None is the whole picture."""
    for seed, mask in enumerate(masks):
        person = random_identity(adapter, seed)
        model = apply_vfa(model, adapter, person, mask=mask, weight=weight, negative="none")
    return model
