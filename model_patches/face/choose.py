"""Which of the faces in a photo: an order, and places in that order. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from torch import Tensor

from .boxes import Box, Detection

LARGEST = "largest"
SMALLEST = "smallest"
LEFT_TO_RIGHT = "left to right"
RIGHT_TO_LEFT = "right to left"
TOP_TO_BOTTOM = "top to bottom"
BOTTOM_TO_TOP = "bottom to top"
NEAREST = "nearest to point"
IN_BOXES = "overlap with boxes"
IN_MASK = "overlap with mask"
PLAIN_ORDERS = (LARGEST, SMALLEST, LEFT_TO_RIGHT, RIGHT_TO_LEFT, TOP_TO_BOTTOM, BOTTOM_TO_TOP)
"""Orders that need nothing but the faces."""
ORDERS = (
    LARGEST,
    LEFT_TO_RIGHT,
    RIGHT_TO_LEFT,
    NEAREST,
    IN_BOXES,
    IN_MASK,
    SMALLEST,
    TOP_TO_BOTTOM,
    BOTTOM_TO_TOP,
)
Value = TypeVar("Value")
SURE = 0.6
"""Score from which a face counts with its whole area. Both detectors give true faces more, and most
of their false hits less."""
DOUBTFUL = 0.05
"""Share of its area that a hit at the detector's threshold, 0.5, counts with."""
COVERED = 0.3
"""Least share of a face's box that must lie in a given box or mask."""


class NoSuchFace(ValueError):
    """The photo has faces, but not the one that was asked for."""


@dataclass(frozen=True)
class FaceChoice:
    """How to choose faces in each photo.

    `index`: "0" is the first in the order, "0,2" the first and third, "all" every one.
    `point`: x and y in fractions of the photo's width and height, for "nearest to point".
    Raises ValueError for an unknown order, an index that is not one, or a point that is not finite.
    """

    order: str = LARGEST
    index: str = "0"
    point: tuple[float, float] = (0.5, 0.5)

    def __post_init__(self) -> None:
        if self.order not in ORDERS:
            raise ValueError(
                f"The face order is {self.order!r}; choose one of {', '.join(ORDERS)}."
            )
        if not all(math.isfinite(value) for value in self.point):
            raise ValueError(
                f"The point is {self.point}, expected two finite numbers from 0 to 1. Set point_x "
                "and point_y to such numbers."
            )
        parse_index(self.index)


def parse_index(text: str) -> tuple[int, ...] | None:
    """ "0", "0,2" -> numbers; "all" -> None. Raises ValueError for anything else."""
    cleaned = text.strip().lower()
    if cleaned == "all":
        return None
    parts = [part.strip() for part in cleaned.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise ValueError(
            f'the face index must be a number from 0, a list such as "0,2", or "all"; got {text!r}'
        )
    numbers = tuple(int(part) for part in parts)
    if len(set(numbers)) != len(numbers):
        raise ValueError(f"the face index {text!r} names a face twice; name each once")
    return numbers


def rank(
    faces: Sequence[Detection],
    choice: FaceChoice,
    size: tuple[int, int],
    boxes: Sequence[Box] | None = None,
    mask: Tensor | None = None,
) -> list[int]:
    """Indices into `faces` in the chosen order; with boxes or a mask only those that lie in them.

    size: width, height of the photo. boxes: x0, y0, x1, y1 in pixels; the first ranked face is
    the one in the first box, and so on. mask: (h, w) from 0 to 1, of any size, stretched over the
    photo. The order "largest" weighs the area with the score, so that a doubtful hit comes first
    only where it is far larger than every sure one. Ties keep the detector's order.
    """
    if choice.order == IN_BOXES:
        return _by_boxes(faces, _require_input(boxes, "boxes", "a BOUNDING_BOX"))
    if choice.order == IN_MASK:
        return _by_mask(faces, _require_input(mask, "mask", "a MASK"), size)
    keys = {
        LARGEST: lambda face: -face.area * _trust(face.score),
        SMALLEST: lambda face: face.area,
        LEFT_TO_RIGHT: lambda face: face.centre[0],
        RIGHT_TO_LEFT: lambda face: -face.centre[0],
        TOP_TO_BOTTOM: lambda face: face.centre[1],
        BOTTOM_TO_TOP: lambda face: -face.centre[1],
        NEAREST: lambda face: math.dist(
            face.centre, (choice.point[0] * size[0], choice.point[1] * size[1])
        ),
    }
    key = keys[choice.order]
    return sorted(range(len(faces)), key=lambda index: key(faces[index]))


def _trust(score: float) -> float:
    """The share of a face's area that counts for its rank."""
    return min(max((score - 0.5) / (SURE - 0.5), DOUBTFUL), 1.0)


def pick(ranked: Sequence[int], choice: FaceChoice) -> list[int]:
    """The ranked faces that `choice.index` names. Raises NoSuchFace when there is none."""
    if not ranked:
        what = "boxes" if choice.order == IN_BOXES else "mask"
        raise NoSuchFace(f"no detected face lies in the given {what}")
    places = parse_index(choice.index)
    if places is None:
        return list(ranked)
    beyond = [place for place in places if place >= len(ranked)]
    if beyond:
        raise NoSuchFace(
            f"face {beyond[0]} is asked for, counted from 0, but only {len(ranked)} can be chosen"
        )
    return [ranked[place] for place in places]


def boxes_per_photo(boxes: object, photos: int) -> list[list[Box]]:
    """A BOUNDING_BOX value of core nodes -> boxes of each photo as x0, y0, x1, y1.

    Accepts one dict, a list of dicts (for every photo), or a list of lists (one per photo, or one
    for all). Raises ValueError for anything else.
    """
    frames = [[boxes]] if isinstance(boxes, Mapping) else boxes
    if not isinstance(frames, Sequence) or isinstance(frames, str) or not frames:
        raise ValueError(f"boxes are empty or not bounding boxes: {boxes!r}; draw at least one box")
    if all(isinstance(item, Mapping) for item in frames):
        frames = [frames]
    if not all(isinstance(frame, Sequence) for frame in frames):
        raise ValueError(f"boxes must be bounding boxes or lists of them, got {boxes!r}")
    if len(frames) not in (1, photos):
        raise ValueError(
            f"boxes are given for {len(frames)} photos, the batch has {photos}; give one list of "
            "boxes, or one per photo"
        )
    converted = [[_corners(box) for box in frame] for frame in frames]
    return converted * photos if len(converted) == 1 else converted


def _corners(box: Any) -> Box:
    try:
        x, y, width, height = (float(box[key]) for key in ("x", "y", "width", "height"))
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"a box needs numbers x, y, width, height; got {box!r}") from error
    if not (width > 0 and height > 0 and math.isfinite(x + y + width + height)):
        raise ValueError(f"a box needs a width and height above 0 pixels; got {box!r}")
    return x, y, x + width, y + height


