"""Which cross-attention layers of a UNet carry a photo's style, and which its layout.

Source: InstantStyle (arXiv 2404.02733) for SDXL, and the layers that IP-Adapter packs use for
SD 1.5. Both were found on public IP-Adapter files, not on files trained by FlexIP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

from .call import Site

Blocks = Literal["all", "style", "layout"]
BLOCKS: tuple[Blocks, ...] = get_args(Blocks)

Layer = tuple[str, int]
"""Kind and number of a block, as in ComfyUI's patch keys."""

_SD15: Mapping[str, Mapping[Layer, float]] = {
    "style": {
        **{("input", number): 1.0 for number in (1, 2, 4, 5)},
        **{("output", number): 1.0 for number in range(5, 12)},
    },
    "layout": {("input", 7): 0.25, ("input", 8): 1.0},
}
_SDXL: Mapping[str, Mapping[Layer, float]] = {
    "style": {("output", 1): 1.0},
    "layout": {("input", 8): 1.0},
}
_BY_SITES = {16: _SD15, 70: _SDXL}


def weigh_blocks(sites: Sequence[Site], blocks: Blocks, label: str) -> dict[Site, float]:
    """The factor of every site, in [0, 1]; `all`: 1 everywhere.

    label: the node, for messages. Raises ValueError for a name that is not one of BLOCKS, and for
    style and layout where the layers are not known.
    """
    if blocks not in BLOCKS:
        raise ValueError(f"{label} has blocks {blocks!r}, expected one of {', '.join(BLOCKS)}.")
    if blocks == "all":
        return dict.fromkeys(sites, 1.0)
    known = _BY_SITES.get(len(sites))
    if known is None:
        raise ValueError(
            f"The blocks '{blocks}' of {label} are known for SD 1.5 (16 cross-attention layers) "
            f"and SDXL (70); this model has {len(sites)}. Choose all."
        )
    return {site: known[blocks].get((site.kind, site.number), 0.0) for site in sites}
