"""Step time of SD 1.5 with FlexIP's streams against the unpatched model, under CFG.

Random weights of the published shapes; a FlexIP file with 17 preservation tokens and a
personalisation token for each of the text's 77.
"""

from __future__ import annotations

from argparse import Namespace

import torch
from comfy.model_patcher import ModelPatcher
from flexid.model_patches.adapters.flexip import FAMILY, FlexIPAdapter, FlexIPMaker, Stream
from flexid.model_patches.adapters.flexip_settings import FlexIPSettings
from flexid.model_patches.adapters.resampler import ResamplerDims
from flexid.model_patches.files.modules import wrap
from flexid.model_patches.identity.identity import Encoding, Identity
from flexid.model_patches.inject.flexip import apply_flexip

from . import unet
from .plan import Allowance, Plan
from .step import Configuration
from .unet_steps import plan_steps

DIM, CLIP, POOLED, LATENTS = 768, 1280, 1024, 16


def prepare(options: Namespace, allowance: Allowance) -> Plan:
    return plan_steps(unet.SD15, _configure, options, allowance)


def _configure(model: ModelPatcher, size: unet.Size) -> dict[str, Configuration]:
    adapter = _adapter(unet.widths_of(model))
    person = _person(adapter)
    prompts = unet.prompt(unet.SD15, 1), unet.prompt(unet.SD15, 2)

    def apply(**options: float) -> Configuration:
        done = apply_flexip(model, *prompts, adapter, person, **options)

        def sample(watched: ModelPatcher) -> None:
            unet.sample_step(watched, size, done.positive, done.negative)

        return Configuration(done.model, sample)

    return {
        "unpatched": Configuration(model, lambda m: unet.sample_step(m, size, *prompts)),
        "strength 0": apply(strength=0.0),
        "preservation alone": apply(value=1.0),
        "both streams": apply(value=0.5),
    }


def _adapter(widths: list[int]) -> FlexIPAdapter:
    head = {"inner": DIM, "head": 64, "hidden": 4 * DIM, "depth": 1, "output": unet.SD15.text}
    detail = ResamplerDims(DIM, context=CLIP, latents=LATENTS, **head)
    overall = ResamplerDims(DIM, context=CLIP, query=POOLED, **head)
    personal = ResamplerDims(DIM, context=POOLED, query=unet.SD15.text, **head)
    maker = FlexIPMaker(detail, overall, personal)
    streams = [
        Stream(random_matrices(widths, seed), random_matrices(widths, seed + 1))
        for seed in (10, 20)
    ]
    return FlexIPAdapter(
        name="bench",
        digest="bench",
        encoder_digest="bench",
        variant="FlexIP",
        settings=FlexIPSettings(),
        encoder=wrap(maker),
        reads={"context": CLIP, "pooled": POOLED},
        tokens=LATENTS + 1,
        width=unet.SD15.text,
        preserve=streams[0],
        personal=streams[1],
    )


def random_matrices(widths: list[int], seed: int) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(0.02 * torch.randn(n, unet.SD15.text, generator=generator) for n in widths)


def _person(adapter: FlexIPAdapter) -> Identity:
    shape = (1, adapter.tokens, adapter.width)
    tokens, null = (
        torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2)
    )
    pooled = torch.randn(1, POOLED, generator=torch.Generator().manual_seed(3))
    made = Encoding(FAMILY, adapter.encoder_digest, tokens, null, {"pooled": pooled})
    return Identity({FAMILY: made})
