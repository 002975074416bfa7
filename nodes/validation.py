"""Widgets are checked before anything runs, so that a wrong one costs no encoder pass.

ComfyUI calls `validate_inputs` with the widgets, and with None for what is linked. An input that
it names loses ComfyUI's own check of limits and options, so the check here must hold those, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


def validate(check: Callable[..., Any], *values: Any) -> bool | str:
    """True, or what `check` raises as text; True also where a value is linked (None)."""
    if any(value is None for value in values):
        return True
    try:
        check(*values)
    except (ValueError, TypeError) as error:  # TypeError: a text where a number belongs
        return str(error)
    return True
