"""Step time with VFA against the unpatched model, at Flux.1's width.

On a CPU with few blocks, and with fewer image tokens where the time is short; on a GPU with all
blocks at 1024 x 1024. Every configuration runs in every round, in turn, in one process.
"""

from __future__ import annotations

import math
from argparse import Namespace

import torch
from comfy.model_patcher import ModelPatcher
from flexid.mini import tiny_flux
from flexid.model_patches.adapters.pulid_flux import IdentityAdapter, attention_shapes
from flexid.model_patches.identity.identity import Encoding, Identity
from flexid.model_patches.inject.vfa import apply_vfa

from . import flux, step
from .plan import Allowance, Plan, Row, choose

TOKENS, TOKEN_DIM, HEADS = 32, 2048, 16


def prepare(options: Namespace, allowance: Allowance) -> Plan:
    blocks = flux.blocks_of(options)
    model = flux.open_flux(blocks, options.dtype)
    patched = _patch(model, blocks)
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


def _patch(model: ModelPatcher, blocks: tuple[int, int]) -> dict[str, ModelPatcher]:
    layers = math.ceil(blocks[0] / 2) + math.ceil(blocks[1] / 4)
    adapter = _adapter(layers)
    return {
        "unpatched": model,
        "weight 0": _apply(model, adapter, [None], weight=0.0),
        "1 identity": _apply(model, adapter, [None]),
        "2 masked": _apply(model, adapter, [_strip(i, 2) for i in range(2)]),
        "4 masked": _apply(model, adapter, [_strip(i, 4) for i in range(4)]),
        "2 unmasked": _apply(model, adapter, [None, None]),
    }


def _apply(
    model: ModelPatcher, adapter: IdentityAdapter, masks: list, weight: float = 1.0
) -> ModelPatcher:
    for seed, mask in enumerate(masks):
        tokens = torch.randn(1, TOKENS, TOKEN_DIM, generator=torch.Generator().manual_seed(seed))
        encoding = Encoding("pulid_flux", adapter.encoder_digest, tokens, tokens)
        person = Identity({"pulid_flux": encoding})
        model = apply_vfa(model, adapter, person, mask=mask, weight=weight, negative="none")
    return model


def _strip(number: int, count: int) -> torch.Tensor:
    mask = torch.zeros(1, 1024, 1024)
    width = 1024 // count
    mask[:, :, number * width : (number + 1) * width] = 1
    return mask


def _adapter(layers: int) -> IdentityAdapter:
    """All layers share one layer's tensors: only shapes and types matter here."""
    generator = torch.Generator().manual_seed(0)
    shapes = attention_shapes(1, flux.WIDTH, TOKEN_DIM, 128 * HEADS)
    layer = {
        name.removeprefix("0."): (torch.randn(shape, generator=generator) * 0.02).bfloat16()
        for name, shape in shapes.items()
    }
    weights = {f"{i}.{name}": value for i in range(layers) for name, value in layer.items()}
    return tiny_flux.adapter(cross_attention=weights, heads=HEADS, digest=f"bench-steps-{layers}")
