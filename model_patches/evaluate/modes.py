"""How a measure is computed: as its authors' code does, or as its definition says."""

from __future__ import annotations

from typing import Literal

Mode = Literal["corrected", "compat"]
CORRECTED: Mode = "corrected"
COMPAT: Mode = "compat"
"""The authors' arithmetic with its quirks, to compare with their tables."""
MODES: tuple[Mode, ...] = (CORRECTED, COMPAT)


def check_mode(mode: str) -> None:
    """Raise ValueError for anything but one of MODES."""
    if mode not in MODES:
        raise ValueError(f"unknown mode {mode!r}; choose one of {', '.join(MODES)}")
