"""What tests of anchors on a small Flux share: a mask, a spy, and others who patch the model."""

from __future__ import annotations

from typing import Any

import comfy.controlnet
import tiny
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor


def left(size: int = 128) -> Tensor:
    """A mask (1, size, size) of the left half."""
    mask = torch.zeros(1, size, size)
    mask[:, :, : size // 2] = 1
    return mask


def after_first_block(model: ModelPatcher, **options: Any) -> Tensor:
    """What the second double block receives in the first step: the first block's output."""
    seen = []

    def spy(args, extra):
        seen.append(args["img"].clone())
        return extra["original_block"](args)

    watched = model.clone()
    watched.set_model_patch_replace(spy, "dit", "double_block", 1)
    tiny.sample(watched, steps=1, **options)
    return seen[0]


def doubling(model: ModelPatcher, key: tuple[str, int], calls: list) -> ModelPatcher:
    """Another pack's patch: chains whoever owned the block, then scales the image tokens."""
    patched = model.clone()
    previous = (
        patched.model_options["transformer_options"]
        .get("patches_replace", {})
        .get("dit", {})
        .get(key)
    )

    def patch(args, extra):
        calls.append(key)
        out = previous(args, extra) if previous else extra["original_block"](args)
        return {**out, "img": out["img"] * 1.1}

    patched.set_model_patch_replace(patch, "dit", *key)
    return patched


class Control(comfy.controlnet.ControlBase):
    """A control that adds constants after the first block of both stacks."""

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        tokens = (x_noisy.shape[-2] // 2) * (x_noisy.shape[-1] // 2)
        add = torch.full((x_noisy.shape[0], tokens, 256), 0.3)
        return {"input": [add], "output": [add]}

    def copy(self):
        return self

    def get_models(self):
        return []
