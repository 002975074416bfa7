"""Clothes on the shoulders, which do not turn with the head."""

from collections.abc import Callable

import numpy as np

from .colour import RGB, WHITE, luma, mix, shade, tint
from .geometry import Head, lerp
from .ink import Ink, smooth, straight
from .shots import COLOURS
from .skin import Light, Skin


class Body:
    """The shoulders of one person; points in head units, mirrored where a part has two sides."""

    def __init__(self, ink: Ink, head: Head, skin: Skin, light: Light) -> None:
        self.ink, self.head, self.skin, self.light = ink, head, skin, light
        who = head.who
        self.colour: RGB = COLOURS[head.shot.colour]
        self.dark = shade(self.colour, 0.45)
        self.neck = lerp(0.36, 0.52, who.neck) + 0.04 * (who.gender == "man") - 0.07 * head.young
        self.wide = lerp(1.2, 1.6, who.shoulders) + (0.18 if who.gender == "man" else -0.05)
        self.wide -= 0.2 * head.young
        self.shift = 0.1 * np.sin(np.radians(head.shot.yaw))

    def place(self, points: object) -> np.ndarray:
        """(N, 2) head units -> (N, 2) in the picture; the middle of the chest turns a little."""
        points = np.array(points, dtype=float)
        points[:, 0] += self.shift * np.clip(points[:, 1] - 1.2, 0, 1)
        return self.head.place_body(points)

    def both(self, points: object, fill: RGB, tension: float = 0.3, outline: float = 1.0) -> None:
        """A shape and its mirror image."""
        for side in (1, -1):
            path = smooth(self.place(np.array(points) * (side, 1)), tension=tension)
            self.ink.shape(path, fill, outline=outline)

    def line(self, points: object, colour: RGB, width: float, opacity: float = 1.0) -> None:
        """A line; width in head units."""
        path = smooth(self.place(points), False)
        self.ink.line(path, colour, width * self.head.pose.scale, opacity)

    def torso(self, collar: float, fill: RGB | None = None, drop: float = 0.0) -> str:
        """Neck to below the picture; `collar` is how far out it starts, `drop` how far down."""
        wide, neck = self.wide, self.neck + collar
        right = [[neck, 1.42 + 0.4 * drop], [wide * 0.75, 1.66 + drop], [wide, 1.95 + 0.7 * drop]]
        right += [[wide + 0.2, 2.7], [wide + 0.25, 4.2]]
        left = [[-x, y] for x, y in reversed(right)]
        low = 1.62 + 0.55 * collar + drop
        path = smooth(self.place([*right, *left, [0.0, low]]), tension=0.75)
        base = fill or self.colour
        x, reach = self.head.pose.x, self.head.pose.scale * wide
        stops = [(0, tint(base, 0.1), 1), (0.5, base, 1), (1, shade(base, 0.4), 1)]
        side = self.light.side
        colour = self.ink.gradient((x + side * reach, 0), (x - side * reach, 0), stops)
        self.ink.shape(path, colour)
        return path

    def folds(self) -> None:
        """The creases from the arms."""
        wide = self.wide
        for side in (1, -1):
            arm = np.array([[wide * 0.72, 2.15], [wide * 0.78, 2.5], [wide * 0.76, 3.2]])
            self.line(arm * (side, 1), self.dark, 0.05, 0.55)


def draw_clothing(ink: Ink, head: Head, skin: Skin, light: Light) -> None:
    """The clothes of the shot."""
    body = Body(ink, head, skin, light)
    _DRAW[head.shot.clothing](body)
    body.folds()


def _t_shirt(body: Body) -> None:
    body.torso(0.16)
    neck = body.neck + 0.16
    body.line([[-neck, 1.44], [0, 1.73], [neck, 1.44]], body.dark, 0.085)


def _shirt(body: Body) -> None:
    body.torso(0.02)
    neck = body.neck
    body.line([[0, 1.75], [0.0, 4.0]], body.dark, 0.035, 0.8)
    for y in (1.95, 2.3, 2.65):
        body.ink.shape(
            smooth(body.place(_DOT * 0.045 + (0.06, y))), tint(body.colour, 0.6), outline=0.3
        )
    inner = [[-neck * 0.5, 1.4], [0, 1.8], [neck * 0.5, 1.4]]
    body.ink.shape(smooth(body.place(inner), tension=0.1), body.skin.dark, outline=0)
    flap = [[neck + 0.02, 1.28], [0.0, 1.68], [0.2, 2.0], [neck + 0.22, 1.6]]
    body.both(flap, tint(body.colour, 0.22), 0.1)


def _hoodie(body: Body) -> None:
    body.torso(0.12)
    neck = body.neck
    hood = [
        [neck + 0.06, 1.22],
        [neck + 0.4, 1.42],
        [0.5, 1.95],
        [0.0, 2.1],
        [0.0, 1.78],
        [neck - 0.1, 1.55],
    ]
    body.both(hood, mix(body.colour, body.dark, 0.35), 0.6)
    string = tint(body.colour, 0.7) if luma(body.colour) < 190 else shade(body.colour, 0.5)
    for side in (1, -1):
        body.line([[0.2 * side, 1.95], [0.22 * side, 2.3], [0.2 * side, 2.6]], string, 0.055)


