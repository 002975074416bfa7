"""Eyes and brows."""

import numpy as np

from .colour import BLACK, RGB, WHITE, luma, mix, shade, tint
from .geometry import Head, lerp
from .ink import Ink, bezier, smooth
from .persons import EYES
from .skin import Skin

_SLOPE = 0.42  # how fast an eye falls back towards the temple; flatter than the face around it
_TURN = np.linspace(0, 2 * np.pi, 10, endpoint=False)
_RING = np.stack([np.cos(_TURN), np.sin(_TURN)], 1)


class Eye:
    """One eye of a head: its lids as curves in head units, and its way to the picture."""

    def __init__(self, head: Head, side: float) -> None:
        who, moves = head.who, head.look
        self.head, self.side = head, side
        self.x, self.y, self.a = side * head.eye_x, head.eye_y, head.eye_a
        self.centre = head.surface(np.array([[self.x, self.y]]))[0]
        self.tilt = lerp(-0.055, 0.07, who.eye_tilt)
        base = lerp(0.1, 0.145, who.lid) * (1.12 if head.young else 1.0)
        self.up = max(0.022, base + moves.lid_upper)
        self.low = max(-0.028, 0.07 - moves.lid_lower)
        self.slant = moves.lid_slant

    def place(self, points: object, lift: float = 0.01) -> np.ndarray:
        """(N, 2) from the middle of the eye, x outwards, in head units -> (N, 2) in the picture."""
        points = np.asarray(points, dtype=float)
        x, y = points[:, 0], points[:, 1]
        space = np.stack([self.side * x, y, lift - _SLOPE * x], 1) + self.centre
        return self.head.pose.project(space)

    def lids(self, raise_upper: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
        """(4, 2) handles of the upper lid from the inner to the outer corner; of the lower back."""
        a, half = self.a, self.tilt / 2
        inner, outer = (-a, half), (a, -half)
        up = 1.33 * self.up + raise_upper
        steep = max(self.slant, 0.0), max(-self.slant, 0.0)
        first = (-0.45 * a, half - up + 1.35 * steep[0] - 0.25 * steep[1])
        second = (0.55 * a, -half - up * 1.02 + 1.35 * steep[1] - 0.2 * steep[0])
        low = 1.33 * self.low
        upper = np.array([inner, first, second, outer])
        lower = np.array([outer, (0.6 * a, -half + low), (-0.4 * a, half + low * 0.9), inner])
        return upper, lower


def draw_eyes(ink: Ink, head: Head, skin: Skin) -> None:
    """Both eyes with their sockets."""
    for side in (-1.0, 1.0):
        eye = Eye(head, side)
        _socket(ink, eye, skin)
        upper, lower = eye.lids()
        path = bezier(eye.place(np.concatenate([upper, lower[1:]])))
        ink.shape(path, mix((250, 247, 242), skin.base, 0.08), outline=0)
        ink.open_clip(path)
        _iris(ink, eye)
        ink.close()
        _lashes(ink, eye, skin, upper, lower)


def _socket(ink: Ink, eye: Eye, skin: Skin) -> None:
    size, turn = eye.head.pose.scale, eye.head.shot.roll
    at = eye.place([[-0.06, -0.1], [0.0, 0.14]])
    ink.soft(at[0], 0.34 * size, 0.24 * size, shade(skin.base, 0.6), 0.42, turn)
    if eye.head.who.age in ("middle-aged", "old"):
        amount = 0.5 if eye.head.who.age == "old" else 0.3
        ink.soft(at[1], 0.25 * size, 0.12 * size, shade(skin.base, 0.65), amount, turn)


def _iris(ink: Ink, eye: Eye) -> None:
    who, moves = eye.head.who, eye.head.look
    colour = EYES[who.eye_colour]
    radius = lerp(0.115, 0.15, who.iris) * (1.0 + moves.iris) * (1.08 if eye.head.young else 1.0)
    aside = -0.035 * np.sin(np.radians(eye.head.shot.yaw)) * eye.side
    at = np.array([aside, 0.035 - moves.gaze - 0.25 * eye.up])
    if moves.iris:
        at[1] = 0.25 * (eye.low - eye.up)
    size = eye.head.pose.scale
    ink.shape(smooth(eye.place(at + radius * _RING)), shade(colour, 0.55), outline=0)
    ink.shape(smooth(eye.place(at + 0.8 * radius * _RING)), colour, outline=0)
    glow = eye.place([at + (0.0, 0.4 * radius)])[0]
    ink.soft(glow, radius * 0.7 * size, radius * 0.55 * size, tint(colour, 0.55), 0.9)
    ink.shape(smooth(eye.place(at + 0.45 * radius * _RING)), (14, 10, 12), outline=0)
    upper, _ = eye.lids()
    ink.line(bezier(eye.place(upper + (0, 0.025)), False), shade(WHITE, 0.6), 0.05 * size, 0.45)
    glint = at + (-0.38 * radius * eye.side, -0.4 * radius)
    ink.shape(smooth(eye.place(glint + 0.27 * radius * _RING)), WHITE, outline=0)


def _lashes(ink: Ink, eye: Eye, skin: Skin, upper: np.ndarray, lower: np.ndarray) -> None:
    head, size = eye.head, eye.head.pose.scale
    woman = head.who.gender == "woman"
    dark = mix(head.who.hair_rgb, (24, 16, 16), 0.85)
    width = (0.062 if woman else 0.046) * size
    if woman:  # a wing beyond the outer corner
        wing = upper[3] + (0.055, -0.05)
        top = np.array(
            [
                upper[0],
                upper[1],
                upper[2],
                wing,
                upper[2] * (1, 0.72),
                upper[1] * (1, 0.72),
                upper[0],
            ]
        )
        ink.shape(bezier(eye.place(top)), dark, outline=0)
    ink.line(bezier(eye.place(upper), False), dark, width)
    crease, _ = eye.lids(0.085 if eye.slant <= 0 else 0.05)
    crease[[0, 3], 1] -= 0.03
    ink.line(bezier(eye.place(crease * (0.94, 1)), False), skin.line, 0.026 * size, 0.6)
    ink.line(bezier(eye.place(lower), False), mix(skin.line, dark, 0.3), 0.024 * size, 0.6)
    if eye.low < 0.035:  # the pushed-up pad under a squinting eye
        pad = lower * (0.9, 1.0) + (0.0, 0.06)
        ink.line(bezier(eye.place(pad), False), skin.line, 0.026 * size, 0.5)


def draw_brows(ink: Ink, head: Head) -> None:
    """Both brows, over the eyes' moves."""
    who, moves = head.who, head.look
    colour = brow_colour(head)
    thick = lerp(0.04, 0.105, who.brow_thickness) * (0.82 if who.gender == "woman" else 1.1)
    thick *= 0.8 if head.young else 1.0
    arch = lerp(0.0, 0.075, who.brow_arch)
    tilt = lerp(-0.03, 0.045, who.brow_tilt)
    for side in (-1.0, 1.0):
        eye = Eye(head, side)
        y = -lerp(0.235, 0.325, who.brow_height) - 0.3 * max(0.0, moves.lid_upper)
        span = eye.a * 1.28
        inner, outer = -span * 0.86 - moves.brow_pinch, span * 1.02
        low_in, low_out = y - moves.brow_inner + tilt, y - moves.brow_outer - tilt
        share = np.array([0.0, 0.3, 0.65, 1.0])
        x = inner + (outer - inner) * share
        line = low_in + (low_out - low_in) * share - (arch + 0.02) * np.sin(np.pi * share**0.9)
        half = thick * np.array([0.42, 0.55, 0.45, 0.1])
        ring = np.concatenate([np.stack([x, line - half], 1), np.stack([x, line + half], 1)[::-1]])
        ink.shape(smooth(eye.place(ring, 0.03), tension=0.8), colour, outline=0.4)


def brow_colour(head: Head) -> RGB:
    """As the hair, but dark enough to be seen on the skin."""
    who = head.who
    natural = (
        who.hair_rgb if who.hair_colour not in ("pink", "blue", "purple", "green") else (70, 50, 44)
    )
    colour = shade(natural, 0.28)
    if abs(luma(colour) - luma(who.skin_rgb)) < 50:
        pale = luma(who.skin_rgb) < 62
        colour = mix(colour, (168, 160, 156) if pale else BLACK, 0.45 if pale else 0.62)
    return colour
