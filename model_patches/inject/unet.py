"""Sites of a Stable Diffusion UNet: its cross-attention, through `attn2_patch` and output patch.

The first callback sees what the block's attention reads, the second what it returns. Both are
lists, so they compose with packs that own `attn2` in `patches_replace`, as IP-Adapter packs do.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, cast

from comfy.ldm.modules.attention import SpatialTransformer
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, UNetModel, Upsample
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from .call import CALL, Site
from .sites import inject_at

READ = "flexid_read"
"""Key of the tokens that a block's attention reads, in the options that both callbacks share."""


def unet_sites(model: ModelPatcher, label: str) -> list[Site]:
    """All cross-attention blocks, in the order in which they run: 16 in SD 1.5, 70 in SDXL.

    label: the node, for messages. Raises ValueError for another kind of model.
    """
    unet = model.get_model_object("diffusion_model")
    if not isinstance(unet, UNetModel):
        raise ValueError(
            f"{label} needs a Stable Diffusion UNet; this model is {type(model.model).__name__} "
            f"({type(unet).__name__}). Connect an SD 1.5 or SDXL checkpoint."
        )
    return [site for site, _ in cross_attention_of(unet)]


def cross_attention_of(unet: UNetModel) -> Iterator[tuple[Site, nn.Module]]:
    """Every site with its attention layer (to_q, to_out)."""
    cell = 1
    stages = (
        ("input", unet.input_blocks),
        ("middle", [unet.middle_block]),
        ("output", unet.output_blocks),
    )
    for kind, blocks in stages:
        for number, block in enumerate(blocks):
            for layer in cast(Iterable[nn.Module], block):
                if isinstance(layer, Downsample):
                    cell *= 2
                elif isinstance(layer, Upsample):
                    cell //= 2
                elif isinstance(layer, SpatialTransformer):
                    for depth, transformer in enumerate(layer.transformer_blocks):
                        attention = transformer.attn2
                        if isinstance(attention, nn.Module):
                            yield Site(kind, number, depth, cell), attention


class ReadTokens:
    """An attn2_patch: keeps what the attention reads for the output patch of the same block."""

    def __call__(
        self, n: Tensor, context: Tensor, value: Tensor, extra: dict[str, Any]
    ) -> tuple[Tensor, Tensor, Tensor]:
        if CALL in extra:
            extra[READ] = n
        return n, context, value


class AddResiduals:
    """An attn2_output_patch: adds the residuals of this block's site to what attention returns."""

    def __init__(self, sites: Iterable[Site]):
        self.sites = {(site.kind, site.number, site.depth): site for site in sites}

    def __call__(self, n: Tensor, extra: dict[str, Any]) -> Tensor:
        read = extra.pop(READ, None)
        block = extra.get("block")
        if read is not None and block is not None:
            site = self.sites.get((*block, extra.get("block_index", 0)))
            if site is not None:
                inject_at(extra, site, n, reads=read)
        return n


def patch_attention(patched: ModelPatcher, sites: Iterable[Site]) -> None:
    """Put both callbacks on a clone, once; `sites` are all those of the model."""
    patches = patched.model_options["transformer_options"].get("patches", {})
    if not any(isinstance(one, AddResiduals) for one in patches.get("attn2_output_patch", [])):
        patched.set_model_attn2_patch(ReadTokens())
        patched.set_model_attn2_output_patch(AddResiduals(sites))
