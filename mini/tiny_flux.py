"""A tiny Flux and its adapter in memory, for tests and benchmarks: ComfyUI's own classes, sampled
by its own sampler, with seeded random weights. Every size can be changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.model_patcher
import comfy.sample
import comfy.sd
import torch
from torch import Tensor

from ..model_patches.adapters.pulid_flux import IdentityAdapter, attention_shapes
from .flux_layout import make_flux

VECTOR, CONTEXT = 32, 64
"""Widths of the pooled text and of the text tokens."""
TOKEN_DIM = 64


def fill(module: torch.nn.Module, seed: int = 0) -> None:
    """Seeded weights of a size that keeps a residual stream alive."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        if parameter.ndim >= 2:
            value = noise / parameter.shape[-1] ** 0.5
        else:
            value = 0.02 * noise + (1.0 if name.endswith(("norm.weight", "norm.scale")) else 0.0)
        parameter.data = value.to(parameter.dtype)


def flux(dtype: torch.dtype = torch.float32, **changes: Any) -> comfy.model_patcher.ModelPatcher:
    """A Flux that ComfyUI's stock loader recognises, hidden 256, 2 double + 4 single blocks."""
    return open_flux(flux_state(**changes), dtype)


def flux_state(**changes: Any) -> dict[str, Tensor]:
    """Its tensors under the file's names, float32."""
    model = make_flux(**{"vec_in_dim": VECTOR, "context_in_dim": CONTEXT, **changes})
    fill(model)
    return model.state_dict()


def open_flux(state: Mapping[str, Tensor], dtype: torch.dtype) -> comfy.model_patcher.ModelPatcher:
    """Through ComfyUI's stock loader."""
    cast = {name: value.to(dtype) for name, value in state.items()}
    patcher = comfy.sd.load_diffusion_model_state_dict(cast, model_options={"dtype": dtype})
    assert type(patcher.model).__name__ in ("Flux", "FluxSchnell")
    return patcher


def adapter(
    dim: int = 256, layers: int = 2, seed: int = 1, width: int = TOKEN_DIM, **changes: Any
) -> IdentityAdapter:
    """Cross-attention for `flux()` to tokens of `width`, strong enough to change every picture."""
    inner = 128 * (dim // 128)
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in attention_shapes(layers, dim, width, inner).items():
        noise = torch.randn(shape, generator=generator)
        scaled = noise / shape[-1] ** 0.5 if len(shape) > 1 else 0.1 * noise
        weights[name] = scaled + (1.0 if name.endswith("m1.weight") else 0.0)
    fields = {
        "family": "pulid_flux",
        "name": "tiny.safetensors",
        "digest": f"tiny-{dim}-{layers}-{seed}-{width}",
        "encoder_digest": "tiny-encoder",
        "encoder": None,
        "cross_attention": weights,
        "heads": inner // 128,
        **changes,
    }
    return IdentityAdapter(**fields)


def conditioning(seed: int, length: int = 16, **extra: Any) -> list:
    generator = torch.Generator().manual_seed(seed)
    text = torch.randn(1, length, CONTEXT, generator=generator)
    pooled = torch.randn(1, VECTOR, generator=generator)
    return [[text, {"pooled_output": pooled, "guidance": 4.0, **extra}]]


def sample(
    model: comfy.model_patcher.ModelPatcher,
    *,
    size: tuple[int, int] = (16, 16),
    batch: int = 1,
    steps: int = 4,
    cfg: float = 1.0,
    sampler: str = "euler",
    scheduler: str = "simple",
    positive: list | None = None,
    negative: list | None = None,
    denoise: float = 1.0,
    seed: int = 0,
) -> Tensor:
    """One run through ComfyUI's stock sampling."""
    latent = torch.zeros(batch, 16, *size)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed))
    return comfy.sample.sample(
        model,
        noise,
        steps,
        cfg,
        sampler,
        scheduler,
        positive or conditioning(10),
        negative or conditioning(11),
        latent,
        denoise=denoise,
        disable_pbar=True,
        seed=seed,
    )
