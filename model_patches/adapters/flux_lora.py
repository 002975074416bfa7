"""The LoRA for the base model that a PuLID-FLUX file may hold, under ComfyUI's own names of it.

"diffusion_model.double_blocks.0.img_attn.qkv.lora_down.weight" (rank, in) and ".lora_up.weight"
(out, rank) add up·down to that layer's weight. Files of the PuLID authors hold none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import comfy.lora
from torch import Tensor

from ..files.checks import check_finite, check_floating
from ..files.tensor_file import TensorFile

LORA = "diffusion_model."
"""What the names of all its tensors begin with."""
DOWN, UP = ".lora_down.weight", ".lora_up.weight"


def read_lora(file: TensorFile, wanted: str) -> dict[str, Tensor]:
    """The LoRA's tensors by their names in the file; none for a file without one.

    Raises ValueError for half a pair, two halves that do not fit, or values that are not finite.
    """
    lora = {key: value for key, value in file.tensors.items() if key.startswith(LORA)}
    what = f"{file.path.name} ({LORA}*)"
    check_floating(lora, what, wanted)
    stems = {key.removesuffix(DOWN).removesuffix(UP) for key in lora}
    for stem in sorted(stems):
        down, up = (shape_in(lora, stem + side) for side in (DOWN, UP))
        if len(down) != 2 or len(up) != 2 or down[0] != up[1]:
            raise ValueError(
                f"{what}: the LoRA of {stem} has halves of the shapes {down} and {up}, expected "
                f"(rank, channels) and (channels, rank). Use the unmodified {wanted}."
            )
    check_finite(lora, what, wanted)
    return lora


def shape_in(lora: Mapping[str, Tensor], key: str) -> tuple[int, ...]:
    """() for what is missing."""
    return tuple(lora[key].shape) if key in lora else ()


def weight_patches(lora: Mapping[str, Tensor]) -> dict[str, Any]:
    """As `ModelPatcher.add_patches` takes them, by the names of the base's weights."""
    stems = {key.removesuffix(DOWN) for key in lora if key.endswith(DOWN)}
    return comfy.lora.load_lora(dict(lora), {stem: f"{stem}.weight" for stem in sorted(stems)})
