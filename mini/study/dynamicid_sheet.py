"""The contact sheet of the suite of DynamicID: one person's expressions and orientations, and two
people in both orders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from PIL import Image, ImageDraw

from .dynamicid_painter import PeoplePainter
from .dynamicid_rows import (
    COUPLE_IMR,
    COUPLE_PLAIN,
    SAA_IMR,
    SHEET_MOODS,
    SHEET_SCENE,
    SHEET_TURNS,
)
from .evaluation import Photo, noise_seed
from .judge import Judge, hits
from .people import DEMO
from .prompts import Prompt
from .rows import Row
from .sheet import (
    BAD,
    CELL,
    FOOT,
    GAP,
    GOOD,
    HEAD,
    INK,
    LABEL,
    MARGIN,
    PAPER,
    SCALE,
    SOFT,
    UNDER,
    Pen,
    paste,
)

OTHER = 1_000_017
"""Who stands beside the demo's person: the next one of the held-out people."""
STEP = CELL + GAP
LINE = CELL + UNDER + GAP
WIDTH = 2 * MARGIN + LABEL + 8 * STEP
TITLE = "Whoever it is, doing what you ask"
SUBTITLE = (
    "SAA + IMR on the small Flux, one photo of each person. Likeness and ticks by the independent "
    "judge."
)
NOTE = (
    "The photo shows a neutral face. IMR puts expression and pose into its tokens, and the prompt "
    "asks for them, too. In the last lines each half has a prompt of its own; the noise is the "
    "same."
)


def draw_sheet(painter: PeoplePainter, photo: Photo, judge: Judge, path: Path) -> None:
    """Paint, look and write the PNG. Raises OSError."""
    lines = 4
    size = WIDTH * SCALE, (HEAD + lines * LINE + FOOT) * SCALE
    sheet = Image.new("RGB", size, PAPER)
    pen = Pen(ImageDraw.Draw(sheet))
    pen.text((MARGIN, 24), TITLE, 25, INK, bold=True)
    pen.text((MARGIN, 56), SUBTITLE, 12, SOFT)
    for number, (words, prompts) in enumerate(
        (("seven expressions", SHEET_MOODS), ("five orientations", SHEET_TURNS))
    ):
        _draw_person(sheet, pen, _top(number), words, (painter, photo, judge), prompts)
    for number, row in enumerate((COUPLE_PLAIN, COUPLE_IMR), 2):
        top = _top(number)
        pen.rule(MARGIN, top - 5, WIDTH - MARGIN)
        pen.text((MARGIN, top + 10), "two people", 10.5, SOFT)
        pen.text((MARGIN, top + 28), row.title, 14, INK)
        for place, pair in enumerate(((DEMO, OTHER), (OTHER, DEMO))):
            left = MARGIN + LABEL + GAP + place * 4 * STEP
            _draw_couple(sheet, pen, (left, top), painter, photo, row, pair)
    pen.rule(MARGIN, HEAD + lines * LINE + 4, WIDTH - MARGIN)
    pen.text((MARGIN, HEAD + lines * LINE + 14), NOTE, 10.5, SOFT)
    sheet.save(path)


def _top(number: int) -> float:
    return HEAD + number * LINE


def _draw_person(
    sheet: Image.Image,
    pen: Pen,
    top: float,
    words: str,
    made: tuple[PeoplePainter, Photo, Judge],
    prompts: Sequence[Prompt],
) -> None:
    """The photo, and a picture for each prompt."""
    painter, photo, judge = made
    pen.rule(MARGIN, top - 5, WIDTH - MARGIN)
    pen.text((MARGIN, top + 10), "one person", 10.5, SOFT)
    pen.text((MARGIN, top + 28), words, 14, INK)
    face, wanted = photo(DEMO), judge.remember(photo(DEMO))
    paste(sheet, Image.fromarray(face), MARGIN + LABEL + GAP, top)
    pen.text((MARGIN + LABEL + GAP, top + CELL + 8), "the photo", 11, INK)
    # The same noise for all, so that only what is asked differs.
    seeds = [noise_seed(DEMO, prompts[0])] * len(prompts)
    pictures = painter.paint(SAA_IMR, painter.sitter(face), prompts, seeds)
    for number, (prompt, picture) in enumerate(zip(prompts, pictures, strict=True), 1):
        left = MARGIN + LABEL + GAP + number * STEP
        seen = judge.look(picture, wanted)
        # Straight ahead there is no turn whose share could be obeyed.
        told = hits(replace(prompt, yaw=prompt.yaw or None), seen)
        obeyed = told["expression"] if prompt.expression else told["pose"]
        paste(sheet, Image.fromarray(picture), left, top)
        pen.text((left, top + CELL + 8), f"{seen.similarity:.2f}", 11, INK)
        if obeyed is not None:
            pen.mark((left + 38, top + CELL + 9), obeyed)
        shade = SOFT if obeyed is None else GOOD if obeyed else BAD
        pen.text((left + 54, top + CELL + 8), prompt.id, 11, shade)


def _draw_couple(
    sheet: Image.Image,
    pen: Pen,
    place: tuple[float, float],
    painter: PeoplePainter,
    photo: Photo,
    row: Row,
    pair: tuple[int, int],
) -> None:
    """Both photos, small, and the picture of both people."""
    left, top = place
    half = (CELL - GAP) / 2
    sitters = []
    for number, person in enumerate(pair):
        face = photo(person)
        sitters.append(painter.sitter(face))
        paste(sheet, Image.fromarray(face), left + number * (half + GAP), top, half)
    seed = noise_seed(DEMO, SHEET_SCENE.whole)
    picture = painter.paint_couple(row, sitters, SHEET_SCENE, seed)
    paste(sheet, Image.fromarray(picture), left + STEP, top, 2 * CELL)
    pen.text((left + STEP, top + CELL + 8), " | ".join(p.id for p in SHEET_SCENE.halves), 11, INK)
