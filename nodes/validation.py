"""Widgets are checked before anything runs, so that a wrong one costs no encoder pass.

ComfyUI calls `validate_inputs` with the widgets, and with None for what is linked. An input that
it names loses ComfyUI's own check of limits and options, so the check here must hold those, too.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from comfy_api.latest import io


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


@functools.cache  # a node is changed once
def check_numbers(node: type[io.ComfyNode]) -> type[io.ComfyNode]:
    """The same node, which from now on refuses NaN in every number with decimals.

    ComfyUI compares a number with both limits, and no comparison with NaN is true. What the node
    checks itself comes first.
    """
    numbers = [one for one in node.define_schema().inputs if isinstance(one, io.Float.Input)]
    own: Any = node.validate_inputs
    if own.__func__ is _PLACEHOLDER.__func__:
        own, read = None, []
    else:
        own = own.__func__
        read = list(inspect.signature(own).parameters)[1:]

    # ComfyUI passes what the signature names.
    names = dict.fromkeys(["cls", *read, *(one.id for one in numbers)])
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    named = inspect.Signature([inspect.Parameter(name, kind) for name in names])

    def validate_inputs(*given: Any, **widgets: Any) -> bool | str:
        found = named.bind_partial(*given, **widgets).arguments
        if own is not None:
            said = own(found["cls"], **{name: found[name] for name in read if name in found})
            if said is not True:
                return said
        return validate_all(*((_check_range, one, found.get(one.id)) for one in numbers))

    if numbers:
        validate_inputs.__signature__ = named  # type: ignore[attr-defined]
        node.validate_inputs = classmethod(validate_inputs)  # type: ignore[assignment]
    return node


_PLACEHOLDER: Any = io.ComfyNode.validate_inputs


def _check_range(widget: io.Float.Input, given: float | Sequence[float | None]) -> None:
    """given: several where the node takes lists, None for what is linked.

    Raises ValueError outside of the widget's range.
    """
    low = -math.inf if widget.min is None else widget.min
    high = math.inf if widget.max is None else widget.max
    for value in given if isinstance(given, Sequence) else [given]:
        if value is not None and not low <= value <= high:
            limits = "a number" if math.isinf(high) else f"a number from {low:g} to {high:g}"
            raise ValueError(f"{widget.id} is {value:g}, expected {limits}. Change the widget.")


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
