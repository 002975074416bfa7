"""Drawn people as a user's training data: a folder for each person, with pictures and captions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from ...model_patches.files.atomic import replacing
from .. import portraits
from .data import SIZE, free_shot

SEED = 7


TRIES = 100
"""Drawings of one picture at most, until one is kept."""


def write_people(
    folder: Path,
    seeds: Iterable[int],
    shots: int,
    side: int = SIZE,
    keep: Callable[[np.ndarray], object] | None = None,
) -> None:
    """`shots` free pictures of each person, side x side pixels, each with its caption beside it.

    keep: (H, W, 3) uint8 -> whether a picture is good; others are drawn anew. What a file shows
    depends on person, number and `keep` alone; files that are there stay. Raises ValueError when
    nothing is kept.
    """
    for seed in seeds:
        place = folder / f"{seed:07}"
        place.mkdir(parents=True, exist_ok=True)
        for number in range(shots):
            path = place / f"{number:03}.png"
            if not path.exists():
                _write_picture(path, seed, number, side, keep)


def _write_picture(
    path: Path, seed: int, number: int, side: int, keep: Callable[[np.ndarray], object] | None
) -> None:
    for trial in range(TRIES):
        rng = np.random.default_rng((SEED, seed, number, trial))
        picture = portraits.picture(rng, ((portraits.person(seed), free_shot(rng)),))
        image = portraits.render(picture, side).image
        if keep is None or keep(image):
            path.with_suffix(".txt").write_text(portraits.caption(rng, picture), encoding="utf-8")
            with replacing(path) as temporary:
                Image.fromarray(image).save(temporary, format="PNG")
            return
    raise ValueError(f"{path}: none of {TRIES} drawings was kept, 1 is needed.")
