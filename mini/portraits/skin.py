"""Skin: skull, face, ears, neck, and the light on them."""

from dataclasses import dataclass

import numpy as np

from .colour import RGB, luma, mix, shade, tint
from .geometry import Head, lerp
from .ink import Ink, smooth

_CONTRAST = {"soft": 0.2, "warm": 0.27, "cold": 0.27, "dramatic": 0.62}
_WHOLE = np.linspace(0, 2 * np.pi, 28, endpoint=False)


@dataclass(frozen=True)
class Light:
    """Where the light comes from: side -1 left or 1 right; contrast 0..1 of the shadows."""

    side: float
    contrast: float


@dataclass(frozen=True)
class Skin:
    """The colours of one person's skin in one shot."""

    base: RGB
    dark: RGB
    light: RGB
    line: RGB
    blush: RGB
    lips: RGB


def light_of(name: str, variant: int) -> Light:
    """The light of a shot; its side is drawn by the variant."""
    return Light(1.0 if variant % 2 else -1.0, _CONTRAST[name])


def skin_of(head: Head) -> Skin:
    """The colours, with a face's passing flush or pallor in them."""
    who, moves = head.who, head.look
    base = mix(who.skin_rgb, (214, 70, 52), 0.1 * moves.flush)
    base = mix(base, (176, 196, 190), 0.13 * moves.pale)
    deep = luma(base) < 110
    rose: RGB = (176, 44, 62) if who.gender == "woman" else (166, 74, 66)
    strength = lerp(0.22, 0.8, who.lip_colour) if who.gender == "woman" else 0.24
    return Skin(
        base=base,
        dark=shade(base, 0.42),
        light=tint(base, 0.32 if deep else 0.45),
        line=shade(base, 0.66),
        blush=mix(base, (226, 62, 62), 0.62),
        lips=mix(shade(base, 0.12), rose, strength),
    )


def _side_light(ink: Ink, head: Head, skin: Skin, light: Light) -> str:
    """A fill that goes from the lit to the shaded side of the head."""
    x, y, reach = head.pose.x, head.pose.y, head.pose.scale * 0.95
    dark = shade(skin.base, 0.18 + 0.62 * light.contrast)
    stops = [(0, tint(skin.base, 0.1), 1), (0.45, skin.base, 1), (1, dark, 1)]
    lit = (x + light.side * reach, y - reach * 0.4)
    return ink.gradient(lit, (x - light.side * reach, y + reach * 0.5), stops)


def draw_neck(ink: Ink, head: Head, skin: Skin, light: Light) -> None:
    """The neck, from the turned head to the shoulders that stay."""
    who, pose = head.who, head.pose
    width = lerp(0.32, 0.46, who.neck) + (0.07 if who.gender == "man" else -0.02)
    width -= 0.08 * head.young
    top = pose.project(np.array([[-width, 0.5, -0.12], [width, 0.5, -0.12]]))
    low = head.place_body([[-width * 1.02, 1.25], [-width * 1.5, 1.62], [-0.8, 1.85]])
    other = head.place_body([[0.8, 1.85], [width * 1.5, 1.62], [width * 1.02, 1.25]])
    outline = np.concatenate([top[:1], low, head.place_body([[0, 2.2]]), other, top[1:]])
    path = smooth(outline, tension=0.7)
    dark = shade(skin.base, 0.3 + 0.4 * light.contrast)
    x, reach = pose.x, pose.scale * 0.7
    stops = [(0, shade(skin.base, 0.06), 1), (1, dark, 1)]
    ink.shape(path, ink.gradient((x + light.side * reach, 0), (x - light.side * reach, 0), stops))
    under = head.map([[0.0, head.chin_y - 0.08]])[0] + (0, 0.1 * pose.scale)
    ink.open_clip(path)
    ink.soft(under, 0.8 * pose.scale, 0.5 * pose.scale, shade(skin.base, 0.75), 0.75)
    ink.close()


