"""What the identity encoders read of every training picture, computed once.

The pack's own alignment, whitening and recogniser, from the renderer's face points instead of a
detector's: they are moved at random by about as much as a detector is wrong.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from numpy.lib.format import open_memmap
from torch import Tensor

from ...model_patches.encoders.faceclip_pixels import SIDE as FACECLIP_SIDE
from ...model_patches.encoders.whiten import LUMA, background, normalise, resize
from ...model_patches.face.align import (
    ARCFACE_112,
    arcface_crop,
    ffhq_crop,
    robust_similarity,
    similarity,
)
from ...model_patches.face.pack import EMBEDDING, load_model
from ...model_patches.face.packages import need
from ...model_patches.face.providers import resolve_providers
from ...model_patches.face.recogniser import Recogniser, make_recogniser
from .. import world
from .data import Portraits
from .faces_degrade import move_points
from .options import Options, models

SIDE = 112
FFHQ = 512
CHUNK = 300
JITTER = (0.3, 1.2)
"""Least and greatest standard deviation of the points, in pixels of the 112 px crop."""
LOW, SPAN = -0.15, 1.3
"""Bicubic overshoots 0..1: bytes hold LOW to LOW + SPAN."""
FIELDS = {
    "grey": ((SIDE, SIDE), np.uint8),
    "face": ((SIDE, SIDE, 3), np.uint8),
    "embedding": ((EMBEDDING,), np.float32),
}


def recogniser_of(work: Path) -> Recogniser:
    """The trained recogniser as the pack opens it. Raises FileNotFoundError before it is there."""
    path = models(work) / world.RECOGNISER
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing. Train it first: --only recogniser.")
    model, _ = load_model(path, resolve_providers(("CPU",)))
    return make_recogniser(model, path, path.parent.name)


def grey_pixels(crop: np.ndarray) -> Tensor:
    """FFHQ crop (512, 512, 3) uint8 -> (112, 112): what `eva_pixels` normalises, one channel."""
    weights = np.array([LUMA], np.float32) / 255
    grey = torch.from_numpy(need("cv2").transform(crop.astype(np.float32), weights))
    return resize(torch.where(_ellipse(), torch.ones(()), grey)[None, None], SIDE)[0, 0]


@cache
def _ellipse() -> Tensor:
    return background(SimpleNamespace(ffhq_crop=torch.empty(FFHQ, FFHQ, 3)), "ellipse")


def face_pixels(crop: np.ndarray, points: np.ndarray) -> Tensor:
    """FFHQ crop and points -> (3, 112, 112) in [0, 1]: what FaceVit makes of `faceclip_pixels`.

    Shrinking 448 px to 112 averages the middle four of sixteen pixels; only those are read.
    """
    to_ffhq = np.vstack([robust_similarity(points)[0], (0, 0, 1)])
    to_crop = np.vstack([similarity(points, ARCFACE_112 * (FACECLIP_SIDE / SIDE)), (0, 0, 1)])
    right, down, origin = torch.from_numpy((to_ffhq @ np.linalg.inv(to_crop))[:2].T)
    step = FACECLIP_SIDE // SIDE
    middle = torch.arange(SIDE)[:, None] * step + torch.tensor([step // 2 - 1, step // 2])
    places = middle.flatten()[:, None].double() * (2 / FFHQ)
    rows = places * down + (origin + 0.5) * (2 / FFHQ) - 1
    where = rows[:, None].float() + (places * right).float()
    picture = torch.from_numpy(crop).permute(2, 0, 1)[None].float() / 255
    taken = F.grid_sample(picture, where[None], padding_mode="zeros", align_corners=False)
    return F.avg_pool2d(taken, 2)[0]


def jitter_points(points: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(5, 2) points, as inexact as a detector's."""
    return move_points(rng, points, JITTER)


def build(work: Path, device: object, options: Options) -> None:
    """Compute what is missing, in threads; `device` is not used."""
    data, recogniser = Portraits(work), recogniser_of(work)
    folder = _folder(work)
    arrays = _open(folder, len(data))
    done = int((folder / "done").read_text()) if (folder / "done").exists() else 0
    starts = range(done, len(data), CHUNK)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the pictures are the parallel part
    try:
        with ThreadPoolExecutor(options.processes or os.cpu_count()) as pool:
            made = pool.map(lambda start: _chunk(data, recogniser, start), starts)
            _store(folder, arrays, made, starts)
    finally:
        torch.set_num_threads(threads)


