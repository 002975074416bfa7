"""What lies on the skin: wrinkles, folds, moles, freckles, scars, tears and sweat."""

import numpy as np

from .colour import WHITE, mix, shade
from .geometry import Head
from .ink import Ink, dots, smooth
from .mouth import mouth
from .skin import Skin

_WRINKLED = {"child": 0.0, "young": 0.0, "middle-aged": 0.5, "old": 1.0}


def draw_lines(ink: Ink, head: Head, skin: Skin) -> None:
    """Wrinkles of age and folds of the expression."""
    age, moves = _WRINKLED[head.who.age], head.look
    _forehead(ink, head, skin, max(0.75 * age, moves.forehead))
    _frown(ink, head, skin, max(0.35 * (age > 0.9), moves.frown))
    _folds(ink, head, skin, max(0.9 * age, moves.folds * (0.5 if head.young else 0.75)))
    _crow(ink, head, skin, max(0.8 * age, 0.0) + 0.4 * moves.cheeks * (1 - head.young))


def _forehead(ink: Ink, head: Head, skin: Skin, amount: float) -> None:
    if amount < 0.2 or (head.young and amount < 0.5):
        return
    top = head.hairline * 0.82
    rows = (top, top * 0.5 - 0.2) if amount < 0.7 else (top, (top - 0.36) / 2, -0.37)
    raised = 0.04 * (head.look.brow_inner - head.look.brow_outer) / 0.1
    lines = [
        smooth(
            head.map(
                [[-0.34, y + 0.03], [-0.14, y - raised], [0.14, y - raised], [0.34, y + 0.03]]
            ),
            False,
        )
        for y in rows
    ]
    ink.line("".join(lines), skin.line, 0.026 * head.pose.scale, 0.55 * amount)


def _frown(ink: Ink, head: Head, skin: Skin, amount: float) -> None:
    if amount < 0.15:
        return
    lines = [
        smooth(
            head.map([[side * 0.075, -0.3], [side * 0.055, -0.2], [side * 0.065, -0.1]], 0.03),
            False,
        )
        for side in (-1, 1)
    ]
    ink.line("".join(lines), skin.line, 0.036 * head.pose.scale, min(0.85, amount))


def _folds(ink: Ink, head: Head, skin: Skin, amount: float) -> None:
    """From the wings of the nose around the mouth."""
    if amount < 0.15:
        return
    half = float(mouth(head).upper_in[-1, 0])
    top, low = head.nose_y - 0.06, head.mouth_y - 0.6 * head.look.corners
    wide = max(half, 0.26)
    lines = [
        smooth(
            head.map(
                [
                    [side * 0.2, top],
                    [side * (wide + 0.03), (top + low) / 2 - 0.01],
                    [side * (wide + 0.09), low + 0.03],
                ]
            ),
            False,
        )
        for side in (-1, 1)
    ]
    ink.line("".join(lines), skin.line, 0.032 * head.pose.scale, 0.6 * amount)


def _crow(ink: Ink, head: Head, skin: Skin, amount: float) -> None:
    if amount < 0.15:
        return
    lines = []
    for side in (-1, 1):
        x = side * (head.eye_x + head.eye_a + 0.03)
        for rise in (-0.05, 0.0, 0.05):
            ends = [[x, head.eye_y + rise * 0.5], [x + side * 0.09, head.eye_y + rise * 1.6]]
            lines.append(smooth(head.map(ends), False))
    ink.line("".join(lines), skin.line, 0.024 * head.pose.scale, 0.5 * min(1.0, amount))


def draw_marks(ink: Ink, head: Head, skin: Skin) -> None:
    """The marks that belong to the person."""
    who, size = head.who, head.pose.scale
    side = -1.0 if who.mark_x < 0.5 else 1.0
    x = side * head.width * (0.3 + 0.42 * (2 * abs(who.mark_x - 0.5)))
    y = head.nose_y - 0.12 + 0.4 * who.mark_y
    brown = shade(skin.base, 0.8)
    if who.mark in ("mole", "two moles"):
        spots = [(x, y, 0.046)] + ([(-x * 0.8, -0.42, 0.038)] if who.mark == "two moles" else [])
        for at_x, at_y, radius in spots:
            ink.shape(smooth(head.disc(at_x, at_y, radius, radius)), brown, outline=0)
    elif who.mark == "freckles":
        _freckles(ink, head, shade(mix(skin.base, (176, 80, 40), 0.35), 0.4))
    elif who.mark == "scar":
        line = smooth(head.map([[x, y - 0.2], [x + 0.06, y - 0.03], [x + 0.03, y + 0.16]]), False)
        ink.line(line, mix(skin.base, (160, 50, 60), 0.6), 0.075 * size)
        ink.line(line, mix(skin.base, WHITE, 0.5), 0.035 * size)
    elif who.mark == "birthmark":
        blob = head.disc(x, y, 0.14, 0.11) + _BLOB * size * 0.03
        ink.shape(smooth(blob), mix(skin.base, (150, 44, 50), 0.55), 0.75, outline=0)


_BLOB = np.random.default_rng(5).normal(size=(12, 2))


def _freckles(ink: Ink, head: Head, colour: tuple[int, int, int]) -> None:
    rng = np.random.default_rng([7, head.who.seed])
    side = np.sign(rng.uniform(-1, 1, 26))
    x = side * head.width * rng.uniform(0.1, 0.68, 26)
    points = head.map(np.stack([x, rng.uniform(0.1, 0.4, 26)], 1))
    path = dots(points)
    ink.line(path, colour, 0.05 * head.pose.scale, 0.9)


def draw_drops(ink: Ink, head: Head) -> None:
    """Tears of a sad face, sweat of a frightened one."""
    size, moves = head.pose.scale, head.look
    blue, edge = (176, 220, 250), (88, 150, 210)
    if moves.tears > 0.1:
        for side, reach in ((-1.0, 0.34), (1.0, 0.22)):
            x, y = side * head.eye_x, head.eye_y + 0.09
            trail = smooth(
                head.map([[x, y], [x * 1.06, y + reach / 2], [x * 1.04, y + reach]], 0.01), False
            )
            ink.line(trail, edge, 0.085 * size, 0.55)
            ink.line(trail, blue, 0.05 * size, 0.95)
            _drop(ink, head.map([[x * 1.04, y + reach + 0.02]], 0.01)[0], 0.07 * size)
    if moves.sweat > 0.1:
        side = -head.far
        wide = float(head.half(-0.3))
        for x, y, radius in ((0.66, -0.34, 0.085), (0.86, -0.06, 0.07), (0.3, -0.46, 0.06)):
            _drop(ink, head.map([[side * wide * x, y]], 0.02)[0], radius * size)


def _drop(ink: Ink, at: np.ndarray, radius: float) -> None:
    shape = at + radius * np.array(
        [[0, -1.9], [0.55, -0.6], [0.85, 0.2], [0, 1], [-0.85, 0.2], [-0.55, -0.6]]
    )
    ink.shape(smooth(shape, tension=0.9), (170, 216, 250), outline=0.5)
    ink.line(smooth(shape, tension=0.9), (84, 146, 206), 0.22 * radius, 0.8)
    ink.shape(smooth(at + 0.3 * radius * _DOT + (-0.3 * radius, 0.1 * radius)), WHITE, outline=0)


_DOT = np.array(
    [[0, -1], [0.7, -0.7], [1, 0], [0.7, 0.7], [0, 1], [-0.7, 0.7], [-1, 0], [-0.7, -0.7]]
)
