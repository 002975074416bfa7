"""Step time of SDXL with VFA against the unpatched model, under CFG.

Random weights of the published shapes; 32 identity tokens, as PuLID v1.1 makes them.
"""

from __future__ import annotations

from argparse import Namespace
from typing import cast

import torch
from comfy.model_patcher import ModelPatcher
from flexid.model_patches.adapters.flexip import Stream
from flexid.model_patches.adapters.idformer import IDFormer, IDFormerDims
from flexid.model_patches.adapters.pulid_sdxl import FAMILY, SdxlAdapter
from flexid.model_patches.files.modules import wrap
from flexid.model_patches.identity.identity import Encoding, Identity
from flexid.model_patches.inject.vfa import apply_vfa
from flexid.model_patches.inject.vfa_unet import METHODS

from . import unet
from .plan import Allowance, Plan
from .step import Configuration
from .unet_steps import plan_steps

DIMS = IDFormerDims(
    queries=32, dim=64, output=unet.SDXL.text, layers=1, groups=1, inner=64, hidden=64,
    id_tokens=5, condition=64, vision=64,
)  # fmt: skip
"""Only the tokens that come out have the published size: no encoder runs here."""


def prepare(options: Namespace, allowance: Allowance) -> Plan:
    return plan_steps(unet.SDXL, _configure, options, allowance)


def _configure(model: ModelPatcher, size: unet.Size) -> dict[str, Configuration]:
    adapter = _adapter(unet.widths_of(model))
    tokens, null = (
        torch.randn(1, DIMS.queries, DIMS.output, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 2)
    )
    person = Identity({FAMILY: Encoding(FAMILY, adapter.encoder_digest, tokens, null)})
    prompts = unet.prompt(unet.SDXL, 1), unet.prompt(unet.SDXL, 2)

    def step(patched: ModelPatcher) -> Configuration:
        return Configuration(patched, lambda m: unet.sample_step(m, size, *prompts))

    patched = {name: apply_vfa(model, adapter, person, method=name) for name in METHODS}
    return {"unpatched": step(model)} | {name: step(one) for name, one in patched.items()}


def _adapter(widths: list[int]) -> SdxlAdapter:
    generator = torch.Generator().manual_seed(4)
    keys, values = (
        tuple(0.02 * torch.randn(n, unet.SDXL.text, generator=generator) for n in widths)
        for _ in range(2)
    )
    encoder = wrap(cast(torch.nn.Module, IDFormer(DIMS)))
    return SdxlAdapter("bench", "bench", "bench", "1.1", encoder, Stream(keys, values))
