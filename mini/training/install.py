"""Copies weights between a training folder and the repository, both ways."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from ...model_patches.files.atomic import replacing
from .. import world
from .faces_evaluate import FILE as FACES
from .options import curves, models

EVALUATION = Path(world.__file__).with_name("evaluation")


def install(work: Path, weights: Path = world.WEIGHTS, evaluation: Path = EVALUATION) -> None:
    """Copy the finished files of `work`. Raises FileNotFoundError before anything is copied."""
    made = {models(work) / name: weights / name for name in world.TRAINED}
    made |= {models(work) / FACES: evaluation / "faces.json"}
    made |= {curves(work) / "vae.json": evaluation / "autoencoder.json"}
    made |= {curves(work) / "judges.json": evaluation / "judges.json"}
    missing = [str(path) for path in made if not path.is_file()]
    if missing:
        raise FileNotFoundError(f"not trained yet: {', '.join(missing)}. Run mini-train first.")
    made |= {path: evaluation / "curves" / path.name for path in curves(work).glob("*.csv")}
    for path, place in made.items():
        _copy(path, place)
    size = sum((weights / name).stat().st_size for name in world.TRAINED)
    sys.stdout.write(f"{weights}: {len(world.TRAINED)} files, {size / 2**20:.1f} MiB\n")


def adopt(work: Path, weights: Path = world.WEIGHTS) -> None:
    """Copy the repository's weights to where training keeps its own, unless there are some."""
    for name in world.TRAINED:
        place = models(work) / name
        if (weights / name).is_file() and not place.exists():
            _copy(weights / name, place)


def _copy(source: Path, target: Path) -> None:
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
