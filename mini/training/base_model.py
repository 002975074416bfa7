"""The small FLUX: ComfyUI's own module, made trainable."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import comfy.ldm.flux.model
import comfy.model_management
import comfy.text_encoders.t5
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...model_patches.training.export import write_safetensors
from ..flux_layout import make_flux
from ..seeded import Seeded
from .text_model import CLIP_CONFIG, T5_CONFIG

OWN = {
    "vec_in_dim": CLIP_CONFIG["hidden_size"],
    "context_in_dim": T5_CONFIG["d_model"],
    "guidance_embed": False,
}
"""FLUX.1-schnell's layout: no guidance input, so prompts are strengthened by CFG."""
SILENT = ("_mod.lin.", "modulation.lin.", "final_layer.linear.", "adaLN_modulation.1.")
"""Zero at first: every block then passes its input on, and the velocity is zero."""


def build_flux(draw: Seeded) -> comfy.ldm.flux.model.Flux:
    flux = make_flux(**OWN)
    with torch.no_grad():
        for name, parameter in flux.named_parameters():
            if any(part in name for part in SILENT):
                parameter.zero_()
            elif parameter.ndim > 1:
                parameter.copy_(draw.linear(name, *parameter.shape))
            else:
                parameter.fill_(0.0 if name.endswith("bias") else 1.0)
            parameter.requires_grad_(True)
    return flux


@contextmanager
def trainable(module: nn.Module) -> Iterator[None]:
    """ComfyUI's forward passes are not made for gradients; here they are, and give the same.

    Their residual sums overwrite what the norm before them has kept for its gradient, so norms
    get a copy; and rotary positions take the path that has a gradient. Attention over so few tokens
    trains fastest as plain products.
    """
    before = comfy.model_management.in_training
    rounding = torch.backends.cuda.fp16_bf16_reduction_math_sdp_allowed()
    kinds = (nn.LayerNorm, comfy.text_encoders.t5.T5LayerNorm)
    hooks = [
        m.register_forward_pre_hook(_copy_first) for m in module.modules() if isinstance(m, kinds)
    ]
    comfy.model_management.in_training = True
    torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(True)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.cuda.allow_fp16_bf16_reduction_math_sdp(rounding)
        comfy.model_management.in_training = before
        for hook in hooks:
            hook.remove()


def _copy_first(_: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (arguments[0].clone(), *arguments[1:])


def write_flux(flux: nn.Module, path: Path) -> None:
    """In half precision, under the published key names."""
    state = {}
    for key, value in flux.state_dict().items():
        # Published files say scale; ComfyUI has called it weight since 0.20 and reads both.
        key = key.removesuffix("weight") + "scale" if key.endswith("_norm.weight") else key
        state[key] = value
    write_safetensors(path, state, torch.float16)
