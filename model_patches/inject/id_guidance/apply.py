"""Apply ID Guidance: a clone of a model whose predictions are moved towards a person."""

from __future__ import annotations

import hashlib
from typing import Any

import comfy.patcher_extension
import torch.nn.functional as F
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...face.analyser import FaceAnalyser
from ...files.cache import tensor_key
from ...gates.gate import OPEN, Gate
from ...identity.identity import Identity
from ...identity.who import read_reference
from ..region import region_of
from ..run import register
from .run import guide_prediction
from .settings import ID_GUIDANCE, LABEL, Guiding, IdGuidance


def apply_id_guidance(
    model: ModelPatcher,
    analyser: FaceAnalyser,
    identity: Identity,
    vae: Any,
    guiding: Guiding,
    *,
    gate: Gate = OPEN,
    mask: Tensor | None = None,
) -> ModelPatcher:
    """A clone of the model whose predictions are moved so that the recogniser sees `identity`.

    vae: a comfy.sd.VAE for the model's latents; a tiny one (TAESD) is enough. gate: multiplies the
    strength. mask (H, W) or (B, H, W) in [0, 1]: where the person's face is; None: the largest
    face. With strength 0 or an empty mask the clone is untouched and nothing is opened.
    Raises ValueError when model, analyser, identity, VAE or mask do not fit each other.
    """
    check_latents(model, vae)
    wanted = read_reference(analyser, "the person", identity, LABEL)
    region = None if mask is None else region_of(mask)
    patched = model.clone()
    if guiding.strength == 0.0 or (region is not None and region.is_empty):
        return patched
    recogniser = _open_recogniser(analyser)
    wanted = F.normalize(wanted, dim=0).float()
    whole = Gate((guiding.beta,)) * gate
    masked = "" if region is None else tensor_key(region.mask)
    facts = (tensor_key(wanted), masked, guiding, whole, type(vae.first_stage_model).__name__)
    order = hashlib.sha256(repr(facts).encode()).hexdigest()
    register(patched, IdGuidance(wanted, analyser, recogniser, vae, guiding, whole, region, order))
    kind = comfy.patcher_extension.WrappersMP.PREDICT_NOISE
    if not patched.get_wrappers(kind, ID_GUIDANCE):
        patched.add_wrapper_with_key(kind, ID_GUIDANCE, guide_prediction)
    return patched


def check_latents(model: ModelPatcher, vae: Any) -> None:
    """Raise ValueError unless the model's latents are pictures that the VAE decodes."""
    held = model.get_model_object("latent_format")
    name = type(model.model).__name__
    if held.latent_dimensions != 2:
        raise ValueError(
            f"{LABEL} needs a model of pictures, whose latents have 2 dimensions; {name} has "
            f"{held.latent_dimensions}. Load Flux.1, SDXL or SD 1.5, or bypass this node."
        )
    sizes = getattr(vae, "latent_channels", None), getattr(vae, "downscale_ratio", None)
    wanted = held.latent_channels, held.spacial_downscale_ratio
    if getattr(vae, "latent_dim", None) != 2 or sizes != wanted:
        raise ValueError(
            f"{LABEL} has a VAE for latents of {sizes[0]} channels at 1/{sizes[1]} of the "
            f"picture's size; {name} makes {wanted[0]} channels at 1/{wanted[1]}. Connect this "
            "model's own VAE, or its tiny one (taef1 for Flux.1, taesdxl, taesd) of Load VAE."
        )


def _open_recogniser(analyser: FaceAnalyser) -> ModelPatcher:
    """Raises ValueError for a recogniser that has no differentiable form."""
    network = getattr(analyser.recogniser, "network", None)
    if network is None:
        raise ValueError(
            f"{LABEL} needs a recogniser of an ONNX file, got "
            f"{getattr(analyser.recogniser, 'name', 'none')}. Open "
            "antelopev2 in Load Face Analyser."
        )
    return network


def describe_guidance(guiding: Guiding, mask: Tensor | None) -> str:
    """What guidance of these settings does, for the user."""
    if guiding.strength and mask is not None and region_of(mask).is_empty:
        return "the mask covers 0 % of the picture: the model is unchanged"
    return guiding.describe()
