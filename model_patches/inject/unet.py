"""Sites of a Stable Diffusion UNet: its cross-attention.

Outside it, through `attn2_patch` and output patch: the first callback sees what the block's
attention reads, the second what it returns. Both are lists, so they compose with packs that own
`attn2` in `patches_replace`, as IP-Adapter packs do. Inside it, through that slot: only there are
the base's queries and the text's attention at hand before the output projection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from comfy.ldm.modules.attention import (
    CrossAttention,
    SpatialTransformer,
    optimized_attention,
)
from comfy.ldm.modules.diffusionmodules.openaimodel import Downsample, UNetModel, Upsample
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from .call import CALL, Site
from .sites import inject_at, visits_of

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


def unet_of(model: ModelPatcher) -> UNetModel:
    """The network of a model that `unet_sites` has accepted."""
    return cast(UNetModel, model.get_model_object("diffusion_model"))


def cross_attention_of(unet: UNetModel) -> Iterator[tuple[Site, CrossAttention]]:
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
                        if isinstance(attention, CrossAttention):
                            yield Site(kind, number, depth, cell), attention


def in_diffusers_order(sites: Iterable[Site]) -> list[Site]:
    """The order in which diffusers numbers attention layers: down, up, middle."""
    kinds = ("input", "output", "middle")
    return sorted(sites, key=lambda site: (kinds.index(site.kind), site.number, site.depth))


def attention_names(unet: UNetModel) -> list[str]:
    """Names in the model of all attention layers, each block's self- before its cross-attention,
    in the order of diffusers."""
    paths = {module: name for name, module in unet.named_modules()}
    cross = dict(cross_attention_of(unet))
    names = []
    for site in in_diffusers_order(cross):
        name = f"diffusion_model.{paths[cross[site]]}"
        names += [name.removesuffix("2") + "1", name]
    return names


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
                inject_at(extra, site, n, reads=lambda: read)
        return n


def patch_attention(patched: ModelPatcher, sites: Iterable[Site]) -> None:
    """Put both callbacks on a clone, once; `sites` are all those of the model."""
    patches = patched.model_options["transformer_options"].get("patches", {})
    if not any(isinstance(one, AddResiduals) for one in patches.get("attn2_output_patch", [])):
        patched.set_model_attn2_patch(ReadTokens())
        patched.set_model_attn2_output_patch(AddResiduals(sites))


class InsideAttention:
    """A patches_replace entry: attends to the text, or lets whatever owned the slot before do so,
    then injects. Terms read queries and text attention side by side (R, L, 2C)."""

    def __init__(self, site: Site, previous: Callable | None):
        self.site = site
        self.previous = previous

    def __call__(self, q: Tensor, k: Tensor, v: Tensor, extra: dict[str, Any]) -> Tensor:
        earlier = visits_of(extra, self.site)
        if self.previous is not None:
            out = self.previous(q, k, v, extra)
        else:
            precision = extra["attn_precision"]
            out = optimized_attention(
                q, k, v, extra["n_heads"], attn_precision=precision, transformer_options=extra
            )
        inject_at(extra, self.site, out, earlier, lambda: torch.cat((q, out), dim=-1))
        return out

    def to(self, device_or_dtype: Any) -> InsideAttention:
        move = getattr(self.previous, "to", None)
        return self if move is None else InsideAttention(self.site, move(device_or_dtype))

    def models(self) -> list[ModelPatcher]:
        models = getattr(self.previous, "models", None)
        return [] if models is None else models()

    def cleanup(self) -> None:
        cleanup = getattr(self.previous, "cleanup", None)
        if cleanup is not None:
            cleanup()


def inside_of(sites: Iterable[Site]) -> list[Site]:
    """The sites inside the attention of the same blocks."""
    return [replace(site, inside=True) for site in sites]


def wrap_attention(patched: ModelPatcher, sites: Iterable[Site]) -> None:
    """Wrap the owner of each block's attention on a clone, unless it is our own wrapper already.

    A pack may own a transformer block, or all those of a UNet block by a key of two parts, which a
    key of three parts hides.
    """
    options = patched.model_options["transformer_options"]
    owners = options.get("patches_replace", {}).get("attn2", {})
    for site in sites:
        owner = owners.get((site.kind, site.number, site.depth))
        if owner is None:
            owner = owners.get((site.kind, site.number))
        if not isinstance(owner, InsideAttention):
            wrapped = InsideAttention(site, owner)
            patched.set_model_attn2_replace(wrapped, site.kind, site.number, site.depth)


def check_hidden(options: Mapping[str, Any], label: str) -> None:
    """Raise RuntimeError for an owner of a whole block's attention that came after our wrappers.

    Its key of two parts is hidden by ours of three, so it would do nothing, and nobody would know.
    """
    owners = options.get("patches_replace", {}).get("attn2", {})
    for key, owner in owners.items():
        wrappers = [
            one
            for place, one in owners.items()
            if len(key) == 2 and place[:2] == key and isinstance(one, InsideAttention)
        ]
        if any(not _is_same(one.previous, owner) for one in wrappers):
            raise RuntimeError(
                f"Another node took over the cross-attention of {' '.join(map(str, key))} "
                f"({type(owner).__name__}) after {label}, which hides it there. Put that node "
                f"before {label}."
            )


def _is_same(one: Any, other: Any) -> bool:
    """Whether a wrapper holds this owner; ComfyUI moves both, and a moved one may be a copy."""
    return one is other or (hasattr(other, "to") and type(one) is type(other))
