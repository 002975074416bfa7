"""Which parts of a PuLID-FLUX file a merge may change, and the parts that its tensors have."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from .pulid_flux import ATTENTION, ENCODER

PATHS = ("norm1", "norm2", "q", "k", "v", "out")
"""Parts of a cross-attention layer. norm1 acts on identity tokens, norm2 on image tokens; k and v
are the two halves of to_kv."""
EncoderRule = Literal["equal", "first", "merge"]
ENCODERS: dict[str, str] = {
    "equal": "must be the same in all files, else an error",
    "first": "that of base, or of the first file; the layers of the others then read tokens they "
    "were not trained on",
    "merge": "merged like the layers",
}
_RANGE = re.compile(r"(\d{1,4})(?:-(\d{1,4}))?")
_ALL = "all"


@dataclass(frozen=True)
class Part:
    """A run of a flattened tensor: a path of one layer, or a tensor of the encoder."""

    start: int
    stop: int
    layer: int | None
    """None: of the encoder."""
    path: str
    """One of PATHS; empty for the encoder."""


def parts_of(key: str, size: int) -> list[Part]:
    """The parts of the tensor of this name, which has `size` values, in their order."""
    if key.startswith(ENCODER):
        return [Part(0, size, None, "")]
    layer, name = key.removeprefix(ATTENTION).split(".", 1)
    number = int(layer)
    if name.startswith("to_kv"):
        return [Part(0, size // 2, number, "k"), Part(size // 2, size, number, "v")]
    return [Part(0, size, number, name.split(".")[0].removeprefix("to_"))]


@dataclass(frozen=True)
class Scope:
    """What is merged; everything else is copied. Raises ValueError for what it cannot read."""

    encoder: EncoderRule = "equal"
    layers: str = _ALL
    """"all", or numbers and ranges such as "0-9, 12"."""
    paths: str = _ALL
    """"all", or some of PATHS such as "q, out"."""

    def __post_init__(self) -> None:
        if self.encoder not in ENCODERS:
            raise ValueError(f"encoder is {self.encoder!r}, expected one of {', '.join(ENCODERS)}.")
        _ = self._ranges, self._paths

    def check_layers(self, count: int, name: str) -> None:
        """Raise ValueError when a layer is named that a file of `count` layers lacks."""
        highest = max((high for _, high in self._ranges), default=0)
        if highest >= count:
            raise ValueError(
                f"layers names layer {highest}; '{name}' has the layers 0 to {count - 1}. "
                "Name layers in that range, or write 'all'."
            )

    def holds(self, part: Part) -> bool:
        """Whether the part is merged."""
        if part.layer is None:
            return self.encoder == "merge"
        return self.holds_layer(part.layer) and part.path in self._paths

    def holds_layer(self, layer: int) -> bool:
        """Whether the layer of that number is among `layers`."""
        return not self._ranges or any(low <= layer <= high for low, high in self._ranges)

    @property
    def _ranges(self) -> tuple[tuple[int, int], ...]:
        """Empty: all."""
        pieces = _split(self.layers, "layers", "a layer's number such as 12, or a range like 0-9")
        return () if pieces == [_ALL] else tuple(map(_read_range, pieces))

    @property
    def _paths(self) -> Sequence[str]:
        pieces = _split(self.paths, "paths", f"some of {', '.join(PATHS)}")
        foreign = [piece for piece in pieces if piece not in PATHS]
        if pieces == [_ALL]:
            return PATHS
        if foreign:
            raise ValueError(
                f"Cannot read {foreign[0]!r} in paths; expected 'all' or some of "
                f"{', '.join(PATHS)}, separated by commas."
            )
        return pieces


def _split(text: str, what: str, kinds: str) -> list[str]:
    pieces = [piece.strip() for piece in text.split(",") if piece.strip()]
    if not pieces:
        raise ValueError(f"{what} is {text!r}, expected 'all' or {kinds}.")
    return pieces


def _read_range(piece: str) -> tuple[int, int]:
    found = _RANGE.fullmatch(piece.replace(" ", ""))
    if found is None:
        raise ValueError(
            f"Cannot read {piece!r} in layers; expected 'all', a layer's number such as 12, or a "
            "range such as 0-9."
        )
    low = int(found[1])
    high = low if found[2] is None else int(found[2])
    if low > high:
        raise ValueError(
            f"The range {piece!r} in layers runs from {low} to {high}; the first number must not "
            "come after the last. Swap them."
        )
    return low, high
