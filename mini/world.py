"""Builds the demo's whole models folder: every file where ComfyUI looks for it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from . import random_adapter, random_faceclip, random_faces, random_flux, random_text, random_vae

SEED = 20240607
ADAPTER_STRENGTH = 0.08
"""Enough to change the picture plainly, little enough to leave it one."""

FLUX = "diffusion_models/flexid_mini_flux.safetensors"
VAE = "vae/flexid_mini_vae.safetensors"
T5 = "text_encoders/flexid_mini_t5.safetensors"
CLIP_L = "text_encoders/flexid_mini_clip_l.safetensors"
EVA = "clip_vision/flexid_mini_eva.safetensors"
PULID = "pulid/flexid_mini_pulid.safetensors"
FACE_T5 = "flexid/flexid_mini_face_t5.pt"
RECOGNISER = "insightface/models/flexid_mini/recogniser.onnx"

WRITERS = {
    FLUX: random_flux.write_flux,
    VAE: random_vae.write_vae,
    T5: random_text.write_t5,
    CLIP_L: random_text.write_clip_l,
    EVA: random_adapter.write_eva_clip,
    PULID: partial(random_adapter.write_adapter, strength=ADAPTER_STRENGTH),
    RECOGNISER: random_faces.write_recogniser,
    FACE_T5: partial(random_faceclip.write_face_t5, width=random_text.T5_CONFIG["d_model"]),
}


def build_world(models_dir: Path) -> list[Path]:
    """Write every file below `models_dir` (a ComfyUI models folder); return their paths."""
    written = []
    for offset, (name, write) in enumerate(WRITERS.items()):
        path = models_dir / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path, SEED + offset)
        written.append(path)
    return written
