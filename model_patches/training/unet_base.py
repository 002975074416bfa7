"""A frozen Stable Diffusion UNet as trainers see it: noise in, its own kind of prediction out,
gradients through what is added to its cross-attention.

It computes in the format that it was loaded in, outside of autocast: nothing of it is trained.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from comfy.ldm.modules.attention import CrossAttention, optimized_attention
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..inject.call import Site
from ..inject.unet import attention_names, cross_attention_of, unet_of, unet_sites

READ = "flexid_training_read"
"""Key of the tokens that a block's attention reads, in the options that both callbacks share."""

Inject = Callable[[Site, CrossAttention, Tensor], Tensor]
"""(site, its attention, tokens (B, L, C) that it reads) -> what is added to its output."""
Inside = Callable[[Site, Tensor, Tensor], Tensor]
"""(site, queries (B, L, C), the text's attention (B, L, C)) -> what is added to the latter, before
the output layer."""


class UNetBase:
    """A UNet of ComfyUI's, for training something beside its cross-attention."""

    def __init__(self, model: ModelPatcher, device: torch.device) -> None:
        """Raises ValueError for another kind of model."""
        self.sites = unet_sites(model, "The trainer")
        self.model: Any = model.model
        self.net: Any = unet_of(model).requires_grad_(False).eval().to(device)
        self.device, self.dtype = device, next(self.net.parameters()).dtype
        self.attention = dict(cross_attention_of(self.net))
        self.sampling: Any = model.get_model_object("model_sampling")
        self.latents: Any = model.get_model_object("latent_format")

    @property
    def text_width(self) -> int:
        """Channels of the text that the cross-attention reads."""
        return next(iter(self.attention.values())).to_k.in_features

    @property
    def levels(self) -> int:
        """How many noise levels the base was trained on."""
        return len(self.sampling.sigmas)

    @cached_property
    def all_attention(self) -> list[CrossAttention]:
        """Every block's self- and then its cross-attention, in the order of diffusers."""
        names = (name.removeprefix("diffusion_model.") for name in attention_names(self.net))
        return [self.net.get_submodule(name) for name in names]

    @property
    def is_low(self) -> bool:
        """Whether the base or the caller computes in low precision: what is trained beside it keeps
        its float32 weights then, and computes with autocast."""
        return self.dtype != torch.float32 or torch.is_autocast_enabled(self.device.type)

    def sigmas_at(self, chances: Sequence[float]) -> Tensor:
        """Noise at these places among the levels, each in [0, 1)."""
        levels = [int(one * self.levels) for one in chances]
        return self.sigma(torch.tensor(levels, device=self.device))

    def sigma(self, level: Tensor) -> Tensor:
        """Noise of the levels (B,), 0 the least noisy."""
        return self.sampling.sigmas.to(level.device)[level]

    def add_noise(self, latents: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
        """latents (B, C, h, w) as the VAE encodes them -> noisy ones."""
        return self.sampling.noise_scaling(_wide(sigma), noise, self.latents.process_in(latents))

    def target(self, latents: Tensor, noisy: Tensor, sigma: Tensor) -> Tensor:
        """What the base itself was trained to predict: noise, velocity or flow, as it says.

        Every kind gives the clean latents as an affine function of the prediction; its slope and
        offset are read off predictions of 0 and 1.
        """
        wide, clean = _wide(sigma), self.latents.process_in(latents)
        zeros = torch.zeros_like(noisy)
        offset = self.sampling.calculate_denoised(wide, zeros, noisy)
        slope = self.sampling.calculate_denoised(wide, zeros + 1, noisy) - offset
        return (clean - offset) / slope

    def predict(
        self,
        noisy: Tensor,
        sigma: Tensor,
        text: Tensor,
        pooled: Tensor | None,
        inject: Inject | None,
        inside: Inside | None = None,
    ) -> Tensor:
        """noisy (B, 4, h, w), sigma (B,), text (B, T, c), pooled (B, P) of SDXL -> float32."""
        options: dict[str, Any] = {}
        if inject is not None:
            options["patches"] = self._patches(inject, self.is_low)
        if inside is not None:
            options["patches_replace"] = {"attn2": self._replacements(inside, self.is_low)}
        with torch.autocast(self.device.type, enabled=False):
            out = self.net(
                self.sampling.calculate_input(sigma, noisy).to(self.dtype),
                self.sampling.timestep(sigma).float(),
                context=text.to(self.dtype),
                y=self._conditions(noisy, pooled),
                transformer_options=options,
            )
        return out.float()

    def _patches(self, inject: Inject, low: bool) -> dict[str, list]:
        """Autocast comes back where low precision is: see `is_low`."""
        places = {(site.kind, site.number, site.depth): site for site in self.sites}

        def read(n: Tensor, context: Tensor, value: Tensor, extra: dict) -> tuple:
            extra[READ] = n
            return n, context, value

        def add(n: Tensor, extra: dict) -> Tensor:
            site = places[(*extra["block"], extra.get("block_index", 0))]
            with torch.autocast(self.device.type, torch.bfloat16, enabled=low):
                added = inject(site, self.attention[site], extra.pop(READ))
            return n + added.to(n.dtype)

        return {"attn2_patch": [read], "attn2_output_patch": [add]}

    def _replacements(self, inside: Inside, low: bool) -> dict[tuple, Callable]:
        def make(site: Site) -> Callable:
            def attend(q: Tensor, k: Tensor, v: Tensor, extra: dict) -> Tensor:
                out = optimized_attention(
                    q, k, v, extra["n_heads"], attn_precision=extra["attn_precision"]
                )
                with torch.autocast(self.device.type, torch.bfloat16, enabled=low):
                    added = inside(site, q, out)
                return out + added.to(out.dtype)

            return attend

        return {(site.kind, site.number, site.depth): make(site) for site in self.sites}

    def _conditions(self, noisy: Tensor, pooled: Tensor | None) -> Tensor | None:
        """SDXL's pooled text and sizes: pictures that were neither cut nor scaled."""
        if self.net.num_classes is None:
            return None
        height, width = (8 * side for side in noisy.shape[-2:])
        made = self.model.encode_adm(
            pooled_output=pooled,
            device=noisy.device,
            height=height,
            width=width,
            target_height=height,
            target_width=width,
        )
        return made.to(noisy.device, self.dtype)


def _wide(sigma: Tensor) -> Tensor:
    return sigma[:, None, None, None]
