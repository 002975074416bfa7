"""Which blocks of which Flux models an adapter anchors, and why other models are refused."""

from __future__ import annotations

from typing import Any

from comfy.model_patcher import ModelPatcher

from ..adapters.pulid_flux import IdentityAdapter

DOUBLE_STRIDE = 2
SINGLE_STRIDE = 4

FITTING = "Flux.1 dev, schnell, Krea, Kontext or Fill"


def anchor_blocks(model: ModelPatcher, adapter: IdentityAdapter) -> list[tuple[str, int]]:
    """The blocks after which PuLID-FLUX injects, in the order of its layers.

    Every second double block and every fourth single block from the first on; layer numbers
    continue from one stack to the next. Raises ValueError when model and adapter do not fit.
    """
    dit = model.get_model_object("diffusion_model")
    _check_architecture(model, dit, adapter)
    doubles, singles = len(dit.double_blocks), len(dit.single_blocks)
    blocks = [("double_block", i) for i in range(0, doubles, DOUBLE_STRIDE)]
    blocks += [("single_block", i) for i in range(0, singles, SINGLE_STRIDE)]
    if len(blocks) != adapter.count:
        raise ValueError(
            f"The adapter '{adapter.name}' has {adapter.count} cross-attention layers; this model "
            f"with {doubles} double and {singles} single blocks needs {len(blocks)}. Load "
            f"{FITTING}, or an adapter made for this model."
        )
    if dit.hidden_size != adapter.dim:
        raise ValueError(
            f"The adapter '{adapter.name}' fits a model of width {adapter.dim}; this model's "
            f"width is {dit.hidden_size}. Load {FITTING}, or an adapter made for this model."
        )
    return blocks


def _check_architecture(model: ModelPatcher, dit: Any, adapter: IdentityAdapter) -> None:
    kind = model.model.model_config.unet_config.get("image_model")
    if kind == "flux" and hasattr(dit, "double_blocks"):
        return
    if kind == "flux":
        raise ValueError(
            f"The Flux model was replaced by {type(dit).__name__}, which has no ComfyUI blocks to "
            f"patch (a Nunchaku model?); '{adapter.name}' needs Flux.1 from Load Diffusion Model "
            "or a GGUF loader."
        )
    name = type(model.model).__name__
    raise ValueError(
        f"Apply VFA needs a Flux.1 model for '{adapter.name}'; this one is {name} "
        f"(architecture: {kind or 'UNet'}). Connect {FITTING}."
    )
