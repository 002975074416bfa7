"""Opens a Stable Diffusion checkpoint and vision encoders for trainings, by ComfyUI's loaders."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher

from .precision import fastest_dtype


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """The parts of a checkpoint, in ComfyUI's own objects."""

    model: ModelPatcher
    clip: Any
    vae: Any

    @property
    def kind(self) -> str:
        """ComfyUI's name of the base: "sd15", "sdxl", ..."""
        config: Any = getattr(self.model.model, "model_config", None)
        return type(config).__name__.lower()


def open_checkpoint(path: Path, device: torch.device) -> Checkpoint:
    """In the device's fastest format. Raises ValueError for a file that lacks a part."""
    options = {"dtype": fastest_dtype(device)}
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(str(path), model_options=options)
    if model is None or clip is None or vae is None:
        parts = {"a UNet": model, "a text encoder": clip, "a VAE": vae}
        missing = " and ".join(name for name, part in parts.items() if part is None)
        raise ValueError(
            f"{path.name} has no {missing.removeprefix('a ')}, a whole checkpoint is needed. "
            "Name a checkpoint of SD 1.5 or SDXL."
        )
    return Checkpoint(model, clip, vae)


def open_vision(path: Path) -> Any:
    """A CLIP_VISION. Raises ValueError for another file."""
    vision = comfy.clip_vision.load(str(path))
    if vision is None:
        raise ValueError(
            f"{path.name} is no vision encoder that ComfyUI knows. Use the file that Load CLIP "
            "Vision opens (for DINOv2 the one with Hugging Face's names, without registers)."
        )
    return vision
