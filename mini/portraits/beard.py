"""Beards and moustaches."""

import numpy as np

from .colour import RGB, luma, mix, shade, tint
from .geometry import Head
from .ink import Ink, smooth
from .mouth import mouth

_LONGER = {"stubble": 0.0, "short beard": 0.03, "full beard": 0.14, "long beard": 0.52}


def _colour(head: Head) -> RGB:
    natural = head.who.hair_rgb
    if head.who.hair_colour in ("pink", "blue", "purple", "green"):
        natural = (84, 58, 44)
    return shade(natural, 0.3) if luma(natural) > 60 else natural


def _strip(points: list[tuple[float, float]]) -> np.ndarray:
    """(2 N - 2, 2) a right half from the middle to the middle, with its mirror image."""
    right = np.array(points)
    return np.concatenate([right, (right * (-1, 1))[::-1][1:-1]])


def draw_beard(ink: Ink, head: Head) -> None:
    """What grows on cheeks and chin, below the mouth's drawing."""
    kind = head.who.beard
    colour = _colour(head)
    if kind in _LONGER:
        _draw_full(ink, head, kind, colour)
    elif kind == "goatee":
        low, chin = head.mouth_y + 0.1, head.chin_y
        ring = [
            (0.0, low),
            (0.16, low + 0.03),
            (0.27, (low + chin) / 2),
            (0.2, chin + 0.02),
            (0.0, chin + 0.12),
        ]
        ink.shape(smooth(head.map(_strip(ring), 0.03)), colour, outline=0.7)
        _hairs(ink, head, colour, 0.26, low + 0.05, chin + 0.06)


def _draw_full(ink: Ink, head: Head, kind: str, colour: RGB) -> None:
    chin, more, nose = head.chin_y, _LONGER[kind], head.nose_y
    jaw_y = 0.66 * head.long

    def at(share: float, y: float) -> tuple[float, float]:
        return share * float(head.half(y)), y

    outer = [(0.0, chin + 0.03 + more), (0.62 * float(head.half(jaw_y)), chin - 0.06 + 0.8 * more)]
    outer += [at(1.0 + 0.2 * more, jaw_y + 0.05), at(1.0, 0.38), at(1.0, 0.08)]
    inner = [at(0.93, 0.08), at(0.87, 0.36), (0.62 * head.width, head.mouth_y - 0.1)]
    inner += [(0.4 * head.width, nose + 0.12), (0.0, nose + 0.075)]
    path = smooth(head.rim(_strip([*outer, *inner]), 0.01 + 0.25 * more), tension=0.8)
    if kind == "stubble":
        ink.shape(path, mix(colour, (60, 60, 66), 0.3), 0.34, outline=0)
        return
    ink.shape(path, colour, 0.92 if kind == "short beard" else 1.0, outline=0.7)
    _hairs(ink, head, colour, 0.75 * head.width, head.mouth_y + 0.12, chin + more)


def _hairs(ink: Ink, head: Head, colour: RGB, half: float, top: float, low: float) -> None:
    lines: tuple[list[str], list[str]] = ([], [])
    for k, share in enumerate(np.linspace(-1, 1, 9)):
        start = top - 0.22 * abs(share) * (half > 0.4)
        end = low - 0.35 * (low - top) * share**2
        points = head.map(
            [
                [share * half, start],
                [share * half * 0.9, (start + end) / 2],
                [share * half * 0.72, end],
            ],
            0.02,
        )
        lines[k % 2].append(smooth(points, False))
    ink.line("".join(lines[0]), shade(colour, 0.55), 0.034 * head.pose.scale, 0.55)
    ink.line("".join(lines[1]), tint(colour, 0.3), 0.03 * head.pose.scale, 0.5)


def draw_moustache(ink: Ink, head: Head) -> None:
    """What grows on the upper lip, over the mouth's drawing."""
    kind = head.who.beard
    if kind in ("none", "stubble"):
        return
    shape, nose = mouth(head), head.nose_y
    thick = 1.0 if kind in ("moustache", "long beard", "full beard") else 0.6
    lip = shape.upper_out[4:]
    reach = 1.16 if kind == "moustache" else 1.05
    tip = (lip[-1, 0] * reach, lip[-1, 1] - 0.02 + (0.05 if kind == "moustache" else 0.1))
    high = lip[0, 1] - min(0.17, 0.9 * (lip[0, 1] - nose)) * thick
    ring = [
        (0.0, high + 0.03),
        (0.45 * lip[-1, 0], high),
        (0.85 * lip[-1, 0], lip[3, 1] - 0.07 * thick),
    ]
    ring += [tip, (0.7 * lip[-1, 0], lip[3, 1] - 0.005), (0.3 * lip[-1, 0], lip[1, 1] + 0.006)]
    ring += [(0.0, lip[0, 1] - 0.012)]
    path = smooth(head.map(_strip(ring), 0.07), tension=0.8)
    colour = _colour(head)
    ink.shape(path, colour, outline=0.6)
    shine = head.map(
        [[-0.5 * lip[-1, 0], high + 0.03], [0, high + 0.05], [0.5 * lip[-1, 0], high + 0.03]], 0.08
    )
    ink.line(smooth(shine, False), tint(colour, 0.3), 0.03 * head.pose.scale, 0.5)
