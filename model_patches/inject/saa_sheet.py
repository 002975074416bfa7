"""Activation maps as a sheet: a row for each person, a column for each moment."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from .saa_watch import ActivationWatch, PersonMaps

CELL = 128
"""Pixels of a map's long side."""
GAP, HEAD = 4, 22
LETTERS = 14
BACK, INK = (20, 20, 20), (235, 235, 235)
COLD_TO_HOT = ((0, 0, 4), (87, 16, 110), (188, 55, 84), (249, 142, 9), (252, 255, 164))
"""From nothing to the strongest of the sheet."""
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def draw_sheet(watch: ActivationWatch) -> tuple[Tensor, str]:
    """One sheet for each picture of the batch, (B, h, w, 3) in [0, 1], and what it shows in words.

    All maps of all pictures share one scale. Nobody seen: one small black picture.
    """
    people = watch.people()
    if not people:
        text = "Nobody drew attention: every gate was closed whenever the run was looked at."
        return torch.zeros(1, 64, 64, 3), text
    strongest = max(one.maps.max().item() for one in people)
    labels = [f"{100 * share:.0f} %" for share in watch.progress]
    sheets = [
        _draw_picture(people, picture, labels, strongest)
        for picture in range(people[0].maps.shape[1])
    ]
    return torch.stack(sheets), _describe(people, labels, strongest)


def _draw_picture(
    people: Sequence[PersonMaps], picture: int, labels: Sequence[str], strongest: float
) -> Tensor:
    height, width = people[0].maps.shape[-2:]
    scale = CELL / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    step = size[0] + GAP, size[1] + GAP + HEAD
    sheet = Image.new("RGB", (GAP + step[0] * len(labels), step[1] * len(people) + GAP), BACK)
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(LETTERS)
    for row, person in enumerate(people):
        name = person.label if person.label.isascii() else f"person {row + 1}"
        for column, label in enumerate(labels):
            x, y = GAP + step[0] * column, step[1] * row
            text = f"{name}, {label}" if column == 0 else label
            pen.text((x, y + 3), _shorten(pen, text, size[0], font), fill=INK, font=font)
            values = person.maps[column, picture] / (strongest or 1.0)
            small = Image.fromarray(_colour(values.numpy()))
            sheet.paste(small.resize(size, Image.Resampling.NEAREST), (x, y + HEAD))
    return torch.from_numpy(np.array(sheet)).float() / 255


def _shorten(pen: ImageDraw.ImageDraw, text: str, room: int, font: Font) -> str:
    """The text as far as it fits, the moment at its end kept."""
    name, _, moment = text.rpartition(", ")
    while name and pen.textlength(text, font=font) > room:
        name = name[:-1]
        text = f"{name}, {moment}" if name else moment
    return text


def _colour(values: np.ndarray) -> np.ndarray:
    """(h, w) from 0 to 1 -> (h, w, 3) uint8."""
    places = np.linspace(0.0, 1.0, len(COLD_TO_HOT))
    channels = [np.interp(values, places, channel) for channel in zip(*COLD_TO_HOT, strict=True)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def _describe(people: Sequence[PersonMaps], labels: Sequence[str], strongest: float) -> str:
    lines = [f"{len(people)} people at {', '.join(labels)} of the run; brightest: {strongest:.3g}"]
    for person in people:
        means = person.maps.mean((1, 2, 3))
        line = f"{person.label}: mean {means[0]:.3g} → {means[-1]:.3g}"
        if person.inside is not None:
            first, last = person.inside[0], person.inside[-1]
            line += f", in their region {first:.0%} → {last:.0%} of it"
        lines.append(line)
    return "\n".join(lines)
