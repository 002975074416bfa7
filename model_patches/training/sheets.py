"""Sample sheets: pictures drawn during a training, in lines under the names of their columns."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.sample
import torch
import torch.nn.functional as F
from comfy.model_patcher import ModelPatcher
from PIL import Image, ImageDraw
from torch import Tensor

from ..files.atomic import replacing

MARGIN = 18
"""Pixels of the line with the names, above the pictures."""


@dataclass(frozen=True)
class Sampling:
    """How a picture is drawn, in ComfyUI's terms."""

    steps: int
    cfg: float
    sampler: str
    scheduler: str


def draw_picture(
    model: ModelPatcher,
    vae: Any,
    prompts: tuple[list, list],
    like: Tensor,
    how: Sampling,
    seed: int,
) -> Tensor:
    """(h, w, 3) in 0..1. prompts: positive and negative; like (C, h, w): a latent of that size."""
    latent = torch.zeros_like(like)[None]
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        out = comfy.sample.sample(
            model, noise, how.steps, how.cfg, how.sampler, how.scheduler, *prompts, latent,
            disable_pbar=True, seed=seed,
        )  # fmt: skip
        return vae.decode(out)[0].cpu().float().clamp(0, 1)


def scale_to(photo: Tensor, like: Tensor) -> Tensor:
    """A photo (h, w, 3) at the size of another picture."""
    if photo.shape == like.shape:
        return photo
    scaled = F.interpolate(photo.movedim(-1, 0)[None], like.shape[:2], mode="area")
    return scaled[0].movedim(0, -1)


def save_sheet(lines: Sequence[Tensor], names: Sequence[str], path: Path) -> None:
    """Lines (h, columns * w, 3) in 0..1, each column under its name. Raises OSError."""
    width = max(line.shape[1] for line in lines)
    padded = [F.pad(line, (0, 0, 0, width - line.shape[1])) for line in lines]
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as temporary:
        _label(torch.cat(padded), width // len(names), names).save(temporary, format="PNG")


def _label(pixels: Tensor, width: int, names: Sequence[str]) -> Image.Image:
    picture = Image.fromarray((255 * pixels).round().to(torch.uint8).numpy())
    sheet = Image.new("RGB", (picture.width, picture.height + MARGIN), "white")
    sheet.paste(picture, (0, MARGIN))
    pen = ImageDraw.Draw(sheet)
    for place, name in enumerate(names):
        pen.text((place * width + 4, 3), name, fill="black")
    return sheet
