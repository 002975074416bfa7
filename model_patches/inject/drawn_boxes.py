"""Boxes that the user draws in core's Create Bounding Boxes (its output `elements`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from .region import Box, Region, box_region, region_of

_GRID = 1000
"""Core states boxes in thousandths of the picture."""


def read_elements(elements: object) -> list[tuple[str, Box]]:
    """The words and the box of every element: y_min, x_min, y_max, x_max in shares of the picture.

    Raises ValueError for what Create Bounding Boxes does not make.
    """
    return [_read_element(one) for one in _list_elements(elements)]


def region_from(mask: Tensor | None, elements: object | None, label: str) -> Region | None:
    """The region of one mask or of one box; None without either. label: the node, for messages.

    Raises ValueError for both, for another number of boxes than one, and as `region_of` and
    `box_region`.
    """
    if elements is None:
        return None if mask is None else region_of(mask)
    if mask is not None:
        raise ValueError(
            f"{label} has a mask and a box, expected one of them. Disconnect mask or elements."
        )
    boxes = read_elements(elements)
    if len(boxes) != 1:
        raise ValueError(
            f"{label} has {len(boxes)} boxes, expected 1. Draw one box in Create Bounding Boxes, "
            "or connect a mask of another shape."
        )
    return box_region(boxes[0][1])


def _list_elements(elements: object) -> Sequence[Any]:
    found = [elements] if isinstance(elements, Mapping) else elements
    if not isinstance(found, Sequence) or isinstance(found, str):
        raise ValueError(
            f"The boxes are a {type(elements).__name__}, expected the list `elements` of Create "
            "Bounding Boxes. Connect that output."
        )
    return found


def _read_element(element: Any) -> tuple[str, Box]:
    """Its words and its box, from thousandths."""
    box = element.get("bbox") if isinstance(element, Mapping) else None
    numbers = isinstance(box, Sequence) and not isinstance(box, str) and len(box) == 4
    if not numbers or not all(isinstance(value, int | float) for value in box or ()):
        raise ValueError(
            f"A box is {element!r}, expected a bbox of four numbers as Create Bounding Boxes makes "
            "it. Connect its output `elements`, not `bboxes`."
        )
    y_min, x_min, y_max, x_max = (float(value) / _GRID for value in box or ())
    words = " ".join(str(element.get(key) or "") for key in ("desc", "text"))
    return words, (y_min, x_min, y_max, x_max)
