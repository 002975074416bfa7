"""Pictures, boxes and masks of what was detected."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .boxes import Box, Detection, shrink
from .detect import Detected, PhotoFaces
from .pixels import to_uint8

LONG_SIDE = 1536
"""The overlay is a preview: an 8k batch would fill memory for nothing."""
CHOSEN = (64, 224, 96)
DIM = (150, 150, 150)
INK = (0, 0, 0)


def draw_overlay(images: Tensor, detected: Detected) -> Tensor:
    """(B, H, W, C) photos -> (B, h, w, 3) float 0..1, long side at most 1536.

    Every face has its box and points; the number is the index to type, counted in the chosen
    order. Chosen faces are green, others grey; a face outside of the given boxes or mask has no
    number.
    """
    drawn = [
        _draw(to_uint8(image, index), photo)
        for index, (image, photo) in enumerate(zip(images, detected.photos, strict=True))
    ]
    return torch.from_numpy(np.stack(drawn)).float() / 255


@dataclass(frozen=True)
class Mark:
    """A box with a label, to be drawn on a picture."""

    box: Box
    """x0, y0, x1, y1 in pixels."""
    text: str
    """Drawn above the box; empty: no label. Signs that the built-in font lacks become "?"."""
    colour: tuple[int, int, int]
    thin: bool = False


def draw_marks(image: Tensor, marks: Sequence[Mark]) -> Tensor:
    """One picture (H, W, C) -> (h, w, 3) float 0..1 with the marks, long side at most 1536."""
    small, scale = shrink(to_uint8(image), LONG_SIDE)
    picture = Image.fromarray(small)
    pen = ImageDraw.Draw(picture)
    line, size = _pen_sizes(pen)
    for one in sorted(marks, key=lambda one: not one.thin):
        box = [value * scale for value in one.box]
        pen.rectangle(box, outline=one.colour, width=max(1, line // 2) if one.thin else line)
        if one.text:
            text = one.text.encode("ascii", "replace").decode()
            _badge(pen, box[0], box[1], text, size, one.colour)
    return torch.from_numpy(np.asarray(picture).copy()).float() / 255


def chosen_boxes(detected: Detected) -> list[list[dict]]:
    """BOUNDING_BOX of core nodes: per photo a list of x, y, width, height in pixels, score."""
    return [
        [_box_dict(photo.detections[one], photo.ranked.index(one)) for one in photo.chosen]
        for photo in detected.photos
    ]


def chosen_mask(detected: Detected) -> Tensor:
    """MASK (B, H, W): 1 inside of the chosen faces' boxes, 0 elsewhere."""
    width, height = detected.photos[0].size
    mask = torch.zeros(len(detected.photos), height, width)
    for index, boxes in enumerate(chosen_boxes(detected)):
        for box in boxes:
            x, y = box["x"], box["y"]
            mask[index, y : y + box["height"], x : x + box["width"]] = 1
    return mask


def _box_dict(face: Detection, number: int) -> dict:
    x0, y0, x1, y1 = (round(value) for value in face.box)
    return {
        "x": x0,
        "y": y0,
        "width": max(x1 - x0, 1),
        "height": max(y1 - y0, 1),
        "label": f"face {number}",
        "score": face.score,
    }


def _draw(rgb: np.ndarray, photo: PhotoFaces) -> np.ndarray:
    small, scale = shrink(rgb, LONG_SIDE)
    picture = Image.fromarray(small)
    pen = ImageDraw.Draw(picture)
    # Grey first, so that a chosen face is never covered.
    for index in sorted(range(len(photo.detections)), key=lambda one: one in photo.chosen):
        number = str(photo.ranked.index(index)) if index in photo.ranked else ""
        colour = CHOSEN if index in photo.chosen else DIM
        _mark(pen, photo.detections[index], scale, number, colour)
    return np.asarray(picture)


def _mark(
    pen: ImageDraw.ImageDraw,
    face: Detection,
    scale: float,
    number: str,
    colour: Sequence[int],
) -> None:
    line, size = _pen_sizes(pen)
    box = [value * scale for value in face.box]
    pen.rectangle(box, outline=tuple(colour), width=line)
    for x, y in face.points * scale:
        pen.ellipse((x - line, y - line, x + line, y + line), fill=tuple(colour))
    if number:
        _badge(pen, box[0], box[1], number, size, colour)


def _pen_sizes(pen: ImageDraw.ImageDraw) -> tuple[int, int]:
    """Width of a line and height of a letter, in pixels."""
    long_side = max(pen.im.size)
    return max(1, round(long_side / 300)), max(10, round(long_side / 28))


def _badge(
    pen: ImageDraw.ImageDraw,
    x: float,
    y: float,
    number: str,
    size: int,
    colour: Sequence[int],
) -> None:
    """A filled label on the box's upper edge, kept inside of the picture."""
    font = ImageFont.load_default(size)
    left, top, right, bottom = pen.textbbox((0, 0), number, font=font)
    pad = max(2, size // 5)
    width, height = right - left + 2 * pad, bottom - top + 2 * pad
    x = min(max(x, 0), max(pen.im.size[0] - width, 0))
    y = min(max(y - height, 0), max(pen.im.size[1] - height, 0))
    pen.rectangle((x, y, x + width, y + height), fill=tuple(colour))
    pen.text((x + pad - left, y + pad - top), number, fill=INK, font=font)
