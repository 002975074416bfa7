"""The frozen base model as the identity recipes see it: noise in, velocity out, gradients through.

It computes in the device's fastest format and outside of autocast: nothing of it is trained.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.sd
import torch
from comfy.ldm.flux.model import Flux
from torch import Tensor

from ..inject.flux import FITTING, pulid_blocks
from .flux_blocks import Inject, Injections, bound, replacements
from .precision import fastest_dtype

GUIDANCE = 4.0
"""For bases with a guidance embedding; the paper's."""


@dataclass(frozen=True)
class Anchors:
    """Where cross-attention goes into a Flux: its width and how many blocks it has."""

    hidden: int
    doubles: int
    singles: int

    @property
    def blocks(self) -> list[tuple[str, int]]:
        """As the pack places them (inject/flux.py)."""
        return pulid_blocks(self.doubles, self.singles)

    @property
    def all_blocks(self) -> list[tuple[str, int]]:
        """Every block, in the order in which they run."""
        counts = (("double_block", self.doubles), ("single_block", self.singles))
        return [(kind, number) for kind, count in counts for number in range(count)]


class FrozenBase:
    """A Flux file opened by ComfyUI's loader, for training something beside it."""

    def __init__(
        self,
        path: Path,
        device: torch.device,
        dtype: torch.dtype | None = None,
        fast: bool = False,
        guidance: float = GUIDANCE,
        checkpointing: bool = False,
    ) -> None:
        """dtype: the device's fastest when None; `fast` compiles the blocks; `checkpointing` keeps
        what goes into a block alone, and computes the rest again for the gradient.

        Raises FileNotFoundError before the base is trained, ValueError for another model.
        """
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing. Train it first: --only base.")
        dtype = dtype or fastest_dtype(device)
        self.patcher = comfy.sd.load_diffusion_model(str(path), model_options={"dtype": dtype})
        model: Any = self.patcher.model
        if not isinstance(model.diffusion_model, Flux):
            raise ValueError(
                f"{path.name} holds {type(model).__name__}, a Flux.1 is needed. Name {FITTING}."
            )
        self.guidance, self.checkpointing = guidance, checkpointing
        self.sampling, self.format = model.model_sampling, model.latent_format
        self.net: Any = model.diffusion_model.requires_grad_(False).to(device, dtype)
        self.device, self.dtype = device, dtype
        self.runs = bound(self.net, fast)
        doubles, singles = len(self.net.double_blocks), len(self.net.single_blocks)
        self.anchors = Anchors(self.net.hidden_size, doubles, singles)

    @property
    def text_width(self) -> int:
        return self.net.params.context_in_dim

    def velocity(
        self,
        noisy: Tensor,
        sigma: Tensor,
        text: Tensor,
        pooled: Tensor,
        injections: Injections,
    ) -> Tensor:
        """noisy (B, 16, h, w), sigma (B,), text (B, T, D), pooled (B, V) -> float32 like noisy."""
        extra = {}
        if self.net.params.guidance_embed:
            extra["guidance"] = torch.full_like(sigma, self.guidance)
        low = self.dtype != torch.float32 or torch.is_autocast_enabled(self.device.type)
        mixed = {place: self._autocast_inject(inject, low) for place, inject in injections.items()}
        patches = {"patches_replace": {"dit": replacements(self.runs, mixed, self.checkpointing)}}
        with torch.autocast(self.device.type, enabled=False):
            out = self.net(
                noisy.to(self.dtype),
                self.sampling.timestep(sigma).float(),
                context=text.to(self.dtype),
                y=pooled.to(self.dtype),
                transformer_options=patches,
                **extra,
            )
        return out.float()

    def _autocast_inject(self, inject: Inject, low: bool) -> Inject:
        """With autocast where the base or the caller computes in low precision: what is trained
        keeps its float32 weights, as everywhere in the loop."""

        def run(image: Tensor) -> Tensor:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=low):
                return inject(image)

        return run
