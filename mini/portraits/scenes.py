"""Backgrounds. Coordinates are picture units, 0..128."""

from collections.abc import Callable

import numpy as np

from .colour import RGB, mix, shade, tint
from .ink import Ink, dots, smooth, straight
from .shots import COLOURS


class Stage:
    """What a scene is drawn with."""

    def __init__(self, ink: Ink, variant: int) -> None:
        self.ink, self.rng = ink, np.random.default_rng([3, variant])

    def sky(self, top: RGB, low: RGB, down_to: float = 128) -> None:
        """A gradient over the whole width."""
        fill = self.ink.gradient((0, 0), (0, down_to), [(0, top, 1), (1, low, 1)])
        self.ink.add(f'<rect width="128" height="128" fill="{fill}"/>')

    def box(self, x: float, y: float, wide: float, high: float, fill: RGB) -> None:
        """An upright rectangle without an outline."""
        ends = [[x, y], [x + wide, y], [x + wide, y + high], [x, y + high]]
        self.ink.shape(straight(np.array(ends)), fill, outline=0)

    def ball(self, x: float, y: float, rx: float, ry: float, fill: RGB, opacity: float = 1) -> None:
        """An ellipse without an outline."""
        self.ink.shape(smooth(_RING * (rx, ry) + (x, y)), fill, opacity, outline=0)

    def ridge(self, y: float, rough: float, fill: RGB, sharp: bool = False) -> None:
        """Land up to a wavy or jagged line at height y."""
        count = 9 if sharp else 6
        x = np.linspace(-12, 140, count)
        line = np.stack([x, y + self.rng.uniform(-rough, rough, count)], 1)
        ends = np.array([[140, 150], [-12, 150]])
        path = straight(np.concatenate([line, ends])) if sharp else _land(line, ends)
        self.ink.shape(path, fill, outline=0)

    def some(self, low: float, high: float) -> float:
        """A number between."""
        return float(self.rng.uniform(low, high))


_TURN = np.linspace(0, 2 * np.pi, 10, endpoint=False)
_RING = np.stack([np.cos(_TURN), np.sin(_TURN)], 1)


def _land(line: np.ndarray, ends: np.ndarray) -> str:
    return smooth(line, False) + straight(ends).replace("M", "L", 1)


def draw_scene(ink: Ink, name: str, variant: int, blur: float = 0.0) -> None:
    """Fill the picture; blur in picture units."""
    stage = Stage(ink, variant)
    if blur:
        ink.open_blur(blur)
    _DRAW[name](stage)
    if blur:
        ink.close()


def _studio(stage: Stage) -> None:
    names = ("grey", "blue", "green", "purple", "orange", "yellow", "white", "pink", "brown")
    colour = mix(COLOURS[str(stage.rng.choice(names))], (180, 180, 184), 0.45)
    stage.sky(tint(colour, 0.2), shade(colour, 0.35))
    stage.ink.soft(np.array([64.0, 52.0]), 80, 70, tint(colour, 0.7), 0.6)


def _park(stage: Stage) -> None:
    stage.sky((134, 192, 236), (222, 240, 244), 80)
    stage.ridge(74, 4, (116, 170, 96))
    for _ in range(5):
        x, y, size = stage.some(0, 128), stage.some(26, 52), stage.some(13, 22)
        stage.box(x - 2, y, 4, 52, (104, 74, 50))
        green = mix((58, 132, 62), (112, 168, 62), stage.some(0, 1))
        for dx, dy in ((-0.6, 0.3), (0.6, 0.3), (0, -0.2)):
            stage.ball(x + dx * size, y + dy * size, size * 0.8, size * 0.72, green)
    stage.ridge(92, 3, (96, 164, 76))


def _beach(stage: Stage) -> None:
    stage.sky((92, 178, 236), (214, 238, 248), 62)
    stage.ball(stage.some(12, 116), stage.some(12, 26), 9, 9, (255, 244, 180))
    stage.box(-2, 58, 132, 40, (40, 142, 190))
    for y in (66, 74, 82):
        x = stage.some(-10, 60)
        stage.ball(x, y, 24, 0.9, (190, 228, 240))
        stage.ball(x + 62, y + 3, 20, 0.9, (190, 228, 240))
    stage.ridge(92, 2, (240, 246, 244))
    stage.ridge(96, 2, (240, 214, 156))
    if stage.some(0, 1) < 0.6:
        _palm(stage, float(stage.rng.choice([10.0, 118.0])))


