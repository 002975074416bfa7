"""A small base, small encoders and a few drawn pictures, for trainings of FlexIP; and the small
world's Flux with drawn people."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import comfy.patcher_extension
import numpy as np
import tiny_vision
import torch
from comfy.model_patcher import ModelPatcher
from flexid.mini import world
from flexid.mini.training.people_folder import write_people
from flexid.model_patches.training.flexip_features import FeatureMakers
from flexid.model_patches.training.flexip_flux_job import FluxJob
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


def watch_calls(model: ModelPatcher) -> list[tuple[Tensor, Tensor, Tensor]]:
    """Filled with (noisy, sigma, what the model makes of it) of every call."""
    seen = []

    def watch(executor, x, t, *args, **kwargs):
        out = executor(x, t, *args, **kwargs)
        seen.append((x, t, out))
        return out

    kind = comfy.patcher_extension.WrappersMP.APPLY_MODEL
    model.add_wrapper_with_key(kind, "watch", watch)
    return seen


SCRIPT = ROOT / "setup" / "train_flexip.py"


def job(folder: Path, **options: object) -> Job:
    """Of two steps and small, unless options say otherwise; the rest as the script has it."""
    base = folder / "base.safetensors"
    data = write_data(folder / "data")
    base.touch()
    place, out = str(folder), str(folder / "out.safetensors")
    words = ["--data", str(data), "--base", str(base), "--clip-vision", place]
    words += ["--dino", place, "--out", out, "--work", str(folder / "work")]
    small = {"steps": 2, "batch": 4, "rate": 1e-3, "warmup": 0, "average": 0.0, "size": SIZE}
    small |= {"dim": 64, "depth": 1, "latents": 4, "export_every": 0, "sheet_rows": 0}
    return Job(**{**parse(words), **small, **options})


def parse(words: list[str]) -> dict[str, object]:
    """The job's options as the script has them."""
    script = runpy.run_path(str(SCRIPT), run_name="script")
    chosen = vars(script["parse"](words))
    return {name: value for name, value in chosen.items() if name not in script["OWN"]}


def write_people_data(folder: Path) -> Path:
    """A JSONL file of two people with three pictures each, and of two stills."""
    write_people(folder, (11, 12), 3)
    write_people(folder, (13, 14), 1)
    rows = []
    for path in sorted(folder.glob("*/*.png")):
        row = {
            "image": str(path.relative_to(folder)),
            "caption": path.with_suffix(".txt").read_text(encoding="utf-8"),
        }
        together = len(list(path.parent.glob("*.png"))) > 1
        rows.append(row | ({"group": path.parent.name} if together else {}))
    place = folder / "data.jsonl"
    place.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return place


def flux_words(folder: Path, data: Path) -> list[str]:
    """The options that must be named for a Flux."""
    files = {
        "data": data,
        "base": world.WEIGHTS / world.FLUX,
        "vae": world.WEIGHTS / world.VAE,
        "t5": world.WEIGHTS / world.T5,
        "clip-l": world.WEIGHTS / world.CLIP_L,
        "eva": world.WEIGHTS / world.EVA,
        "faces": (world.WEIGHTS / world.RECOGNISER).parent,
        "out": folder / "out.safetensors",
        "work": folder / "work",
    }
    return [word for name, path in files.items() for word in (f"--{name}", str(path))]


def flux_job(folder: Path, data: Path | None = None, **options: object) -> FluxJob:
    """As `job`, on the small world's Flux."""
    data = data or write_people_data(folder / "people")
    small = {"steps": 2, "batch": 4, "rate": 1e-3, "warmup": 0, "average": 0.0, "size": 128}
    small |= {"dim": 64, "depth": 1, "latents": 4, "tokens": 64, "export_every": 0}
    small |= {"sheet_rows": 0, "checkpointing": False}
    return FluxJob(**{**parse(flux_words(folder, data)), **small, **options})
