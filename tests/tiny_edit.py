"""Small models of the kinds that take reference pictures, of ComfyUI's own classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.model_patcher
import comfy.sample
import comfy.supported_models
import pytest
import tiny_unet
import torch
from flexid.mini.flux_layout import LAYOUT
from torch import Tensor


@dataclass(frozen=True)
class Kind:
    """One kind of model and what its prompts and latents look like."""

    config: str
    """Name in comfy.supported_models."""
    unet: dict[str, Any]
    text: int
    """Width of a prompt's tokens."""
    channels: int = 16
    frames: bool = False
    """Whether latents have an axis of frames."""
    extra: dict[str, Any] = field(default_factory=dict)
    """What every prompt carries besides."""

    def latent(self, seed: int, size: tuple[int, int] = (8, 8), batch: int = 1) -> Tensor:
        frames = (1,) if self.frames else ()
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(batch, self.channels, *frames, *size, generator=generator)

    def model(self) -> comfy.model_patcher.ModelPatcher:
        """Skips the test where ComfyUI is older than this kind of model."""
        if not hasattr(comfy.supported_models, self.config):
            pytest.skip(f"this ComfyUI has no {self.config}")
        return tiny_unet.patcher_of(getattr(comfy.supported_models, self.config)(dict(self.unet)))

    def prompt(self, seed: int, references: Sequence[int] = (), **extra: Any) -> list:
        """CONDITIONING; each reference is the seed of a picture."""
        generator = torch.Generator().manual_seed(seed)
        text = torch.randn(1, 12, self.text, generator=generator)
        options = {"pooled_output": torch.randn(1, 32, generator=generator), **self.extra, **extra}
        if references:
            options["reference_latents"] = [self.latent(one, (6, 8)) for one in references]
        if "attention_mask" in options:
            options["attention_mask"] = torch.ones(1, 12, dtype=torch.long)
        return [[text, options]]

    def sample(
        self,
        model: comfy.model_patcher.ModelPatcher,
        positive: list,
        negative: list,
        *,
        steps: int = 2,
        cfg: float = 1.0,
    ) -> Tensor:
        noise = self.latent(0)
        return comfy.sample.sample(
            model, noise, steps, cfg, "euler", "simple", positive, negative,
            torch.zeros_like(noise), disable_pbar=True, seed=0,
        )  # fmt: skip


_FLUX = {**LAYOUT, "image_model": "flux", "vec_in_dim": 32}
_FLUX2 = {
    **_FLUX,
    "image_model": "flux2",
    "in_channels": 128,
    "out_channels": 128,
    "patch_size": 1,
    "hidden_size": 128,
    "num_heads": 1,
    "depth": 1,
    "depth_single_blocks": 2,
    "vec_in_dim": None,
    "axes_dim": [32, 32, 32, 32],
    "theta": 2000,
    "qkv_bias": False,
    "ops_bias": False,
    "guidance_embed": True,
    "txt_ids_dims": [3],
    "global_modulation": True,
    "mlp_silu_act": True,
    "default_ref_method": "index",
    "ref_index_scale": 10.0,
}
_QWEN = {
    "image_model": "qwen_image",
    "num_layers": 2,
    "attention_head_dim": 128,
    "num_attention_heads": 2,
    "joint_attention_dim": 64,
    "axes_dims_rope": (16, 56, 56),
}
_KREA2 = {
    "image_model": "krea2",
    "features": 128,
    "tdim": 32,
    "txtdim": 32,
    "heads": 2,
    "kvheads": 1,
    "layers": 2,
    "txtlayers": 2,
    "txtheads": 2,
    "txtkvheads": 2,
}
_OMNIGEN2 = {
    "image_model": "omnigen2",
    "hidden_size": 192,
    "num_layers": 2,
    "num_refiner_layers": 1,
    "num_attention_heads": 2,
    "num_kv_heads": 1,
    "multiple_of": 32,
    "axes_dim_rope": (32, 32, 32),
    "text_feat_dim": 48,
}

KINDS = {
    "flux": Kind("Flux", _FLUX, 64, extra={"guidance": 4.0}),
    "flux2": Kind("Flux2", _FLUX2, 64, channels=128, extra={"guidance": 4.0}),
    "qwen": Kind("QwenImage", _QWEN, 64, frames=True),
    "krea2": Kind("Krea2", _KREA2, 64, frames=True, extra={"reference_latents_method": "index"}),
    "omnigen2": Kind("Omnigen2", _OMNIGEN2, 48, extra={"attention_mask": None}),
}

_CHROMA = {
    **{"image_model": "chroma", "in_channels": 64, "out_channels": 64, "context_in_dim": 64},
    **{"hidden_size": 256, "mlp_ratio": 4.0, "num_heads": 2, "depth": 1, "depth_single_blocks": 1},
    **{"axes_dim": [16, 56, 56], "theta": 10000, "patch_size": 2, "qkv_bias": True, "in_dim": 64},
    **{"out_dim": 256, "hidden_dim": 64, "n_layers": 1, "txt_ids_dims": [], "vec_in_dim": None},
}
_Z_IMAGE = {
    **{"image_model": "lumina2", "patch_size": 2, "in_channels": 16, "dim": 128, "n_layers": 1},
    **{"cap_feat_dim": 64, "n_refiner_layers": 1, "qk_norm": True, "n_heads": 2, "n_kv_heads": 2},
    **{"axes_dims": [16, 24, 24], "axes_lens": [64, 64, 64], "rope_theta": 10000.0},
    **{"ffn_dim_multiplier": 1.0, "norm_eps": 1e-5},
}

UNTESTED = {"chroma": Kind("Chroma", _CHROMA, 64), "z-image": Kind("Lumina2", _Z_IMAGE, 64)}
"""Built, but not sampled with references."""
