"""The small random models under the names of the published files, for graphs that ask for those."""

from __future__ import annotations

import copy
import os
import shutil
from pathlib import Path

FLUX = "diffusion_models/flexid_mini_flux.safetensors"
PUBLISHED = {
    FLUX: "diffusion_models/flux1-dev.safetensors",
    "text_encoders/flexid_mini_t5.safetensors": "text_encoders/t5xxl_fp8_e4m3fn.safetensors",
    "text_encoders/flexid_mini_clip_l.safetensors": "text_encoders/clip_l.safetensors",
    "vae/flexid_mini_vae.safetensors": "vae/ae.safetensors",
    "pulid/flexid_mini_pulid.safetensors": "pulid/pulid_flux_v0.9.1.safetensors",
    "flexid/flexid_mini_face_t5.pt": "flexid/face_t5_encoder.pt",
    "insightface/models/flexid_mini/recogniser.onnx": (
        "insightface/models/antelopev2/glintr100.onnx"
    ),
}
KONTEXT = "diffusion_models/flux1-dev-kontext_fp8_scaled.safetensors"
"""Kontext has Flux.1's layout, so that the small Flux stands for it as well."""
NAMES = (
    "diffusion_models/flux-2-klein-4b-fp8.safetensors",
    "diffusion_models/qwen_image_edit_2511_fp8mixed.safetensors",
    "text_encoders/qwen_3_4b.safetensors",
    "text_encoders/qwen_2.5_vl_7b_fp8_scaled.safetensors",
    "vae/flux2-vae.safetensors",
    "vae/qwen_image_vae.safetensors",
    "checkpoints/v1-5-pruned-emaonly-fp16.safetensors",
    "checkpoints/sd_xl_base_1.0.safetensors",
    "ipadapter/ip-adapter-plus-face_sd15.safetensors",
    "ipadapter/ip-adapter-plus_sd15.safetensors",
    "clip_vision/CLIP-ViT-H-14-laion2B-s32B-b79K.safetensors",
    "pulid/pulid_v1.1.safetensors",
    "flexid/face_clip_encoder.pt",
    "dynamicid/SAA.bin",
    "dynamicid/IMR.bin",
    "dynamicid/key_point_encoder.bin",
)
"""Files for the lists of the loaders only: ComfyUI knows these models in full size only, so
nothing small can stand for them."""
EVA = "clip_vision/flexid_mini_eva.safetensors"
TRAINING = "my_training.safetensors"
PUBLISHED_EVA = "clip_vision/EVA02_CLIP_L_336_psz14_s6B.pt"


def place(world: Path, models: Path) -> None:
    """Put the files of `world` into the models folder `models` under their published names.

    The vision tower is published as a pickle, so it is written as one.
    """
    import safetensors.torch
    import torch

    named = [(FLUX, name) for name in (KONTEXT, *NAMES)]
    for small, published in (*PUBLISHED.items(), *named):
        target = _room_for(models / published)
        try:
            os.link(world / small, target)
        except OSError:  # another disk, or a file system without hard links
            shutil.copy(world / small, target)
    target = _room_for(models / PUBLISHED_EVA)
    torch.save(safetensors.torch.load_file(world / EVA), target)
    _write_training(world / "pulid/flexid_mini_pulid.safetensors", models / "pulid" / TRAINING)


def _write_training(original: Path, target: Path) -> None:
    """An adapter with other layers and the same encoder, as a user's training of it has."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(original, "pt") as file:
        metadata = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    changed = {k: 0.9 * t if k.startswith("pulid_ca.") else t for k, t in tensors.items()}
    save_file(changed, _room_for(target), metadata)


def with_training(graph: dict) -> dict:
    """The API graph with what its note asks for: a file of the user's own in Your training."""
    graph = copy.deepcopy(graph)
    for node in graph.values():
        if node["_meta"]["title"] == "Your training":
            node["inputs"]["file"] = TRAINING
    return graph


def _room_for(target: Path) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    return target


def with_mini_text_encoder(graph: dict) -> dict:
    """The API graph with the one substitution that the small world needs: ComfyUI's own
    DualCLIPLoader builds text encoders of full size only."""
    loader = {
        "class_type": "FlexIDLoadMiniTextEncoder",
        "inputs": {"t5": "flexid_mini_t5.safetensors", "clip_l": "flexid_mini_clip_l.safetensors"},
        "_meta": {"title": "Load Mini Text Encoder"},
    }
    return {
        key: loader if node["class_type"] == "DualCLIPLoader" else node
        for key, node in graph.items()
    }
