"""The demo's whole models folder: every file where ComfyUI looks for it.

The trained files lie in `weights/`, laid out like that folder. Where they are absent, and in
tests, small random models take their place.
"""

from __future__ import annotations

import os
import shutil
from functools import partial
from pathlib import Path

from . import (
    random_adapter,
    random_faceclip,
    random_faces,
    random_flexip,
    random_flux,
    random_text,
    random_vae,
)

WEIGHTS = Path(__file__).with_name("weights")
CARD = "README.md"
SEED = 20240607
ADAPTER_STRENGTH = 0.08
"""Enough to change the picture clearly, and little enough to leave it a picture."""

FLUX = "diffusion_models/flexid_mini_flux.safetensors"
VAE = "vae/flexid_mini_vae.safetensors"
T5 = "text_encoders/flexid_mini_t5.safetensors"
CLIP_L = "text_encoders/flexid_mini_clip_l.safetensors"
EVA = "clip_vision/flexid_mini_eva.safetensors"
PULID = "pulid/flexid_mini_pulid.safetensors"
SAA = "pulid/flexid_mini_saa.safetensors"
IMR = "dynamicid/flexid_mini_imr.safetensors"
KEY_POINTS = "dynamicid/flexid_mini_key_points.safetensors"
FACE_T5 = "flexid/flexid_mini_face_t5.pt"
RECOGNISER = "insightface/models/flexid_mini/recogniser.onnx"
FLEXIP = "flexid/flexid_mini_flexip.safetensors"
FLEXIP_PLAIN = "flexid/flexid_mini_flexip_plain.safetensors"
DETECTOR = "insightface/models/flexid_mini/det_mini.onnx"
ESTIMATORS = "flexid/flexid_mini_estimators.safetensors"
JUDGE_RECOGNISER = "flexid/flexid_mini_judge_recogniser.safetensors"
JUDGE_ESTIMATORS = "flexid/flexid_mini_judge_estimators.safetensors"


def _write_imr(path: Path, seed: int) -> None:
    from .random_imr import write_imr  # it opens the adapter's file, with ComfyUI

    write_imr(path, seed, Path(SAA), Path(CLIP_L).name)


def _write_key_points(path: Path, seed: int) -> None:
    from .random_imr import write_key_points

    write_key_points(path, seed)


WRITERS = {
    FLUX: random_flux.write_flux,
    VAE: random_vae.write_vae,
    T5: random_text.write_t5,
    CLIP_L: random_text.write_clip_l,
    EVA: random_adapter.write_eva_clip,
    PULID: partial(random_adapter.write_adapter, strength=ADAPTER_STRENGTH),
    RECOGNISER: random_faces.write_recogniser,
    FACE_T5: partial(random_faceclip.write_face_t5, width=random_text.T5_CONFIG["d_model"]),
    FLEXIP: random_flexip.write_flexip,
    SAA: partial(random_adapter.write_adapter, strength=ADAPTER_STRENGTH),
    IMR: _write_imr,
    KEY_POINTS: _write_key_points,
}
TRAINED = (
    *WRITERS, FLEXIP_PLAIN, DETECTOR, ESTIMATORS, JUDGE_RECOGNISER, JUDGE_ESTIMATORS,
)  # fmt: skip


def is_trained(weights: Path = WEIGHTS) -> bool:
    """Whether the trained files are there: their model card is what says that they are whole.

    Raises FileNotFoundError when it lies: trained and random ones do not fit together.
    """
    if not (weights / CARD).is_file():
        return False
    missing = [name for name in TRAINED if not (weights / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"{weights} lacks {', '.join(missing)} of {len(TRAINED)} trained files. Put them back "
            "(git checkout), or remove the folder to use random models."
        )
    return True


def build_world(models_dir: Path, weights: Path = WEIGHTS) -> list[Path]:
    """The trained files below `models_dir` (a ComfyUI models folder), or random ones.

    Returns their paths. Raises FileNotFoundError when the trained set is not whole.
    """
    return place_trained(models_dir, weights) if is_trained(weights) else build_random(models_dir)


def place_trained(models_dir: Path, weights: Path = WEIGHTS) -> list[Path]:
    """Link every file below `weights` to its place, or copy it where no link can be made."""
    placed = []
    for name in TRAINED:
        path = models_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        try:
            os.link(weights / name, path)
        except OSError:  # another disk, or a file system without links
            shutil.copy2(weights / name, path)
        placed.append(path)
    return placed


def build_random(models_dir: Path) -> list[Path]:
    """Write a random model for every file below `models_dir`; return their paths.

    Takes ComfyUI on the path.
    """
    written = []
    for offset, (name, write) in enumerate(WRITERS.items()):
        path = models_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, SEED + offset)
        written.append(path)
    return written
