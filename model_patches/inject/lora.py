"""The LoRA that some adapter files hold for the base: all attention layers of a UNet (FaceID and
DynamicID), or layers of a Flux (flux_lora.py)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ..adapters.flux_lora import weight_patches
from ..adapters.ip_adapter import lora_patches
from ..adapters.pulid_flux import IdentityAdapter
from .unet import attention_names, unet_of

HELD = "flexid_lora"
"""Key of a model's attachments: digest of a file -> strength at which its LoRA is in the model."""


def patch_lora(
    model: ModelPatcher, lora: Mapping[str, Tensor], name: str, strength: float
) -> ModelPatcher:
    """A clone with these weight patches; the model itself where there are none.

    lora: by the keys "0.to_q_lora.down.weight" ...; name: of the file, for messages. Raises
    ValueError when the model lacks a layer.
    """
    if not lora or strength == 0.0:
        return model
    return _patch(model, lora_patches(lora, attention_names(unet_of(model))), name, strength)


def patch_flux_lora(
    model: ModelPatcher, adapter: IdentityAdapter, strength: float, label: str
) -> ModelPatcher:
    """A clone with the file's weight patches of a Flux; the model itself where there are none, or
    where another node with the same file has put them there.

    label: the node, for messages. Raises ValueError when the model lacks a layer, or has the
    patches at another strength: which of the two counts must not depend on the order of nodes.
    """
    if not adapter.lora or strength == 0.0:
        return model
    held = model.get_attachment(HELD) or {}
    before = held.get(adapter.digest)
    if before is None:
        patched = _patch(model, weight_patches(adapter.lora), adapter.name, strength)
        patched.set_attachments(HELD, {**held, adapter.digest: strength})
        return patched
    if before != strength:
        raise ValueError(
            f"{label} asks for the LoRA of '{adapter.name}' at strength {strength:g}, and another "
            f"node on this model for {before:g}. Set both to the same; Apply VFA has 1."
        )
    return model


def _patch(
    model: ModelPatcher, patches: Mapping[str, Any], name: str, strength: float
) -> ModelPatcher:
    patched = model.clone()
    missed = patches.keys() - set(patched.add_patches(patches, strength))
    if missed:
        raise ValueError(
            f"{len(missed)} of {len(patches)} LoRA weights of '{name}' found no layer in this "
            f"model ({', '.join(sorted(missed)[:3])}). Load the base model that the file was made "
            "for."
        )
    return patched