def _suit(body: Body) -> None:
    """Jacket in the colour of the shot over a white shirt, with a tie."""
    white = (240, 240, 244)
    body.torso(0.02, white)
    neck, wide = body.neck, body.wide
    tie = (150, 30, 44) if body.head.shot.colour not in ("red", "pink") else (36, 52, 110)
    knot = [[-0.1, 1.66], [0.1, 1.66], [0.065, 1.86], [-0.065, 1.86]]
    blade = [[-0.065, 1.86], [0.065, 1.86], [0.19, 3.2], [-0.19, 3.2]]
    body.ink.shape(straight(body.place(blade)), tie, outline=0.6)
    body.ink.shape(straight(body.place(knot)), shade(tie, 0.25), outline=0.6)
    body.both([[neck, 1.3], [0.03, 1.66], [0.22, 1.93], [neck + 0.12, 1.5]], WHITE, 0.1)
    jacket = [[neck + 0.04, 1.4], [wide * 0.75, 1.64], [wide + 0.06, 1.95], [wide + 0.3, 2.8]]
    jacket += [[wide + 0.3, 4.2], [0.04, 4.2], [0.1, 3.0], [0.42, 2.0]]
    body.both(jacket, body.colour, 0.4)
    lapel = [
        [neck + 0.02, 1.42],
        [neck + 0.28, 1.6],
        [neck + 0.3, 2.1],
        [neck + 0.14, 2.16],
        [0.1, 3.1],
        [0.38, 2.0],
    ]
    body.both(lapel, mix(body.colour, body.dark, 0.45), 0.1)


def _tank_top(body: Body) -> None:
    """Bare shoulders and two wide straps."""
    skin, wide = body.skin, body.wide
    body.torso(0.02, skin.base)
    top = [[-wide - 0.3, 4.2], [-wide * 0.86, 2.5], [-wide * 0.7, 2.0], [-0.78, 1.6], [-0.5, 1.52]]
    top += [[-0.36, 1.88], [0.0, 2.04], [0.36, 1.88], [0.5, 1.52], [0.78, 1.6], [wide * 0.7, 2.0]]
    top += [[wide * 0.86, 2.5], [wide + 0.3, 4.2]]
    body.ink.shape(smooth(body.place(top), tension=0.7), body.colour)
    body.line([[-0.5, 1.54], [-0.36, 1.88], [0, 2.04], [0.36, 1.88], [0.5, 1.54]], body.dark, 0.05)
    for side in (1, -1):  # the collar bones
        body.line([[side * 0.1, 1.66], [side * 0.4, 1.6]], skin.dark, 0.05, 0.6)


def _sweater(body: Body) -> None:
    """A high ribbed collar."""
    body.torso(0.1)
    neck = body.neck + 0.04
    collar = [
        [-neck, 1.12],
        [-neck - 0.06, 1.55],
        [0, 1.74],
        [neck + 0.06, 1.55],
        [neck, 1.12],
        [0, 1.3],
    ]
    body.ink.shape(smooth(body.place(collar), tension=0.6), mix(body.colour, body.dark, 0.2))
    for x in (-0.75, -0.4, 0.0, 0.4, 0.75):
        body.line(
            [[x * neck, 1.28 - 0.12 * abs(x)], [x * neck * 1.05, 1.66 - 0.12 * abs(x)]],
            body.dark,
            0.035,
            0.6,
        )
    for y in (2.05, 2.35, 2.65):
        body.line(
            [[-body.wide * 0.7, y - 0.06], [0, y + 0.06], [body.wide * 0.7, y - 0.06]],
            body.dark,
            0.045,
            0.4,
        )


def _denim(body: Body) -> None:
    """A blue jacket with seams over a top in the colour of the shot."""
    blue, seam = (72, 108, 158), (222, 176, 92)
    body.torso(0.14)
    neck, wide = body.neck, body.wide
    jacket = [[neck + 0.02, 1.38], [wide * 0.75, 1.62], [wide + 0.06, 1.95], [wide + 0.3, 2.8]]
    jacket += [[wide + 0.3, 4.2], [0.36, 4.2], [0.44, 2.4]]
    body.both(jacket, blue, 0.3)
    body.both(
        [[neck, 1.26], [neck + 0.34, 1.6], [neck + 0.2, 2.0], [0.4, 1.96]], tint(blue, 0.14), 0.1
    )
    for side in (1, -1):
        body.line([[side * 0.5, 2.2], [side * 0.45, 4.0]], seam, 0.03)
        body.line([[side * 0.5, 2.42], [side * wide * 0.8, 2.36]], seam, 0.03)
        body.ink.shape(smooth(body.place(_DOT * 0.05 + (side * 0.56, 2.25))), seam, outline=0.3)


def _striped(body: Body) -> None:
    """White with stripes in the colour of the shot."""
    colour = body.colour if luma(body.colour) < 215 else (52, 66, 110)
    path = body.torso(0.2, (240, 238, 232))
    body.ink.open_clip(path)
    for y in np.arange(1.62, 3.4, 0.3):
        body.line([[-2.2, y + 0.12], [-1, y], [0, y + 0.1], [1, y], [2.2, y + 0.12]], colour, 0.14)
    body.ink.close()
    neck = body.neck + 0.2
    body.line([[-neck, 1.44], [0, 1.75], [neck, 1.44]], colour, 0.08)


_DOT = np.array(
    [[0, -1], [0.7, -0.7], [1, 0], [0.7, 0.7], [0, 1], [-0.7, 0.7], [-1, 0], [-0.7, -0.7]]
)
_DRAW: dict[str, Callable[[Body], None]] = {
    "t-shirt": _t_shirt,
    "shirt": _shirt,
    "hoodie": _hoodie,
    "suit": _suit,
    "tank top": _tank_top,
    "sweater": _sweater,
    "denim jacket": _denim,
    "striped top": _striped,
}
