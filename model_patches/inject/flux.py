"""Sites of a Flux: behind the blocks of its two stacks, through `patches_replace`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from comfy.model_patcher import ModelPatcher

from .call import Site
from .sites import inject_at, visits_of

PATCH = 2
"""Latent pixels a side of a Flux token."""
DOUBLE_STRIDE = 2
SINGLE_STRIDE = 4

FITTING = "Flux.1 dev, schnell, Krea, Kontext or Fill"


def pulid_blocks(doubles: int, singles: int) -> list[tuple[str, int]]:
    """The blocks that PuLID-FLUX injects behind, in the order of its layers.

    Every second double block and every fourth single block from the first on; layer numbers
    continue from one stack to the next.
    """
    blocks = [("double_block", i) for i in range(0, doubles, DOUBLE_STRIDE)]
    return blocks + [("single_block", i) for i in range(0, singles, SINGLE_STRIDE)]


def flux_sites(
    model: ModelPatcher,
    count: int,
    dim: int,
    adapter: str,
    label: str,
    stated: Sequence[tuple[str, int]] | None = None,
) -> list[Site]:
    """Sites for a PuLID-FLUX adapter of `count` layers of width `dim`, in the order of its layers.

    adapter and label: file and node, for messages. stated: the blocks that the file names; None:
    those of PuLID. Raises ValueError when they do not fit.
    """
    if stated is not None:
        return block_sites(model, stated, dim, 0, adapter, label)
    dit: Any = model.get_model_object("diffusion_model")
    _check_architecture(model, dit, adapter, label)
    doubles, singles = len(dit.double_blocks), len(dit.single_blocks)
    blocks = pulid_blocks(doubles, singles)
    if len(blocks) != count:
        raise ValueError(
            f"The adapter '{adapter}' has {count} cross-attention layers; this model with "
            f"{doubles} double and {singles} single blocks needs {len(blocks)}. Load {FITTING}, or "
            "an adapter made for this model."
        )
    if dit.hidden_size != dim:
        raise ValueError(
            f"The adapter '{adapter}' fits a model of width {dim}; this model's width is "
            f"{dit.hidden_size}. Load {FITTING}, or an adapter made for this model."
        )
    return [Site(kind, number, cell=PATCH) for kind, number in blocks]


def block_sites(
    model: ModelPatcher,
    blocks: Sequence[tuple[str, int]],
    dim: int,
    text: int,
    adapter: str,
    label: str,
) -> list[Site]:
    """Sites after the blocks that a file names, for image tokens of `dim` channels and text of
    `text`; 0: any.

    adapter and label: file and node, for messages. Raises ValueError when they do not fit.
    """
    dit: Any = model.get_model_object("diffusion_model")
    _check_architecture(model, dit, adapter, label)
    counts = {"double_block": len(dit.double_blocks), "single_block": len(dit.single_blocks)}
    beyond = [f"{kind} {number}" for kind, number in blocks if number >= counts[kind]]
    if beyond:
        raise ValueError(
            f"'{adapter}' has layers after {len(blocks)} blocks, among them {beyond[0]}; this "
            f"model has {counts['double_block']} double and {counts['single_block']} single "
            "blocks. Load the base model that the file was made for."
        )
    width, words = dit.hidden_size, dit.params.context_in_dim
    if width != dim or text not in (0, words):
        raise ValueError(
            f"'{adapter}' fits a Flux of width {dim}"
            + (f" with text of {text} channels" if text else "")
            + f"; this model has {width} and {words}. Load the base model that the file was made "
            "for."
        )
    return [Site(kind, number, cell=PATCH) for kind, number in blocks]


def _check_architecture(model: ModelPatcher, dit: Any, adapter: str, label: str) -> None:
    kind = model.model.model_config.unet_config.get("image_model")
    if kind == "flux" and hasattr(dit, "double_blocks"):
        return
    if kind == "flux":
        raise ValueError(
            f"The Flux model was replaced by {type(dit).__name__}, which has no ComfyUI blocks to "
            f"patch (a Nunchaku model?); '{adapter}' needs Flux.1 from Load Diffusion Model or a "
            "GGUF loader."
        )
    name = type(model.model).__name__
    raise ValueError(
        f"{label} needs a Flux.1 model for '{adapter}'; this one is {name} "
        f"(architecture: {kind or 'UNet'}). Connect {FITTING}."
    )


class FluxBlock:
    """A patches_replace entry: runs the block, or whatever owned it before, then injects."""

    def __init__(self, site: Site, previous: Any):
        """previous: a patches_replace entry, a function or an object with hooks; None without."""
        self.site = site
        self.previous = previous

    def __call__(self, args: dict, extra: dict) -> dict:
        options = args["transformer_options"]
        earlier = visits_of(options, self.site)
        out = self.previous(args, extra) if self.previous else extra["original_block"](args)
        # Single blocks hold text and image in one sequence. Kontext's reference tokens follow the
        # picture's own, which alone are injected.
        start = 0 if "txt" in out else options["img_slice"][0]
        inject_at(options, self.site, out["img"][:, start:], earlier)
        return out

    def to(self, device_or_dtype: Any) -> FluxBlock:
        if not hasattr(self.previous, "to"):
            return self
        return FluxBlock(self.site, self.previous.to(device_or_dtype))

    def models(self) -> list[ModelPatcher]:
        return self.previous.models() if hasattr(self.previous, "models") else []

    def cleanup(self) -> None:
        if hasattr(self.previous, "cleanup"):
            self.previous.cleanup()


def wrap_blocks(patched: ModelPatcher, sites: Iterable[Site]) -> None:
    """Wrap the owner of each site's block on a clone, unless it is our own wrapper already.

    Where another pack took the block over since, it is wrapped once more; if that pack chains our
    first wrapper, only the first injects.
    """
    options = patched.model_options["transformer_options"]
    owners = options.get("patches_replace", {}).get("dit", {})
    for site in sites:
        owner = owners.get((site.kind, site.number))
        if not isinstance(owner, FluxBlock):
            block = FluxBlock(site, owner)
            patched.set_model_patch_replace(block, "dit", site.kind, site.number)