def _palm(stage: Stage, x: float) -> None:
    trunk = np.array([[x, 110], [x + 3, 70], [x + 1, 34]])
    stage.ink.line(smooth(trunk, False), (134, 96, 60), 3.5)
    for turn in np.linspace(0, 2 * np.pi, 7, endpoint=False):
        tip = np.array([x + 1 + 19 * np.cos(turn), 36 + 11 * np.sin(turn)])
        bend = np.array([x + 1 + 10 * np.cos(turn), 28 + 6 * np.sin(turn)])
        leaf = np.array([[x + 1, 34], bend, tip])
        stage.ink.line(smooth(leaf, False), (44, 130, 74), 3.6)


def _city(stage: Stage) -> None:
    """A street at night."""
    stage.sky((16, 18, 46), (66, 52, 98))
    x = -4.0
    while x < 128:
        wide, top = stage.some(13, 24), stage.some(8, 52)
        wall = mix((26, 28, 54), (52, 46, 82), stage.some(0, 1))
        stage.box(x, top, wide, 130, wall)
        for wx in np.arange(x + 2.5, x + wide - 3, 5):
            for wy in np.arange(top + 4, 96, 8):
                if stage.some(0, 1) < 0.5:
                    stage.box(wx, wy, 2.6, 4, (255, 218, 120))
        x += wide + stage.some(0, 2)
    for _ in range(7):
        glow = ((255, 96, 140), (90, 210, 255), (255, 190, 80))[int(stage.some(0, 3))]
        stage.ball(stage.some(0, 128), stage.some(76, 112), 4.6, 4.6, glow, 0.75)


def _library(stage: Stage) -> None:
    stage.sky((92, 60, 38), (70, 44, 28))
    colours = (
        (170, 56, 48),
        (58, 92, 140),
        (70, 120, 78),
        (206, 170, 92),
        (116, 66, 108),
        (226, 212, 180),
    )
    for y in (2, 32, 62, 92):
        stage.box(-2, y, 132, 25, (50, 30, 20))
        x = stage.some(-4, 0)
        while x < 128:
            wide, high = stage.some(4.5, 8.5), stage.some(17, 24)
            stage.box(x, y + 25 - high, wide - 0.7, high, colours[int(stage.some(0, 6))])
            x += wide
        stage.box(-2, y + 25, 132, 5, (142, 94, 56))


def _kitchen(stage: Stage) -> None:
    stage.sky((246, 236, 214), (232, 218, 190))
    wood = mix((126, 170, 172), (206, 158, 108), stage.some(0, 1))
    for x in (0, 25, 79, 104):
        stage.box(x, 2, 24, 32, wood)
        stage.box(x + 2, 4, 20, 28, tint(wood, 0.2))
        stage.box(x + 18, 26, 2, 4, (90, 84, 80))
    stage.box(51, 4, 26, 34, (206, 232, 246))
    stage.box(63, 4, 2, 34, (250, 250, 248))
    for k in range(9):
        stage.box(k * 15 - 3, 48, 14, 11, tint((152, 196, 196), 0.35))
        stage.box(k * 15 - 10, 60, 14, 11, tint((152, 196, 196), 0.5))
    stage.box(-2, 84, 132, 6, (110, 84, 64))
    stage.box(-2, 90, 132, 44, wood)
    side = float(stage.rng.choice([4.0, 100.0]))
    stage.ball(side + 11, 84, 11, 4, (186, 60, 50))
    stage.box(side, 70, 22, 14, (206, 70, 58))


def _mountains(stage: Stage) -> None:
    stage.sky((104, 164, 224), (230, 236, 240), 90)
    stage.ridge(60, 8, (168, 184, 210))
    for k in range(3):
        x, y, wide = 20 + 44 * k + stage.some(-12, 12), stage.some(12, 32), stage.some(36, 50)
        peak = np.array([[x - wide, 110], [x, y], [x + wide, 110]])
        stage.ink.shape(
            straight(peak), mix((92, 104, 134), (116, 124, 146), stage.some(0, 1)), outline=0
        )
        snow = np.array(
            [
                [x - wide * 0.24, y + 21],
                [x, y],
                [x + wide * 0.24, y + 21],
                [x + 4, y + 17],
                [x - 2, y + 25],
            ]
        )
        stage.ink.shape(straight(snow), (246, 250, 254), outline=0)
    stage.ridge(96, 4, (72, 118, 84))


def _snow(stage: Stage) -> None:
    stage.sky((176, 196, 220), (236, 242, 250), 100)
    for _ in range(5):
        x, y = stage.some(0, 128), stage.some(36, 56)
        for step in range(3):
            half = 7 + 5 * step
            tree = np.array(
                [
                    [x - half, y + 16 * step + 17],
                    [x, y + 13 * step - 8],
                    [x + half, y + 16 * step + 17],
                ]
            )
            stage.ink.shape(straight(tree), (66, 108, 104), outline=0)
            stage.ink.shape(
                straight(tree * (0.6, 0.6) + (x * 0.4, (y + 13 * step - 8) * 0.4)),
                (238, 246, 252),
                outline=0,
            )
    stage.ridge(92, 3, (244, 248, 254))
    flakes = stage.rng.uniform(0, 128, (46, 2))
    stage.ink.line(dots(flakes), (255, 255, 255), 2.2)


