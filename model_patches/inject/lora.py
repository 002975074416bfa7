"""The LoRA that FaceID and DynamicID files hold for all attention layers of a UNet."""

from __future__ import annotations

from collections.abc import Mapping

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..adapters.ip_adapter import lora_patches
from .unet import attention_names, unet_of


def patch_lora(
    model: ModelPatcher, lora: Mapping[str, Tensor], name: str, strength: float
) -> ModelPatcher:
    """A clone with these weight patches; the model itself where there are none.

    lora: by the keys "0.to_q_lora.down.weight" ...; name: of the file, for messages. Raises
    ValueError when the model lacks a layer.
    """
    if not lora or strength == 0.0:
        return model
    patched = model.clone()
    patches = lora_patches(lora, attention_names(unet_of(model)))
    missed = patches.keys() - set(patched.add_patches(patches, strength))
    if missed:
        raise ValueError(
            f"{len(missed)} of {len(patches)} LoRA weights of '{name}' found no layer in this "
            f"model ({', '.join(sorted(missed)[:3])}). Load the base model that the file was made "
            "for."
        )
    return patched
