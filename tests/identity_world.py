"""A few people of the small world with all that the identity recipes read, and random models."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from flexid.mini import random_flux, random_text, random_vae, world
from flexid.mini.seeded import Seeded
from flexid.mini.training import data, identity_inputs, vae_latents
from flexid.mini.training.frozen_faces import Found
from flexid.mini.training.options import Options, models
from flexid.mini.training.recogniser import Recogniser, write_recogniser
from safetensors.torch import save_file
from torch import Tensor

PEOPLE = 3
CPU = torch.device("cpu")


def build(work: Path) -> Path:
    """Data of three people, models with random weights; returns `work`."""
    data.build(work, None, Options(people=PEOPLE, groups=1, processes=1))
    folder = models(work)
    for name in (world.FLUX, world.VAE, world.T5, world.CLIP_L):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    # Like the trained base: FLUX.1-schnell's layout.
    flux = random_flux.flux_state(Seeded(1))
    kept = {k: v.contiguous() for k, v in flux.items() if not k.startswith("guidance_in")}
    save_file(kept, folder / world.FLUX)
    random_vae.write_vae(folder / world.VAE, 2)
    random_text.write_t5(folder / world.T5, 3)
    random_text.write_clip_l(folder / world.CLIP_L, 4)
    torch.manual_seed(0)
    write_recogniser(Recogniser().eval(), folder / world.RECOGNISER)
    vae_latents.encode_all(work, CPU, Options())
    identity_inputs.build(work, None, Options(processes=2))
    return work


class KnownFaces:
    """Finds the faces at `points` (N, 5, 2) in N pictures; NaN stands for a picture without one.
    Faces of random models are no faces to a real detector."""

    def __init__(self, points: np.ndarray) -> None:
        self.points = torch.from_numpy(np.array(points))

    def __call__(self, pictures: Tensor) -> Found:
        assert len(pictures) == len(self.points)
        boxes = torch.cat((self.points.amin(1), self.points.amax(1)), dim=-1)
        return Found(boxes, self.points, ~self.points.isnan().any(dim=-1).any(dim=-1))
