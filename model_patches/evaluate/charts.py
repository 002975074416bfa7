"""Charts as pictures: bars for each picture, and the trade-off of two measures with its knee."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

BACK, INK, GRID, FAILURE = (255, 255, 255), (30, 30, 30), (215, 215, 215), (200, 30, 30)
COLOURS = (
    (0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167),
    (86, 180, 233), (213, 94, 0), (150, 140, 0), (90, 90, 90),
)  # fmt: skip
"""Told apart with most kinds of colour vision (Okabe and Ito), on white."""
LETTERS, MARGIN = 16, 16
PANEL_HEIGHT, LEFT = 170, 64
LEAST_BAR, MOST_BAR, NARROWEST, WIDEST = 3, 60, 560, 3000
"""Pixels: of a bar with the gap beside it, and of a whole chart."""
PLOT = 520
"""Pixels a side of the trade-off's field."""
Span = tuple[float, float]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


@dataclass(frozen=True)
class Panel:
    """One measure: a bar for each value."""

    title: str
    values: tuple[float, ...]
    """NaN is a failure."""
    colours: tuple[int, ...]
    """Index into the names, for each value."""
    labels: tuple[str, ...]
    """Below the bars; equal ones that follow each other are written once."""
    marks: tuple[float, ...] = ()
    """A line over each bar, NaN for none; empty for no lines at all."""


