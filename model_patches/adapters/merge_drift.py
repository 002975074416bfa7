"""How far files are from a reference, part by part: measured while they are merged."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from .merge_scope import PATHS, Part

ALL_LAYERS = "all layers"
_ENCODER_ROW = "encoder"


@dataclass(frozen=True)
class Change:
    """What sets some values apart from those of the reference."""

    relative: float
    """Norm of the difference over the norm of the reference; infinite from a reference of 0."""
    cosine: float
    """Cosine of the angle to the reference; nan where either is 0."""

    def __str__(self) -> str:
        if math.isinf(self.relative):
            return "from 0"
        return f"{100 * self.relative:.2f} % {self.cosine:.4f}"


@dataclass
class Drift:
    """Sums over the values seen so far, in float64; one column for each of `names`."""

    names: Sequence[str]
    _sums: dict[tuple[int | None, str], Tensor] = field(default_factory=dict)

    def add(self, part: Part, reference: Tensor, columns: Sequence[Tensor]) -> list[bool]:
        """Count some values of a part: of the reference and, in the same places, of each column.

        Returns whether the reference and each column are finite there.
        """
        base = reference.double()
        square = base @ base
        rows, finite = [], [bool(square.isfinite())]
        for column in columns:
            if column is reference:
                rows.append(torch.stack((square, square, square, square.new_zeros(()))))
                finite.append(finite[0])
                continue
            values = column.double()
            own = values @ values
            finite.append(bool(own.isfinite()))
            apart = values - base
            rows.append(torch.stack((square, own, base @ values, apart @ apart)))
        if rows:
            key = (part.layer, part.path)
            total = torch.stack(rows)
            self._sums[key] = self._sums[key] + total if key in self._sums else total
        return finite

    def changes(self) -> dict[str, list[Change]]:
        """A row for the encoder, each layer, each path and all layers: a Change for each column."""
        rows: dict[str, Tensor] = {}
        for (layer, _), sums in sorted(self._sums.items(), key=_place):
            name = _ENCODER_ROW if layer is None else f"layer {layer}"
            rows[name] = rows.get(name, 0) + sums
        for path in PATHS:
            found = [sums for (_, one), sums in self._sums.items() if one == path]
            if found:
                rows[f"all {path}"] = torch.stack(found).sum(0)
        layers = [sums for (layer, _), sums in self._sums.items() if layer is not None]
        if layers:
            rows[ALL_LAYERS] = torch.stack(layers).sum(0)
        return {name: [_change_of(one) for one in sums.tolist()] for name, sums in rows.items()}

    def table(self) -> list[str]:
        """The changes as lines of text in columns."""
        lines = [["part", *self.names]]
        lines += [[name, *map(str, row)] for name, row in self.changes().items()]
        widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
        return [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            for line in lines
        ]


def _place(item: tuple[tuple[int | None, str], Tensor]) -> tuple[int, int]:
    (layer, path), _ = item
    return (-1, 0) if layer is None else (layer, PATHS.index(path))


def _change_of(sums: Sequence[float]) -> Change:
    reference, own, both, apart = sums
    length = math.sqrt(reference * own)
    cosine = min(1.0, max(-1.0, both / length)) if length else math.nan
    if reference == 0:
        return Change(math.inf if apart else 0.0, cosine)
    return Change(math.sqrt(apart / reference), cosine)
