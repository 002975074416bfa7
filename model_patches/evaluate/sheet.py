"""A contact sheet: one column for each value, one row for each picture of its batch."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .charts import BACK, COLOURS, INK, as_batch

CELL, LEAST_CELL = 256, 48
"""Pixels of a picture's long side."""
COLUMNS = 8
"""So many columns in one band; further values get a band below."""
TALLEST = 8192
"""Pixels of the whole sheet."""
GAP, FRAME, LETTERS, LINE = 8, 4, 15, 19
NARROWEST = 96
"""Pixels of a column."""
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw_sheet(
    batches: Sequence[Tensor], captions: Sequence[Sequence[str]], framed: int | None = None
) -> Tensor:
    """(1, h, w, 3) in [0, 1].

    batches: for each value its pictures (B, H, W, C) in [0, 1]; captions: lines above each column;
    framed: the column to stand out. Pictures of other sizes are scaled to fit, never stretched.
    Raises ValueError for no batch, an empty one, and pixels that are not finite.
    """
    _check(batches, captions)
    rows = max(len(one) for one in batches)
    head = 2 * GAP + LINE * max(len(lines) for lines in captions)
    bands = [
        range(start, min(start + COLUMNS, len(batches)))
        for start in range(0, len(batches), COLUMNS)
    ]
    largest = max(max(one.shape[1:3]) for one in batches)
    room = TALLEST // len(bands) - head - GAP
    cell = max(min(CELL, largest, room // rows - GAP), LEAST_CELL)
    wide = max(_size(one, cell)[0] for one in batches)
    tall = max(_size(one, cell)[1] for one in batches)
    font = ImageFont.load_default(LETTERS)
    longest = max(font.getlength(line) for lines in captions for line in (*lines, ""))
    wide = max(wide, NARROWEST, min(math.ceil(longest), CELL))
    band = head + rows * (tall + GAP) + GAP
    width = GAP + max(len(one) for one in bands) * (wide + GAP)
    sheet = Image.new("RGB", (width, band * len(bands)), BACK)
    pen = ImageDraw.Draw(sheet)
    for level, columns in enumerate(bands):
        for place, index in enumerate(columns):
            x, y = GAP + place * (wide + GAP), level * band
            for number, line in enumerate(captions[index]):
                pen.text(
                    (x, y + GAP + number * LINE), _fit(pen, line, wide, font), fill=INK, font=font
                )
            for row, picture in enumerate(batches[index]):
                small = _shrink(picture, cell)
                left = x + (wide - small.width) // 2
                sheet.paste(small, (left, y + head + row * (tall + GAP)))
            if index == framed:
                used = len(batches[index]) * (tall + GAP) - GAP
                pen.rectangle(
                    (
                        x - FRAME,
                        y + head - FRAME,
                        x + wide + FRAME - 1,
                        y + head + used + FRAME - 1,
                    ),
                    outline=COLOURS[5],
                    width=FRAME,
                )
    return as_batch(sheet)


def _check(batches: Sequence[Tensor], captions: Sequence[Sequence[str]]) -> None:
    if not batches or len(batches) != len(captions):
        raise ValueError(
            f"a contact sheet has {len(batches)} columns and {len(captions)} captions, expected "
            "as many, and one at least"
        )
    for number, one in enumerate(batches, 1):
        if one.ndim != 4 or 0 in one.shape:
            raise ValueError(
                f"pictures of value {number} have the shape {tuple(one.shape)}, expected (batch, "
                "height, width, channels) with one of each at least; connect the pictures of the "
                "swept graph"
            )
        bad = [index for index, picture in enumerate(one, 1) if not torch.isfinite(picture).all()]
        if bad:
            raise ValueError(
                f"{len(bad)} of {len(one)} pictures of value {number} hold NaN or infinite pixels, "
                "expected 0; leave that value out, or repair the step before, often a VAE in fp16"
            )


def _size(batch: Tensor, cell: int) -> tuple[int, int]:
    """Width and height of its pictures on the sheet."""
    height, width = batch.shape[1:3]
    scale = cell / max(height, width)
    return max(1, round(width * scale)), max(1, round(height * scale))


def _shrink(picture: Tensor, cell: int) -> Image.Image:
    """Transparency lies over white, and grey gets three channels."""
    pixels = picture.detach().cpu().float().clamp(0, 1)
    colour = pixels[..., :3] if pixels.shape[-1] >= 3 else pixels[..., :1].expand(-1, -1, 3)
    if pixels.shape[-1] in (2, 4):
        colour = colour * pixels[..., -1:] + 1 - pixels[..., -1:]
    image = Image.fromarray((colour * 255).round().numpy().astype(np.uint8))
    return image.resize(_size(picture[None], cell), Image.Resampling.LANCZOS)


def _fit(pen: ImageDraw.ImageDraw, text: str, room: int, font: Font) -> str:
    """As much of its beginning as fits; the number at its end is kept."""
    start, _, number = text.rpartition(" ")
    while start and pen.textlength(text, font=font) > room:
        start = start[:-1]
        text = f"{start} {number}" if start else number
    return text