def draw_panels(panels: Sequence[Panel], names: Sequence[str], mark: str) -> Tensor:
    """(1, h, w, 3) in [0, 1]. names: of the colours; mark: what the lines are.

    Raises ValueError for no panel, or a panel without values.
    """
    if not panels or not all(one.values for one in panels):
        raise ValueError("a chart needs one panel with one value at least, got none")
    bars = max(len(one.values) for one in panels)
    each = min(max((NARROWEST - LEFT - MARGIN) // bars, LEAST_BAR), MOST_BAR)
    width = min(max(NARROWEST, LEFT + each * bars + MARGIN), WIDEST)
    each = (width - LEFT - MARGIN) / bars
    head = LETTERS + 2 * MARGIN if len(names) > 1 or any(one.marks for one in panels) else MARGIN
    picture = Image.new("RGB", (width, head + len(panels) * PANEL_HEIGHT), BACK)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(LETTERS)
    if head > MARGIN:
        _write_legend(pen, font, names, mark if any(one.marks for one in panels) else "")
    for number, panel in enumerate(panels):
        _draw_panel(pen, font, panel, head + number * PANEL_HEIGHT, width, each)
    return as_batch(picture)


def as_batch(picture: Image.Image) -> Tensor:
    """(1, h, w, 3) in [0, 1]."""
    return torch.from_numpy(np.array(picture.convert("RGB"))).float()[None] / 255


def _write_legend(pen: ImageDraw.ImageDraw, font: Font, names: Sequence[str], mark: str) -> None:
    x = MARGIN
    for number, name in enumerate(names):
        colour = COLOURS[number % len(COLOURS)]
        pen.rectangle((x, MARGIN, x + LETTERS, MARGIN + LETTERS), fill=colour)
        pen.text((x + LETTERS + 6, MARGIN - 2), name, fill=INK, font=font)
        x += LETTERS + 22 + int(pen.textlength(name, font=font))
    if mark:
        middle = MARGIN + LETTERS // 2
        pen.line((x, middle, x + LETTERS, middle), fill=INK, width=3)
        pen.text((x + LETTERS + 6, MARGIN - 2), mark, fill=INK, font=font)


def _draw_panel(
    pen: ImageDraw.ImageDraw, font: Font, panel: Panel, top: int, width: int, each: float
) -> None:
    upper, lower = top + LETTERS + 10, top + PANEL_HEIGHT - LETTERS - 18
    pen.text((MARGIN, top), panel.title, fill=INK, font=font)
    seen = [one for one in (*panel.values, *panel.marks) if math.isfinite(one)]
    low, high = _limits([*seen, 0.0])

    def place(value: float) -> float:
        return lower - (value - low) / (high - low) * (lower - upper)

    for tick in nice_ticks(low, high, 3):
        y = place(tick)
        pen.line((LEFT, y, width - MARGIN, y), fill=INK if tick == 0 else GRID)
        pen.text((LEFT - 6, y), f"{tick:g}", fill=INK, font=font, anchor="rm")
    half = max(min(each, MOST_BAR) * 0.35, 1)
    free = -math.inf
    for number, value in enumerate(panel.values):
        x = LEFT + each * (number + 0.5)
        if math.isfinite(value):
            colour = COLOURS[panel.colours[number] % len(COLOURS)]
            ends = sorted((place(0.0), place(value)))
            pen.rectangle((x - half, ends[0], x + half, ends[1]), fill=colour)
        else:
            _cross(pen, x, place(0.0) - 8, min(half, 6))
        if panel.marks and math.isfinite(panel.marks[number]):
            y = place(panel.marks[number])
            pen.line((x - half, y, x + half, y), fill=INK, width=3)
        label = panel.labels[number]
        start = x - pen.textlength(label, font=font) / 2
        if (number == 0 or label != panel.labels[number - 1]) and start > free:
            pen.text((x, lower + 4), label, fill=INK, font=font, anchor="ma")
            free = start + pen.textlength(label, font=font) + 6


def _cross(pen: ImageDraw.ImageDraw, x: float, y: float, half: float) -> None:
    for sign in (1, -1):
        pen.line((x - half, y - sign * half, x + half, y + sign * half), fill=FAILURE, width=2)


def _limits(values: Sequence[float]) -> tuple[float, float]:
    """With a little air; a single value gets an interval around it."""
    low, high = min(values), max(values)
    air = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
    return (low - air if low < 0 or low == high else low), high + air


def nice_ticks(low: float, high: float, most: int) -> list[float]:
    """At most `most` + 1 round numbers between both, ascending."""
    rough = (high - low) / most
    size = 10.0 ** math.floor(math.log10(rough))
    step = next(one * size for one in (1, 2, 5, 10) if one * size >= rough)
    first = math.ceil(low / step - 1e-9)
    last = math.floor(high / step + 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def draw_trade_off(
    points: Sequence[tuple[float, float]],
    labels: Sequence[str],
    titles: tuple[str, str],
    knee: int | None,
    mark: str = "knee",
    intervals: Sequence[tuple[Span, Span]] = (),
) -> Tensor:
    """(1, h, w, 3): a line through the points in their order, the knee ringed.

    points: x and y; those that are not finite are left out. titles: of x and y. mark: what the
    ringed point is called. intervals: (low, high) of x and of y for each point, drawn as a cross;
    empty for none. Raises ValueError for no point that is finite.
    """
    whole = [i for i, (x, y) in enumerate(points) if math.isfinite(x) and math.isfinite(y)]
    if not whole:
        raise ValueError(f"0 of {len(points)} points are finite, expected 1 at least")
    ends = [intervals[i] for i in whole] if intervals else []
    spans = [
        _span([points[i][axis] for i in whole] + [end for one in ends for end in one[axis]])
        for axis in (0, 1)
    ]
    left, top = 84, 2 * MARGIN + LETTERS
    size = left + PLOT + 3 * MARGIN, top + PLOT + 3 * MARGIN + LETTERS
    picture = Image.new("RGB", size, BACK)
    pen, font = ImageDraw.Draw(picture), ImageFont.load_default(LETTERS)

    def place(point: tuple[float, float]) -> tuple[float, float]:
        x, y = ((v - low) / (high - low) for v, (low, high) in zip(point, spans, strict=True))
        return left + x * PLOT, top + (1 - y) * PLOT

    _draw_field(pen, font, spans, titles, (left, top))
    places = [place(points[i]) for i in whole]
    for (xs, ys), index in zip(ends, whole, strict=False):
        x, y = points[index]
        pen.line([place((end, y)) for end in xs], fill=COLOURS[4], width=1)
        pen.line([place((x, end)) for end in ys], fill=COLOURS[4], width=1)
    if len(places) > 1:
        pen.line(places, fill=COLOURS[0], width=2)
    beside = 4 if places[-1][1] < places[0][1] else -22  # off the line, rising or falling
    for index, (x, y) in zip(whole, places, strict=True):
        if index == knee:
            pen.ellipse((x - 12, y - 12, x + 12, y + 12), outline=COLOURS[5], width=4)
        pen.ellipse((x - 5, y - 5, x + 5, y + 5), fill=COLOURS[0])
        text = f"{labels[index]}, {mark}" if index == knee else labels[index]
        room = pen.textlength(text, font=font)
        pen.text((min(x + 12, size[0] - room - 4), y + beside), text, fill=INK, font=font)
    return as_batch(picture)


def _draw_field(
    pen: ImageDraw.ImageDraw,
    font: Font,
    spans: Sequence[Span],
    titles: tuple[str, str],
    corner: tuple[int, int],
) -> None:
    """The grid with its numbers and titles; corner: left and top of the field."""
    left, top = corner
    across, up = spans
    for tick in nice_ticks(*across, 5):
        x = left + (tick - across[0]) / (across[1] - across[0]) * PLOT
        pen.line((x, top, x, top + PLOT), fill=GRID)
        pen.text((x, top + PLOT + 6), f"{tick:g}", fill=INK, font=font, anchor="ma")
    for tick in nice_ticks(*up, 5):
        y = top + (1 - (tick - up[0]) / (up[1] - up[0])) * PLOT
        pen.line((left, y, left + PLOT, y), fill=GRID)
        pen.text((left - 8, y), f"{tick:g}", fill=INK, font=font, anchor="rm")
    bottom = top + PLOT + 3 * MARGIN + LETTERS - MARGIN
    pen.text((MARGIN, MARGIN), titles[1], fill=INK, font=font)
    pen.text((left + PLOT, bottom), titles[0], fill=INK, font=font, anchor="rs")


def draw_note(text: str) -> Tensor:
    """(1, h, w, 3): a line of text where there is nothing to draw."""
    picture = Image.new("RGB", (NARROWEST, 4 * MARGIN), BACK)
    font = ImageFont.load_default(LETTERS)
    ImageDraw.Draw(picture).text((MARGIN, MARGIN + 4), text, fill=INK, font=font)
    return as_batch(picture)


def _span(values: Sequence[float]) -> Span:
    low, high = min(values), max(values)
    air = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return low - air, high + air
