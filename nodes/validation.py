"""Widgets are checked before anything runs, so that a wrong one costs no encoder pass.

ComfyUI calls `validate_inputs` with the widgets, and with None for what is linked. An input that
it names loses ComfyUI's own check of limits and options, so the check here must hold those, too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
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


def validate_all(*checks: tuple[Any, ...]) -> bool | str:
    """`validate` for several checks, each with its own values: what the first that fails says."""
    results = (validate(check, *values) for check, *values in checks)
    return next((result for result in results if result is not True), True)


def refuse_more(label: str, most: str, more: Mapping[str, object]) -> None:
    """Raises ValueError for links to sockets beyond the last that a node can grow.

    The page draws no such socket. A prompt sent to the API can name one, and ComfyUI passes it on
    under that name. most: what the node takes at most, as text.
    """
    if more:
        raise ValueError(
            f"{label} takes at most {most}, and the prompt also links {', '.join(sorted(more))}. "
            "Remove these inputs from the prompt."
        )