def _cafe(stage: Stage) -> None:
    stage.sky((124, 76, 52), (92, 56, 42))
    for x in (6, 74):
        stage.box(x, 16, 48, 52, (62, 38, 30))
        stage.box(x + 3, 19, 42, 46, (250, 214, 150))
        stage.box(x + 22, 19, 3, 46, (62, 38, 30))
        stage.box(x + 3, 40, 42, 2.5, (62, 38, 30))
    for x in (22, 64, 106):
        drop = stage.some(12, 26)
        stage.box(x - 0.5, 0, 1, drop, (36, 26, 24))
        lamp = np.array([[x - 8, drop + 8], [x - 3, drop], [x + 3, drop], [x + 8, drop + 8]])
        stage.ink.soft(np.array([x, drop + 9.0]), 19, 15, (255, 220, 140), 0.75)
        stage.ink.shape(straight(lamp), (52, 92, 86), outline=0)
        stage.ball(x, drop + 8.5, 4, 3, (255, 242, 196))
    stage.box(-2, 92, 132, 40, (150, 102, 66))
    x = float(stage.rng.choice([14.0, 112.0]))
    stage.box(x - 6, 82, 12, 10, (246, 242, 234))
    stage.ball(x, 82, 6, 1.6, (104, 62, 40))


def _space(stage: Stage) -> None:
    stage.sky((8, 8, 30), (44, 20, 72))
    stage.ink.soft(
        np.array([stage.some(10, 60), stage.some(20, 100)]), 52, 34, (206, 60, 160), 0.5, 24
    )
    stage.ink.soft(
        np.array([stage.some(70, 120), stage.some(20, 100)]), 46, 30, (40, 120, 230), 0.55, -20
    )
    for width, count in ((0.8, 70), (1.7, 22)):
        stars = stage.rng.uniform(0, 128, (count, 2))
        stage.ink.line(dots(stars), (255, 252, 236), width)
    x, y = float(stage.rng.choice([18.0, 110.0])), stage.some(16, 36)
    stage.ball(x, y, 13, 13, (226, 150, 84))
    stage.ball(x - 2, y - 4, 10, 2, (246, 196, 136))
    ring = np.array([[x - 22, y + 6], [x, y + 6], [x + 22, y - 6], [x, y - 1]])
    stage.ink.line(smooth(ring), (240, 214, 166), 1.6)


def _desert(stage: Stage) -> None:
    stage.sky((246, 176, 96), (252, 226, 170), 80)
    stage.ball(stage.some(14, 114), 22, 11, 11, (255, 248, 214))
    stage.ridge(66, 6, (226, 150, 88))
    stage.ridge(82, 8, (216, 132, 70))
    stage.ridge(102, 5, (198, 112, 58))
    for x in (stage.some(4, 24), stage.some(104, 124)):
        top, green = stage.some(40, 56), (62, 120, 76)
        for path in (
            [[x, 112], [x, top]],
            [[x, 82], [x - 9, 78], [x - 9, 64]],
            [[x, 74], [x + 9, 70], [x + 9, 58]],
        ):
            stage.ink.line(straight(np.array(path), False), green, 5.4)


def _garden(stage: Stage) -> None:
    """A hedge full of flowers."""
    stage.sky((88, 150, 84), (44, 100, 56))
    for _ in range(16):
        green = mix((40, 104, 56), (130, 176, 84), stage.some(0, 1))
        stage.ball(
            stage.some(0, 128), stage.some(0, 128), stage.some(7, 13), stage.some(6, 11), green
        )
    colours = ((240, 96, 130), (250, 206, 70), (246, 244, 240), (176, 96, 206), (240, 120, 60))
    for _ in range(22):
        x, y, size = stage.some(0, 128), stage.some(2, 122), stage.some(2.2, 3.6)
        colour = colours[int(stage.some(0, 5))]
        for turn in np.linspace(0, 2 * np.pi, 5, endpoint=False):
            stage.ink.add(
                f'<circle cx="{x + size * np.cos(turn):.1f}" cy="{y + size * np.sin(turn):.1f}"'
                f' r="{size * 0.8:.1f}" fill="rgb{colour}"/>'
            )
        stage.ink.add(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size * 0.7:.1f}" fill="#fc4"/>')


_DRAW: dict[str, Callable[[Stage], None]] = {
    "studio": _studio,
    "park": _park,
    "beach": _beach,
    "city": _city,
    "library": _library,
    "kitchen": _kitchen,
    "mountains": _mountains,
    "snow": _snow,
    "cafe": _cafe,
    "space": _space,
    "desert": _desert,
    "garden": _garden,
}
