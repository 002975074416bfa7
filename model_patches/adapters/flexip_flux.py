"""The layers of a FlexIP file for a Flux, version 2 of the pack's format.

For every block that the streams work after, `blocks.double.<n>` or `blocks.single.<n>`: `norm2`,
`to_q` and `to_out` of both streams, and `<stream>.norm1` and `<stream>.to_kv` of each. One stream
with what is shared is a cross-attention layer of PuLID-FLUX. Source of the two streams: FlexIP
(arXiv 2504.07405), whose UNet lends its own queries and output to both; a Flux has none to lend.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType

from torch import Tensor

from ..files.checks import (
    MAX_HEAD,
    MIN_HEAD,
    Shapes,
    check_finite,
    check_floating,
    check_shapes,
    shape_of,
    shapes_of,
)
from .flexip import FluxBlock, FluxStream

_KINDS = {"double_block": "double", "single_block": "single"}
_BLOCK = re.compile(r"blocks\.(double|single)\.(\d{1,4})\.")
_OWN = ("norm1.weight", "norm1.bias", "to_kv.weight")


def block_key(block: FluxBlock) -> str:
    """Where the file keeps what works after a block: "blocks.double.0"."""
    kind, number = block
    return f"blocks.{_KINDS[kind]}.{number}"


def read_flux_streams(
    tensors: Mapping[str, Tensor], widths: Mapping[str, int], heads: int, what: str, wanted: str
) -> tuple[FluxStream, FluxStream | None]:
    """The preservation stream, and the personalisation stream if there is one.

    tensors: all keys of the file that begin with "blocks."; widths: channels of each stream's
    tokens. Raises ValueError, which names what was read and what is wanted.
    """
    check_floating(tensors, what, wanted)
    check_finite(tensors, what, wanted)
    blocks = _find_blocks(tensors, what, wanted)
    shapes = shapes_of(tensors)
    inner, hidden = shape_of(shapes, f"{block_key(blocks[0])}.to_q.weight", 2, what, wanted)
    if inner % heads or not MIN_HEAD <= inner // heads <= MAX_HEAD:
        raise ValueError(
            f"{what} has attention width {inner} and {heads} heads; expected a number that divides "
            f"it into heads of {MIN_HEAD} to {MAX_HEAD} channels. Use the unmodified {wanted}."
        )
    expected = {
        f"{block_key(block)}.{key}": shape
        for block in blocks
        for key, shape in _block_shapes(hidden, inner, widths).items()
    }
    check_shapes(shapes, expected, what, wanted)
    streams = {
        name: FluxStream(
            tuple(blocks), tuple(_layer(tensors, block, name) for block in blocks), heads
        )
        for name in widths
    }
    return streams["preserve"], streams.get("personal")


def _find_blocks(tensors: Mapping[str, Tensor], what: str, wanted: str) -> list[FluxBlock]:
    """In the order in which a Flux runs them."""
    found = {_BLOCK.match(key): key for key in tensors}
    foreign = [key for match, key in found.items() if match is None]
    if foreign or not tensors:
        raise ValueError(
            f"{what} names {foreign[0][:60] if foreign else 'no block'}, expected blocks.double.N "
            f"or blocks.single.N. Use the unmodified {wanted}."
        )
    names = {match.groups() for match in found if match is not None}
    ordered = sorted((kind == "single", int(number)) for kind, number in names)
    return [("single_block" if single else "double_block", number) for single, number in ordered]


def _block_shapes(hidden: int, inner: int, widths: Mapping[str, int]) -> Shapes:
    shapes: dict[str, tuple[int, ...]] = {
        "norm2.weight": (hidden,),
        "norm2.bias": (hidden,),
        "to_q.weight": (inner, hidden),
        "to_out.weight": (hidden, inner),
    }
    for name, width in widths.items():
        shapes |= {
            f"{name}.norm1.weight": (width,),
            f"{name}.norm1.bias": (width,),
            f"{name}.to_kv.weight": (2 * inner, width),
        }
    return shapes


def _layer(tensors: Mapping[str, Tensor], block: FluxBlock, stream: str) -> Mapping[str, Tensor]:
    place = block_key(block)
    shared = ("norm2.weight", "norm2.bias", "to_q.weight", "to_out.weight")
    layer = {key: tensors[f"{place}.{key}"] for key in shared}
    layer |= {key: tensors[f"{place}.{stream}.{key}"] for key in _OWN}
    return MappingProxyType(layer)