def _store(folder: Path, arrays: dict, made: Iterator[dict], starts: range) -> None:
    began = time.monotonic()
    for number, (start, parts) in enumerate(zip(starts, made, strict=True), 1):
        end = start + len(parts["grey"])
        for name, part in parts.items():
            arrays[name][start:end] = part
            arrays[name].flush()
        (folder / "done").write_text(str(end))
        if number % 20 == 0 or number == len(starts):
            pace = (time.monotonic() - began) / (end - starts[0]) * 1000
            sys.stdout.write(f"identity inputs: {end} pictures, {pace:.1f} s per 1000\n")
            sys.stdout.flush()


def _chunk(data: Portraits, recogniser: Recogniser, start: int) -> dict[str, np.ndarray]:
    grey, face, aligned = [], [], []
    for index in range(start, min(start + CHUNK, len(data))):
        rgb = np.array(data.images[index])
        points = jitter_points(data.points[index], np.random.default_rng((7, index)))
        crop = ffhq_crop(rgb, points)
        grey.append((grey_pixels(crop).numpy() - LOW) / SPAN)
        face.append(face_pixels(crop, points).permute(1, 2, 0).numpy())
        aligned.append(arcface_crop(rgb, points))
    return {
        "grey": _bytes(np.stack(grey)),
        "face": _bytes(np.stack(face)),
        "embedding": embed_all(recogniser, aligned),
    }


def _bytes(values: np.ndarray) -> np.ndarray:
    return (values.clip(0, 1) * 255).round().astype(np.uint8)


def embed_all(recogniser: Recogniser, crops: list[np.ndarray]) -> np.ndarray:
    """What `Recogniser.embed` gives for each crop (112, 112, 3) RGB, at once: (N, 512)."""
    turned = [np.ascontiguousarray(crop[..., ::-1]) for crop in crops]
    return np.asarray(recogniser.model.get_feat(turned), np.float32)


def _folder(work: Path) -> Path:
    return work / "data" / "identity"


def _open(folder: Path, count: int) -> dict[str, np.ndarray]:
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "done").exists():
        for name, (shape, kind) in FIELDS.items():
            open_memmap(folder / f"{name}.npy", "w+", dtype=kind, shape=(count, *shape))
    arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r+") for name in FIELDS}
    if len(arrays["grey"]) != count:
        raise ValueError(
            f"{folder} holds {len(arrays['grey'])} pictures, the data has {count}. Remove that "
            "folder to compute it anew."
        )
    return arrays


class IdentityInputs:
    """The arrays of `build`, mapped from disk. Raises FileNotFoundError while they are incomplete.

    Rows are picture numbers of Portraits.
    """

    def __init__(self, work: Path) -> None:
        folder = _folder(work)
        done = folder / "done"
        if not done.exists():
            raise FileNotFoundError(f"{done} is missing. Run --only identity_inputs first.")
        self.arrays = {name: np.load(folder / f"{name}.npy", mmap_mode="r") for name in FIELDS}
        if int(done.read_text()) != len(self):
            raise FileNotFoundError(
                f"{folder} has {done.read_text()} of {len(self)} pictures. Run --only "
                "identity_inputs again; it goes on where it stopped."
            )

    def __len__(self) -> int:
        return len(self.arrays["grey"])

    def grey(self, rows: np.ndarray) -> Tensor:
        """(B, 1, 112, 112) float32, not normalised yet."""
        return torch.from_numpy(self.arrays["grey"][rows])[:, None].float() / 255 * SPAN + LOW

    def tower(self, rows: np.ndarray) -> Tensor:
        """(B, 3, 112, 112), the vision tower's input."""
        return tower_input(self.grey(rows))

    def face(self, rows: np.ndarray) -> Tensor:
        """(B, 3, 112, 112) RGB in [0, 1], FaceVit's input."""
        return torch.from_numpy(self.arrays["face"][rows]).permute(0, 3, 1, 2).float() / 255

    def embedding(self, rows: np.ndarray) -> Tensor:
        """(B, 512), raw."""
        return torch.from_numpy(self.arrays["embedding"][rows])


def tower_input(grey: Tensor) -> Tensor:
    """(B, 1, S, S) -> (B, 3, S, S), with CLIP's mean and deviation per channel."""
    return normalise(grey.expand(-1, 3, -1, -1))
