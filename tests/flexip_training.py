"""A small base, small encoders and a few drawn pictures, for trainings of FlexIP."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import tiny_vision
import torch
from flexid.model_patches.training.flexip_features import FeatureMakers
from flexid.model_patches.training.flexip_job import Job
from pack import ROOT
from PIL import Image
from torch import Tensor

SIZE = 64


class Vae:
    """Latents by averaging, an eighth of the side: four channels of which the last is the mean."""

    def encode(self, pixels: Tensor) -> Tensor:
        small = torch.nn.functional.avg_pool2d(pixels.movedim(-1, 1), 8)
        return torch.cat((small, small.mean(1, keepdim=True)), dim=1) * 4 - 2

    def decode(self, latents: Tensor) -> Tensor:
        wide = torch.nn.functional.interpolate((latents[:, :3] + 2) / 4, scale_factor=8)
        return wide.movedim(1, -1)


class Text:
    """77 tokens for a caption, by its letters."""

    def tokenize(self, caption: str) -> str:
        return caption

    def encode_from_tokens(self, caption: str, return_pooled: bool = False) -> tuple:
        seed = sum(map(ord, caption))
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(1, 77, 64, generator=generator), torch.zeros(1, 8)


def makers(dino: bool = True) -> FeatureMakers:
    return FeatureMakers(
        Vae(),
        Text(),
        tiny_vision.vision(tiny_vision.CLIP),
        tiny_vision.vision(tiny_vision.DINO) if dino else None,
        SIZE,
        56,
        f"small {dino}",
    )


def write_data(folder: Path, stills: int = 6, clips: int = 3) -> Path:
    """A JSONL file of stills, and of clips with two frames each."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    rows = []
    names = [(f"still{n}.png", None) for n in range(stills)]
    names += [(f"clip{n}_{frame}.png", f"clip{n}") for n in range(clips) for frame in range(2)]
    for name, group in names:
        pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((96, 80)).save(folder / name)
        row = {"image": name, "caption": f"a person, {name}"}
        rows.append(row | ({"group": group} if group else {}))
    path = folder / "data.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return path


def job(folder: Path, **options: object) -> Job:
    """Of two steps and small, unless options say otherwise; the rest as the script has it."""
    script = runpy.run_path(str(ROOT / "setup" / "train_flexip.py"), run_name="script")
    place, out = str(folder), str(folder / "out.safetensors")
    words = ["--data", str(write_data(folder / "data")), "--base", place, "--clip-vision", place]
    words += ["--dino", place, "--out", out, "--work", str(folder / "work")]
    chosen = vars(script["parse"](words))
    small = {"steps": 2, "batch": 4, "rate": 1e-3, "warmup": 0, "average": 0.0, "size": SIZE}
    small |= {"dim": 64, "depth": 1, "latents": 4, "export_every": 0, "sheet_rows": 0}
    given = {name: value for name, value in chosen.items() if name not in script["OWN"]}
    return Job(**{**given, **small, **options})
