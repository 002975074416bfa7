"""The demo's contact sheet: the face that was used and ways to paint it, a line per prompt."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

SCALE = 2
"""Pixels per unit; everything below is in units."""
CELL, GAP, MARGIN, LABEL, HEAD, FOOT, UNDER = 172, 12, 32, 164, 118, 66, 34
PAPER, INK, SOFT, LINE = "#fbfaf7", "#22252b", "#6b717b", "#e4e1da"
GOOD, BAD = "#1f8a5b", "#c8553d"


@dataclass(frozen=True)
class Cell:
    """One picture, how like the person it is, and which wishes it obeys; None where unknown."""

    picture: Image.Image
    similarity: float | None = None
    hits: Mapping[str, bool | None] | None = None


@dataclass(frozen=True)
class Line:
    """One prompt's pictures."""

    text: str
    wish: str
    """What it asks for, in a word or two."""
    cells: Sequence[Cell]


def compose(
    title: str, subtitle: str, columns: Sequence[str], lines: Sequence[Line],
    face: Image.Image, foot: str,
) -> Image.Image:  # fmt: skip
    """The sheet as an RGB picture. `columns` are the titles above a line's cells."""
    count = len(columns) + 1
    width = 2 * MARGIN + LABEL + count * CELL + count * GAP
    height = HEAD + len(lines) * (CELL + UNDER + GAP) + FOOT
    sheet = Image.new("RGB", (width * SCALE, height * SCALE), PAPER)
    pen = Pen(ImageDraw.Draw(sheet))
    pen.text((MARGIN, 24), title, 25, INK, bold=True)
    pen.text((MARGIN, 56), subtitle, 12, SOFT)
    lefts = [MARGIN + LABEL + GAP + index * (CELL + GAP) for index in range(count)]
    for left, name in zip(lefts, ["face used", *columns], strict=True):
        pen.text((left, HEAD - 25), name, 13, INK, bold=True)
    for number, line in enumerate(lines):
        top = HEAD + number * (CELL + UNDER + GAP)
        pen.rule(MARGIN, top - 5, width - MARGIN)
        _label(pen, line, top)
        paste(sheet, face, lefts[0], top)
        for left, cell in zip(lefts[1:], line.cells, strict=True):
            paste(sheet, cell.picture, left, top)
            _caption(pen, cell, left, top + CELL + 8)
    pen.rule(MARGIN, height - FOOT + 4, width - MARGIN)
    for number, text in enumerate(textwrap.wrap(foot, 205)[:3]):
        pen.text((MARGIN, height - FOOT + 14 + 15 * number), text, 10.5, SOFT)
    return sheet


def _label(pen: Pen, line: Line, top: float) -> None:
    pen.text((MARGIN, top + 10), line.wish, 10.5, SOFT)
    for number, words in enumerate(textwrap.wrap(f"“{line.text}”", 22)[:6]):
        pen.text((MARGIN, top + 28 + 18 * number), words, 14, INK)


def paste(
    sheet: Image.Image, picture: Image.Image, left: float, top: float, width: float = CELL
) -> None:
    """A picture with round corners; left, top, width in units."""
    radius, height = 7 * SCALE, width * picture.height / picture.width
    size = round(width * SCALE), round(height * SCALE)
    scaled = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
    mask = Image.new("L", (2 * size[0], 2 * size[1]), 0)
    corner = 2 * size[0] - 1, 2 * size[1] - 1
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, *corner), 2 * radius, 255)
    mask = mask.resize(size, Image.Resampling.LANCZOS)
    sheet.paste(scaled, (round(left * SCALE), round(top * SCALE)), mask)


def _caption(pen: Pen, cell: Cell, left: float, top: float) -> None:
    if cell.similarity is not None:
        pen.text((left, top), f"FaceSim {cell.similarity:.2f}", 11, INK)
    place = left + (84 if cell.similarity is not None else 0)
    told = {name: hit for name, hit in (cell.hits or {}).items() if hit is not None}
    for name, hit in told.items():
        pen.mark((place, top + 1), hit)
        pen.text((place + 14, top), name, 11, GOOD if hit else BAD)
        place, top = left, top + 16


class Pen:
    """Draws in units on a sheet of SCALE pixels per unit, with the typeface that Pillow brings."""

    def __init__(self, draw: ImageDraw.ImageDraw) -> None:
        self.draw = draw

    def text(
        self, place: tuple[float, float], text: str, size: float, fill: str, bold: bool = False
    ) -> None:
        font = ImageFont.load_default(size * SCALE)
        heavy = 0.018 * size * SCALE if bold else 0
        where = tuple(value * SCALE for value in place)
        self.draw.text(where, text, fill, font, stroke_width=heavy, stroke_fill=fill)

    def rule(self, left: float, top: float, right: float) -> None:
        box = (left * SCALE, top * SCALE, right * SCALE, top * SCALE)
        self.draw.line(box, LINE, SCALE)

    def mark(self, place: tuple[float, float], hit: bool) -> None:
        """A tick or a cross, 10 units wide."""
        tick = ((1, 6), (4, 9), (9, 2))
        cross = ((1.5, 2), (8.5, 9)), ((8.5, 2), (1.5, 9))
        for path in (tick,) if hit else cross:
            points = [((place[0] + x) * SCALE, (place[1] + y) * SCALE) for x, y in path]
            self.draw.line(points, GOOD if hit else BAD, round(1.8 * SCALE), joint="curve")
