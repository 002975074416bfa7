"""Step time of SD 1.5 with one to three people by SAA against the unpatched model, under CFG.

Random weights of the published shapes; 4 face tokens for each person, as DynamicID makes them. The
LoRA of its files is merged into the weights before the first step, so it costs none.
"""

from __future__ import annotations

from argparse import Namespace

import torch
from comfy.model_patcher import ModelPatcher
from flexid.model_patches.adapters.dynamicid import FAMILY, DynamicIDAdapter
from flexid.model_patches.adapters.flexip import Stream
from flexid.model_patches.adapters.ip_tokens import FacePlusTokens
from flexid.model_patches.adapters.resampler import ResamplerDims
from flexid.model_patches.files.modules import wrap
from flexid.model_patches.identity.identity import Encoding, Identity
from flexid.model_patches.inject.saa import apply_saa
from flexid.model_patches.inject.saa_people import Person, make_person
from flexid.model_patches.inject.saa_settings import SaaSettings

from . import unet
from .flexip import random_matrices
from .plan import Allowance, Plan
from .step import Configuration
from .unet_steps import plan_steps

TOKENS, FACE, CLIP = 4, 512, 1280
SETTINGS = SaaSettings(unplaced="strips", alpha=1.0)
"""Layout control in every step, which costs most."""


def prepare(options: Namespace, allowance: Allowance) -> Plan:
    return plan_steps(unet.SD15, _configure, options, allowance)


def _configure(model: ModelPatcher, size: unet.Size) -> dict[str, Configuration]:
    adapter = _adapter(unet.widths_of(model))
    prompts = unet.prompt(unet.SD15, 1), unet.prompt(unet.SD15, 2)

    def step(patched: ModelPatcher) -> Configuration:
        return Configuration(patched, lambda m: unet.sample_step(m, size, *prompts))

    found = {"unpatched": step(model)}
    for count in (1, 2, 3):
        people = [_person(adapter, seed) for seed in range(count)]
        done = apply_saa(model, adapter, people, SETTINGS, lora_strength=0.0)
        found[f"people: {count}"] = step(done.model)
    return found


def _adapter(widths: list[int]) -> DynamicIDAdapter:
    # Only the tokens that come out have the published size: no encoder runs here.
    dims = ResamplerDims(64, 64, 64, 64, 1, CLIP, unet.SD15.text)
    encoder = FacePlusTokens((FACE, 64, TOKENS, unet.SD15.text), dims, None)
    return DynamicIDAdapter(
        name="bench",
        digest="bench",
        encoder_digest="bench",
        encoder=wrap(encoder),
        stream=Stream(random_matrices(widths, 30), random_matrices(widths, 31)),
        lora={},
        tokens=TOKENS,
        width=unet.SD15.text,
        face=FACE,
        clip=CLIP,
    )


def _person(adapter: DynamicIDAdapter, seed: int) -> Person:
    tokens, null = (
        torch.randn(1, TOKENS, adapter.width, generator=torch.Generator().manual_seed(number))
        for number in (seed, 99)
    )
    encoding = Encoding(FAMILY, adapter.encoder_digest, tokens, null)
    return make_person(Identity({FAMILY: encoding}))