def draw_ear(ink: Ink, head: Head, skin: Skin, side: float) -> None:
    """One ear; side -1 or 1 in x."""
    who, pose = head.who, head.pose
    tall = lerp(0.19, 0.28, who.ear_size)
    flare = lerp(0.45, 1.0, who.ear_flare)
    out = np.array([side * flare, 0.0, -0.75]) / np.hypot(flare, 0.75)
    root = np.array([side * head.width * 0.95, 0.09, -0.03])

    def place(rings: np.ndarray, wide: float, grow: float, back: float = 0.0) -> np.ndarray:
        return pose.project(
            root + rings[:, :1] * wide * out + rings[:, 1:] * [[0, tall * grow, 0]] + back * out
        )

    ring = _EAR * (1, 1)
    ink.shape(smooth(place(ring, 0.2, 1.0)), mix(skin.base, skin.dark, 0.2), outline=0.9)
    inner = smooth(place(ring[1:-1], 0.125, 0.66, 0.02))
    ink.shape(inner, mix(skin.base, skin.dark, 0.75), outline=0)
    if who.earrings != "none":
        _draw_earring(ink, head, place(np.array([[0.35, 0.98]]), 0.2, 1.0)[0])


_EAR = np.array(
    [[-0.2, -0.6], [0.25, -1.0], [0.8, -0.85], [1.0, -0.35], [0.8, 0.25], [0.6, 0.75], [0.2, 1.0],
     [-0.2, 0.7]]
)  # fmt: skip


def _draw_earring(ink: Ink, head: Head, at: np.ndarray) -> None:
    size = head.pose.scale
    gold = (238, 196, 74)
    if head.who.earrings == "studs":
        ink.shape(smooth(at + _dot(0.05 * size)), gold, outline=0.5)
        return
    drop = at + (0, 0.14 * size)
    ink.line(smooth(drop + _dot(0.13 * size)), shade(gold, 0.25), 0.05 * size)
    ink.line(smooth(drop + _dot(0.13 * size)), gold, 0.03 * size)


def _dot(radius: float) -> np.ndarray:
    turn = np.linspace(0, 2 * np.pi, 8, endpoint=False)
    return radius * np.stack([np.cos(turn), np.sin(turn)], 1)


def draw_face(ink: Ink, head: Head, skin: Skin, light: Light, outline: str) -> None:
    """Skull and face with their shading; `outline` is the path of the face."""
    fill = _side_light(ink, head, skin, light)
    skull = smooth(head.ellipse().outline(_WHOLE))
    if ink.pen.width:
        for path in (skull, outline):
            ink.line(path, ink.pen.colour, 2 * ink.pen.width)
    ink.shape(skull, fill, outline=0)
    ink.shape(outline, fill, outline=0)
    ink.open_clip(outline)
    _shade_face(ink, head, skin, light)
    ink.close()


def _shade_face(ink: Ink, head: Head, skin: Skin, light: Light) -> None:
    size, wide = head.pose.scale, head.width
    turn = head.shot.roll
    spots = head.map(
        [
            [-light.side * wide * 0.98, 0.3],
            [light.side * 0.15, -0.42],
            [light.side * wide * 0.52, 0.26],
            [0.0, head.chin_y - 0.1],
            [0.0, head.chin_y + 0.02],
        ]
    )
    dark = shade(skin.base, 0.72)
    ink.soft(spots[0], 0.85 * size, 1.25 * size, dark, 0.25 + 0.75 * light.contrast, turn)
    ink.soft(spots[1], 0.55 * size, 0.36 * size, skin.light, 0.5, turn)
    ink.soft(spots[2], 0.3 * size, 0.26 * size, skin.light, 0.4, turn)
    ink.soft(spots[3], 0.2 * size, 0.13 * size, skin.light, 0.3, turn)
    ink.soft(spots[4], 0.7 * size, 0.2 * size, dark, 0.4, turn)
    _blush(ink, head, skin)


def _blush(ink: Ink, head: Head, skin: Skin) -> None:
    who, moves, size = head.who, head.look, head.pose.scale
    amount = 0.1 + 0.4 * who.blush * (1.0 if who.gender == "woman" or head.young else 0.55)
    amount += 0.25 * max(moves.cheeks, moves.flush) - 0.25 * moves.pale
    for side in (-1.0, 1.0):
        at = head.map([[side * head.width * 0.62, 0.34 - 0.05 * moves.cheeks]])[0]
        ink.soft(at, 0.3 * size, 0.2 * size, skin.blush, amount, head.shot.roll)
        if moves.cheeks > 0.3:
            at = head.map([[side * head.width * 0.56, 0.22]])[0]
            ink.soft(at, 0.17 * size, 0.1 * size, skin.light, 0.5 * moves.cheeks, head.shot.roll)
    if moves.pale > 0.3:  # cold shade over the brow
        at = head.map([[0.0, -0.45]])[0]
        ink.soft(at, 0.8 * size, 0.5 * size, (92, 116, 150), 0.35 * moves.pale, head.shot.roll)
