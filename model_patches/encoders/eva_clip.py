"""Load the EVA02-CLIP vision tower from its public file and run it under ComfyUI's memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import comfy.model_management
import comfy.model_patcher
import torch
from torch import Tensor

from ..files.checks import shapes_of
from ..files.kinds import require
from ..files.modules import Rebuild, build
from ..files.public_files import EVA02_CLIP_L_336
from ..files.tensor_file import digest, read_weights
from .eva_tower import EvaTower, TowerDims, tower_dims

WANTED = f"{EVA02_CLIP_L_336.file} from {EVA02_CLIP_L_336.url}, in models/clip_vision"


@dataclass(frozen=True, eq=False)
class VisionEncoder:
    """A loaded vision tower. ComfyUI owns the weights through `patcher`."""

    patcher: comfy.model_patcher.ModelPatcher
    name: str
    """File name."""
    digest: str
    """Content digest of the file, see `tensor_file.digest`."""
    dims: TowerDims


def load_eva_clip(path: str | Path) -> VisionEncoder:
    """Open EVA02-CLIP as .pt (vision and text) or .safetensors; text and rope tables are dropped.

    Raises FileNotFoundError or ValueError, naming what the file is and the one needed.
    """
    patcher = load_patcher(path)
    return VisionEncoder(patcher, Path(path).name, digest(path), patcher.model.dims)


def load_patcher(
    path: str | Path, disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    """The tower in a ModelPatcher that ComfyUI can rebuild from the file (second device, hooks)."""
    file = read_weights(path, WANTED)
    require(file, ("eva02_clip",), WANTED)
    rebuild = (load_patcher, (path,))
    return build_patcher(_select_visual(file.tensors), file.path.name, rebuild, disable_dynamic)


def build_patcher(
    tensors: Mapping[str, Tensor],
    what: str,
    rebuild: Rebuild | None = None,
    disable_dynamic: bool = False,
) -> comfy.model_patcher.ModelPatcher:
    """A tower with these weights (keys without `visual.`), strictly matched. Raises ValueError."""
    dims = tower_dims(shapes_of(tensors), what, WANTED)
    return build(partial(EvaTower, dims), tensors, what, WANTED, rebuild, disable_dynamic)


def encode(vision: VisionEncoder, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Run the tower in float32 on normalised pixels (B, 3, S, S), whatever the file's dtype.

    Returns, on the CPU in float32, the unit-norm pooled features (B, 768) and five taps of the
    residual stream (B, 5, tokens, width). Raises ValueError for another image size.
    """
    size = vision.dims.image_size
    if pixels.ndim != 4 or tuple(pixels.shape[1:]) != (3, size, size):
        raise ValueError(
            f"{vision.name} takes pixels (B, 3, {size}, {size}), got {tuple(pixels.shape)}. "
            "Prepare them with whiten.eva_pixels."
        )
    patcher = vision.patcher
    activations = 24 * 4 * len(pixels) * vision.dims.tokens * vision.dims.width
    comfy.model_management.load_models_gpu([patcher], memory_required=activations)
    with torch.no_grad():
        pooled, hidden = patcher.model(pixels.to(patcher.load_device, torch.float32))
    return pooled.cpu(), hidden.cpu()


def _select_visual(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The vision tower's parameters without prefix; rotary tables are computed, never loaded."""
    prefix = "visual." if any(key.startswith("visual.") for key in tensors) else ""
    return {
        key[len(prefix) :]: tensor
        for key, tensor in tensors.items()
        if key.startswith(prefix) and "rope.freqs_" not in key
    }
