"""The frozen base model as the identity recipes see it: noise in, velocity out, gradients through.

It computes in bfloat16 and outside of autocast: nothing of it is trained.
"""

from __future__ import annotations

from pathlib import Path

import comfy.sd
import numpy as np
import torch
from torch import Tensor

from .adapter import Anchors
from .adapter_blocks import Inject, bound, replacements

TIMES = 1001
GUIDANCE = 4.0
"""For bases with a guidance embedding; the paper's."""


class FrozenBase:
    """A Flux file opened by ComfyUI's loader, for training something beside it."""

    def __init__(
        self,
        path: Path,
        device: torch.device,
        dtype: torch.dtype = torch.bfloat16,
        fast: bool = False,
    ) -> None:
        """`fast` compiles the blocks. FileNotFoundError before the base is trained."""
        if not path.is_file():
            raise FileNotFoundError(f"{path} is missing. Train it first: --only base.")
        model = comfy.sd.load_diffusion_model(str(path), model_options={"dtype": dtype}).model
        self.sampling, self.format = model.model_sampling, model.latent_format
        self.net = model.diffusion_model.requires_grad_(False).to(device, dtype)
        self.device, self.dtype = device, dtype
        self.runs = bound(self.net, fast)
        doubles, singles = len(self.net.double_blocks), len(self.net.single_blocks)
        self.anchors = Anchors(self.net.hidden_size, doubles, singles)
        # The sampler walks percents evenly ("simple", "normal"), so training draws them evenly.
        percents = np.linspace(0, 1, TIMES)
        self.course = np.array([float(self.sampling.percent_to_sigma(p)) for p in percents])

    @property
    def text_width(self) -> int:
        return self.net.params.context_in_dim

    def sigmas(self, rng: np.random.Generator, count: int) -> Tensor:
        """(count,) as a sampler meets them: one in each of `count` equal parts of a run."""
        percents = (rng.permutation(count) + rng.random(count)) / count
        drawn = np.interp(percents * (TIMES - 1), np.arange(TIMES), self.course)
        return torch.from_numpy(drawn).float().to(self.device)

    def velocity(
        self,
        noisy: Tensor,
        sigma: Tensor,
        text: Tensor,
        pooled: Tensor,
        injections: dict[tuple[str, int], Inject],
    ) -> Tensor:
        """noisy (B, 16, h, w), sigma (B,), text (B, T, D), pooled (B, V) -> float32 like noisy."""
        extra = {}
        if self.net.params.guidance_embed:
            extra["guidance"] = torch.full_like(sigma, GUIDANCE)
        mixed = {place: self._mixed(inject) for place, inject in injections.items()}
        patches = {"patches_replace": {"dit": replacements(self.runs, mixed)}}
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

    def _mixed(self, inject: Inject) -> Inject:
        """What is trained keeps its float32 weights, as everywhere in the loop."""
        low = self.dtype != torch.float32

        def run(image: Tensor) -> Tensor:
            with torch.autocast(self.device.type, torch.bfloat16, enabled=low):
                return inject(image)

        return run
