"""The nose."""

import numpy as np

from .colour import shade
from .geometry import Head, lerp
from .ink import Ink, smooth
from .skin import Light, Skin


def tip(head: Head) -> np.ndarray:
    """(3,) the tip of the nose in head units."""
    return head.surface(np.array([[0.0, head.nose_y - 0.07]]), _tip_lift(head))[0]


def _tip_lift(head: Head) -> float:
    return lerp(0.17, 0.3, head.who.nose_bridge) - 0.05 * head.young


def draw_nose(ink: Ink, head: Head, skin: Skin, light: Light) -> None:
    """Bridge, tip, wings and nostrils."""
    who, low, lift = head.who, head.nose_y, _tip_lift(head)
    wide = lerp(0.115, 0.215, who.nose_width) - 0.01 * head.young
    size, turn = head.pose.scale, head.shot.roll
    dark = shade(skin.base, 0.6)
    _sides(ink, head, skin, light, wide)
    spots = head.map([[0, low + 0.06], [0, low - 0.07]], np.array([0.03, lift * 0.6]))
    ink.soft(spots[0], 1.35 * wide * size, 0.1 * size, dark, 0.65, turn)
    for side in (-1.0, 1.0):
        wing = head.map(
            [
                [side * wide * 0.82, low - 0.13],
                [side * wide * 1.04, low - 0.05],
                [side * wide * 0.95, low + 0.015],
                [side * wide * 0.6, low + 0.02],
            ],
            np.array([0.06, 0.04, 0.05, 0.1]),
        )
        ink.line(smooth(wing, False), skin.line, 0.034 * size, 0.75)
        hole = head.disc(side * wide * 0.42, low + 0.005, wide * 0.24, 0.026, lift * 0.42)
        ink.shape(smooth(hole), shade(skin.base, 0.85), 0.85, outline=0)
    base = head.map(
        [[-wide * 0.3, low + 0.02], [0, low + 0.045], [wide * 0.3, low + 0.02]], lift * 0.45
    )
    ink.line(smooth(base, False), skin.line, 0.03 * size, 0.6)
    shine = head.map([[light.side * 0.02, low - 0.1]], lift)[0]
    ink.soft(shine, 0.1 * size, 0.085 * size, skin.light, 0.95, turn)
    _wrinkles(ink, head, skin)


def _sides(ink: Ink, head: Head, skin: Skin, light: Light, wide: float) -> None:
    """The plane in shadow, the ridge, and when turned the ridge's outline against the far cheek."""
    low, lift = head.nose_y, _tip_lift(head)
    high = lerp(0.03, 0.13, head.who.nose_bridge)
    away = -light.side
    plane = head.map(
        [
            [away * 0.02, -0.08],
            [away * 0.03, low * 0.5],
            [away * 0.05, low - 0.06],
            [away * wide, low],
            [away * wide * 0.75, low - 0.16],
            [away * 0.12, low * 0.35],
            [away * 0.13, -0.06],
        ],
        np.array([high, (high + lift) / 2, lift, 0.04, 0.05, 0.0, 0.0]),
    )
    ink.shape(
        smooth(plane, tension=0.7), shade(skin.base, 0.5), 0.16 + 0.4 * light.contrast, outline=0
    )
    size = head.pose.scale
    ridge = head.map(
        [[0, 0.02], [0, low * 0.5], [0, low - 0.1]], np.array([high, (high + lift) / 2, lift])
    )
    ink.line(smooth(ridge, False), skin.light, 0.07 * size, 0.3 * ink.pen.soft)
    turned = abs(head.shot.yaw) / 45
    if turned > 0.2:
        far = head.map(
            [
                [head.far * 0.05, -0.1],
                [head.far * 0.035, 0.05],
                [head.far * 0.03, low * 0.55],
                [head.far * 0.05, low - 0.09],
                [head.far * 0.03, low + 0.0],
            ],
            np.array([high * 0.6, high, (high + lift) / 2, lift, lift * 0.6]),
        )
        ink.line(smooth(far, False), skin.line, 0.036 * size, min(0.9, 1.1 * turned))


def _wrinkles(ink: Ink, head: Head, skin: Skin) -> None:
    amount = head.look.nose_wrinkle
    if amount < 0.25:
        return
    for y in (0.02, 0.1):
        for side in (-1.0, 1.0):
            line = head.map(
                [[side * 0.03, y], [side * 0.1, y - 0.02], [side * 0.15, y + 0.05]], 0.05
            )
            ink.line(smooth(line, False), skin.line, 0.032 * head.pose.scale, 0.75 * amount)
