"""A Flux of the published width with as many blocks as asked for, and a step of it."""

from __future__ import annotations

import re
from argparse import Namespace
from dataclasses import dataclass
from functools import lru_cache

import comfy.sample
import torch
from comfy.model_patcher import ModelPatcher
from flexid.mini import tiny_flux
from torch import Tensor

from .plan import Row
from .step import Configuration

WIDTH, HEADS, TEXT_WIDTH, POOLED = 3072, 24, 4096, 768
DOUBLES, SINGLES = 19, 38
"""Blocks of the published model. All of a kind cost the same."""
FEW = (2, 4)
"""Blocks on a CPU: as large a share of them is anchored as of the whole model, within 5 %."""
BLOCK = re.compile(r"(double|single)_blocks\.0\.(.+)")
NAMES = {torch.float32: "fp32", torch.bfloat16: "bf16"}


@dataclass(frozen=True)
class Size:
    """A square picture. The text keeps the share of the tokens that it has at 1024 x 1024."""

    side: int

    @property
    def image(self) -> int:
        return (self.side // 16) ** 2

    @property
    def text(self) -> int:
        return self.image // 8

    @property
    def work(self) -> float:
        """Arithmetic of a block, in a unit of its own: linear layers and attention."""
        tokens = self.image + self.text
        return tokens * (6.0 * WIDTH + tokens)

    def columns(self) -> Row:
        return {"image tokens": self.image, "text tokens": self.text}

    def __str__(self) -> str:
        return f"{self.side}x{self.side} pixels ({self.image} image + {self.text} text tokens)"


SIZES = tuple(map(Size, (1024, 768, 512, 384, 256)))
TRIED = Size(256)
"""Large enough that a step's time grows with the arithmetic alone from here on."""
WARM_UP = Size(128)


def sizes() -> tuple[Size, ...]:
    """What may be measured: on a GPU only the full size."""
    return SIZES[:1] if torch.cuda.is_available() else SIZES


def blocks_of(options: Namespace) -> tuple[int, int]:
    """Double and single blocks: those asked for, else all on a GPU and FEW on a CPU."""
    doubles, singles = (DOUBLES, SINGLES) if torch.cuda.is_available() else FEW
    return options.double or doubles, options.single or singles


@lru_cache(1)
def open_flux(blocks: tuple[int, int], dtype: torch.dtype) -> ModelPatcher:
    """Random weights, the same in all blocks of a kind: only shapes and types matter here."""
    size = {"hidden_size": WIDTH, "num_heads": HEADS}
    size |= {"context_in_dim": TEXT_WIDTH, "vec_in_dim": POOLED}
    state = tiny_flux.flux_state(depth=1, depth_single_blocks=1, **size)
    counts = dict(zip(("double", "single"), blocks, strict=True))
    repeated: dict[str, Tensor] = {}
    for name, value in state.items():
        if found := BLOCK.fullmatch(name):
            kind, rest = found.groups()
            repeated |= {f"{kind}_blocks.{i}.{rest}": value for i in range(counts[kind])}
        else:
            repeated[name] = value
    return tiny_flux.open_flux(repeated, dtype)


def at_size(model: ModelPatcher, size: Size) -> Configuration:
    """A step of a model at this size."""
    return Configuration(model, lambda watched: sample_step(watched, size))


def step_seconds(model: ModelPatcher, size: Size) -> float:
    """Seconds of the model's call in one step, the wrappers of its patches included."""
    return at_size(model, size).seconds()


def sample_step(model: ModelPatcher, size: Size) -> None:
    """One step of stock sampling."""
    generator = torch.Generator().manual_seed(0)
    latent = torch.zeros(1, 16, size.side // 8, size.side // 8)
    noise = torch.randn(latent.shape, generator=generator)
    text = torch.randn(1, size.text, TEXT_WIDTH, generator=generator)
    prompt = [[text, {"pooled_output": torch.zeros(1, POOLED), "guidance": 3.5}]]
    comfy.sample.sample(
        model, noise, 1, 1.0, "euler", "simple", prompt, prompt, latent, disable_pbar=True
    )
