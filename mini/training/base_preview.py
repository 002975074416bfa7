"""Paints a fixed set of captions with the weights so far, while training goes on.

Left of each pair what the renderer draws for the caption, right what the model paints. The files
are written and opened as a user would: by ComfyUI's loaders, its sampler and CFG.
"""

from __future__ import annotations

import tempfile
import textwrap
from collections.abc import Sequence
from pathlib import Path

import comfy.sample
import comfy.sd
import comfy.utils
import numpy as np
import torch
from comfy.model_patcher import ModelPatcher
from PIL import Image, ImageDraw

from ...model_patches.encoders.mini_text import load_mini_clip
from ...model_patches.training.loop import checkpoint_of, load_averages
from .. import portraits, world
from ..study import rows
from ..study.options import SPLITS
from .base import RECIPE, Watched, describe_pictures
from .base_model import write_flux
from .data import SIZE, Portraits, free_shot
from .options import curves, models

FIRST_SEED = SPLITS["tune"]
"""People who are neither trained on nor held out."""
ALONE, TOGETHER = 12, 4
SAMPLING = rows.settings()
"""Previews are sampled as evaluations are."""
COLUMNS, TEXT, LINE = 4, 52, 42


def preview(work: Path, out: Path, device: torch.device | None = None) -> None:
    """Write a contact sheet of the last checkpoint's averaged weights as `out`.

    Raises FileNotFoundError before the first checkpoint.
    """
    with tempfile.TemporaryDirectory() as folder:
        flux = write_checkpoint(work, Path(folder) / "flux.safetensors")
        texts = (models(work) / name for name in (world.T5, world.CLIP_L))
        painter = Painter(flux, *texts, models(work) / world.VAE)
        truth, captions = references()
        painted = [painter.paint(caption, seed) for seed, caption in enumerate(captions)]
    sheet(truth, painted, captions).save(out)


def write_checkpoint(work: Path, path: Path) -> Path:
    """The averaged weights of the last checkpoint as the FLUX file `path`."""
    checkpoint = checkpoint_of(RECIPE, curves(work))
    if not checkpoint.exists():
        raise FileNotFoundError(f"{checkpoint} is missing. It is written 3 minutes into training.")
    module = Watched(RECIPE.seed, describe_pictures(Portraits(work)).shape[1])
    load_averages(RECIPE, module, curves(work))
    write_flux(module.flux, path)
    return path


def references() -> tuple[list[np.ndarray], list[str]]:
    """The same pictures and captions in every preview."""
    images, captions = [], []
    for index in range(ALONE + TOGETHER):
        rng = np.random.default_rng((FIRST_SEED, index))
        seeds = [FIRST_SEED + 2 * index + k for k in range(1 if index < ALONE else 2)]
        people = tuple((portraits.person(seed), free_shot(rng)) for seed in seeds)
        drawn = portraits.picture(rng, people)
        images.append(portraits.render(drawn, SIZE).image)
        captions.append(portraits.caption(rng, drawn))
    return images, captions


class Painter:
    """The files, opened by ComfyUI."""

    def __init__(self, flux: Path, t5: Path, clip_l: Path, vae: Path) -> None:
        self.model = comfy.sd.load_diffusion_model(str(flux))
        self.clip = load_mini_clip(t5, clip_l)
        state, metadata = comfy.utils.load_torch_file(str(vae), return_metadata=True)
        self.vae = comfy.sd.VAE(sd=state, metadata=metadata)

    def encode(self, text: str) -> list:
        """CONDITIONING."""
        return self.clip.encode_from_tokens_scheduled(self.clip.tokenize(text))

    def paint(self, caption: str, seed: int) -> np.ndarray:
        """uint8 (128, 128, 3)."""
        return self.sample(self.model, self.encode(caption), seed)

    @torch.inference_mode()
    def sample(self, model: ModelPatcher, positive: list, seed: int) -> np.ndarray:
        """uint8 (128, 128, 3), by this model or a patched clone of it."""
        empty = torch.zeros(1, 16, SIZE // 8, SIZE // 8)
        noise, how = comfy.sample.prepare_noise(empty, seed), SAMPLING
        latent = comfy.sample.sample(
            model, noise, how.steps, how.cfg, how.sampler, how.scheduler,
            positive, self.encode(""), empty, disable_pbar=True, seed=seed,
        )  # fmt: skip
        image = self.vae.decode(latent)[0].cpu().float()
        return (image.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def sheet(
    truth: Sequence[np.ndarray], painted: Sequence[np.ndarray], captions: Sequence[str]
) -> Image.Image:
    width, height = 2 * SIZE + 8, SIZE + TEXT
    rows = -(-len(captions) // COLUMNS)
    page = Image.new("RGB", (COLUMNS * width, rows * height), "white")
    draw = ImageDraw.Draw(page)
    for index, pair in enumerate(zip(truth, painted, strict=True)):
        x, y = index % COLUMNS * width, index // COLUMNS * height
        for side, image in enumerate(pair):
            page.paste(Image.fromarray(image), (x + side * SIZE, y))
        text = "\n".join(textwrap.wrap(captions[index], LINE)[:4])
        draw.multiline_text((x + 2, y + SIZE + 2), text, fill="black", spacing=1)
    return page
