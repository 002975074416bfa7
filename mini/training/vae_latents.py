"""Encodes every training picture once, into what a Flux sampler sees of it."""

from __future__ import annotations

import hashlib
import json
import sys
import time
from pathlib import Path

import comfy.latent_formats
import comfy.utils
import numpy as np
import torch
from comfy.taesd.taesd import TAESD
from numpy.lib.format import open_memmap
from torch import Tensor

from ...model_patches.training.precision import fastest_dtype
from ..world import VAE as NAME
from .data import SIZE, Groups, Portraits
from .options import Options, models
from .vae import CHANNELS, to_tensor

EDGE = SIZE // 8
BATCH = 2
"""Small: feature maps of more pictures at once would not fit a core's cache."""
SHOW_EVERY = 1000


def latents(work: Path, name: str) -> np.ndarray:
    """float16 (N, 16, 16, 16) of data/`name`, mapped from disk; FileNotFoundError before."""
    path = _path(work, name)
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing. Encode the pictures first: --only latents.")
    if _progress(path)["done"] < len(np.load(path, mmap_mode="r")):
        raise FileNotFoundError(f"{path} is unfinished. Run --only latents again; it goes on.")
    return np.load(path, mmap_mode="r")


def encode_all(work: Path, device: torch.device, options: Options) -> None:
    """Encode singles and groups with the trained VAE; a new VAE encodes everything anew."""
    encoder = Encoder(models(work) / NAME, device)
    for name, images in (("singles", Portraits(work).images), ("groups", Groups(work).images)):
        _encode_set(_path(work, name), images, encoder, options.batch or BATCH)


class Encoder:
    """The file's encoder, followed by what ComfyUI does before sampling. Computes in the device's
    fastest format."""

    def __init__(self, path: Path, device: torch.device) -> None:
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing. Train it first: --only vae.")
        self.digest = hashlib.sha256(path.read_bytes()).hexdigest()
        module = TAESD(latent_channels=CHANNELS)
        module.load_state_dict(comfy.utils.load_torch_file(str(path)))
        self.scale, self.shift = module.vae_scale.item(), module.vae_shift.item()
        encoder = module.taesd_encoder.requires_grad_(False)
        self.dtype = fastest_dtype(device)
        self.encoder = encoder.to(device, self.dtype, memory_format=torch.channels_last)
        self.device = device

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> Tensor:
        """uint8 (N, 128, 128, 3) to float32 (N, 16, 16, 16)."""
        raw = self.encoder(to_tensor(images, self.device).to(self.dtype)).float()
        return comfy.latent_formats.Flux().process_in(raw / self.scale + self.shift).cpu()


def _path(work: Path, name: str) -> Path:
    return work / "data" / name / "latents.npy"


def _progress(path: Path) -> dict:
    stated = path.with_suffix(".json")
    return json.loads(stated.read_text()) if stated.exists() else {"done": 0, "vae": ""}


def _encode_set(path: Path, images: np.ndarray, encoder: Encoder, batch: int) -> None:
    shape, done = (len(images), CHANNELS, EDGE, EDGE), 0
    if path.exists() and _progress(path)["vae"] == encoder.digest:
        done = _progress(path)["done"]
    if not done:
        path.with_suffix(".json").unlink(missing_ok=True)
        open_memmap(path, "w+", dtype=np.float16, shape=shape)
    stored, began = np.load(path, mmap_mode="r+"), time.monotonic()
    for count, start in enumerate(range(done, len(images), batch), 1):
        end = min(start + batch, len(images))
        stored[start:end] = encoder(np.array(images[start:end])).numpy()
        if count % SHOW_EVERY == 0 or end == len(images):
            stored.flush()
            path.with_suffix(".json").write_text(json.dumps({"done": end, "vae": encoder.digest}))
            pace = (time.monotonic() - began) / (end - done) * 1000
            sys.stdout.write(
                f"latents: {path.parent.name} {end} of {len(images)}, {pace:.1f} ms each\n"
            )
            sys.stdout.flush()