def mask_per_photo(mask: Tensor, photos: int) -> list[Tensor]:
    """A MASK (h, w), (1, h, w) or (B, h, w) -> one (h, w) per photo. ValueError otherwise."""
    stack = mask[None] if mask.ndim == 2 else mask
    if stack.ndim != 3 or stack.shape[0] not in (1, photos) or 0 in stack.shape:
        raise ValueError(
            f"expected a mask of shape (1 or {photos}, height, width), got {tuple(mask.shape)}; "
            "give one mask, or one per photo"
        )
    if not bool((stack > 0).any()):
        raise ValueError(
            f"the mask {tuple(mask.shape)} is empty (all 0); paint over the face, or choose "
            "another order. Load Image gives an empty mask for a photo without transparency"
        )
    return list(stack.expand(photos, -1, -1))


def _require_input(value: Value | None, name: str, kind: str) -> Value:
    if value is None:
        raise ValueError(
            f'the order "overlap with {name}" needs {kind}; connect the input {name!r}, or choose '
            "another order"
        )
    return value


def _by_boxes(faces: Sequence[Detection], boxes: Sequence[Box]) -> list[int]:
    ranked: list[int] = []
    for box in boxes:
        shares = [_share(face.box, box) for face in faces]
        free = [i for i, share in enumerate(shares) if share >= COVERED and i not in ranked]
        if free:
            # A box around a whole person may hold a second face: the larger one is meant.
            ranked.append(max(free, key=lambda i: shares[i] * faces[i].area))
    return ranked


def _share(face: Box, box: Box) -> float:
    """The part of `face` that lies in `box`."""
    width = min(face[2], box[2]) - max(face[0], box[0])
    height = min(face[3], box[3]) - max(face[1], box[1])
    area = (face[2] - face[0]) * (face[3] - face[1])
    return max(width, 0.0) * max(height, 0.0) / area


def _by_mask(faces: Sequence[Detection], mask: Tensor, size: tuple[int, int]) -> list[int]:
    shares = [share_in_mask(face.box, mask, size) for face in faces]
    kept = [index for index, share in enumerate(shares) if share >= COVERED]
    return sorted(kept, key=lambda index: -shares[index])


def share_in_mask(box: Box, mask: Tensor, size: tuple[int, int]) -> float:
    """Mean of the mask in `box`, the mask stretched over a photo of `size` (width, height)."""
    height, width = mask.shape
    x = np.array([box[0], box[2]]) * width / size[0]
    y = np.array([box[1], box[3]]) * height / size[1]
    left, top = min(int(x[0]), width - 1), min(int(y[0]), height - 1)
    right, bottom = max(math.ceil(x[1]), left + 1), max(math.ceil(y[1]), top + 1)
    return float(mask[top:bottom, left:right].float().mean())
