"""EditIDv2's controls of a row: what its identity is made of, and how the picture asks about it."""

from __future__ import annotations

from ...model_patches.gates.schedule import Schedule
from ...model_patches.identity.mix import FAITHFUL
from ...model_patches.identity.mix import PRESETS as MIXES
from ...model_patches.inject.editid import PRESETS, Preset
from ...model_patches.inject.query import QueryControl
from .rows import Row


def controls_of(row: Row) -> Preset | None:
    """None for a row without them."""
    if row.anchor == "editid":
        return PRESETS[row.preset]
    if row.anchor == "queried":
        mode, alpha = row.query
        return Preset(QueryControl(mode, Schedule(alpha=alpha)), FAITHFUL)
    if row.anchor == "mixed":
        return Preset(QueryControl(), MIXES[row.mix])
    return None
