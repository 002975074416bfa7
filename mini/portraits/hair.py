"""Hair on the head: a grown skull with an opening for the face, and what hangs or is tied."""

import numpy as np

from .colour import RGB, luma, mix, shade, tint
from .cuts import CUTS, Cut
from .geometry import Ellipse, Head, lerp
from .ink import Ink, bezier, dots, smooth, straight
from .skin import Light

_LINE = np.linspace(-1, 1, 17)  # along the hairline, temple to temple


def cut_of(head: Head) -> Cut | None:
    """The measures of a person's hair style; None is bald."""
    return CUTS.get(head.who.hair_style)


class Hair:
    """The shapes of one head's hair in the picture."""

    def __init__(self, head: Head, cut: Cut) -> None:
        self.head, self.cut = head, cut
        volume = lerp(0.75, 1.3, head.who.hair_volume)
        self.grow = np.array([cut.side, cut.top, cut.back]) * volume
        self.shell = head.ellipse(self.grow)
        self.part = lerp(-0.5, 0.5, head.who.parting)
        base = head.who.hair_rgb
        self.base: RGB = base
        self.dark = shade(base, 0.5) if luma(base) > 60 else mix(base, (0, 0, 0), 0.45)
        self.light = tint(base, 0.32)

    def outline(self) -> np.ndarray:
        """(N, 2) the outer edge."""
        if not self.cut.hang:
            angles = np.linspace(0, 2 * np.pi, 96, endpoint=False)
            return self.shell.outline(angles, self.reach(angles))
        roll = np.radians(self.head.shot.roll)
        angles = np.linspace(np.pi - 0.1, 2 * np.pi + 0.1, 30) + roll
        arc = self.shell.outline(angles, self.reach(angles))
        return np.concatenate([arc, self._fall(arc[-1], 1.0), self._fall(arc[0], -1.0)[::-1]])

    def reach(self, angles: np.ndarray) -> np.ndarray:
        """The outer edge relative to the shell's, at picture angles."""
        turned = angles - np.radians(self.head.shot.roll)
        upper = np.clip(-np.sin(turned) + 0.35, 0, 1) ** 0.5
        edge = self.cut.edge
        if edge == "curls":
            return 1 + 0.055 * np.abs(np.sin(7 * turned + self.head.who.seed % 5)) - 0.02
        if edge == "fuzz":
            return 1 + 0.022 * np.abs(np.sin(14 * turned))
        if edge == "spikes":
            return 1 + 0.26 * upper * np.abs((turned * 11 / np.pi) % 2 - 1)
        if edge == "tufts":
            return 1 + 0.085 * upper * np.abs((turned * 16 / np.pi + self.part) % 2 - 1)
        if edge == "waves":
            return 1 + 0.03 * np.cos(8 * turned + 4 * np.pi)
        if edge in ("quiff", "sweep"):
            front = self.head.pose.project(np.array([[0.25 * self.part, -1.05, 0.35]]))[0]
            aim = front - self.shell.middle
            gap = (angles - np.arctan2(aim[1], aim[0]) + np.pi) % (2 * np.pi) - np.pi
            gap = gap * (1 if self.part > 0 else -1)
            if edge == "sweep":
                return 1 + 0.13 * np.exp(-(((gap - 0.7) / 0.6) ** 2)) - 0.03 * upper
            low, high = np.exp(-(((gap + 0.55) / 0.42) ** 2)), np.exp(-(((gap - 0.4) / 0.46) ** 2))
            return 1 + 0.1 * low + 0.22 * high
        return np.ones_like(angles)

    def _fall(self, start: np.ndarray, side: float) -> np.ndarray:
        """(9, 2) from the side of the head down and half way back in."""
        head, size = self.head, self.head.pose.scale
        t = np.linspace(0.1, 1, 9)
        long = self.cut.hang > 1.2
        middle = 0.35 * self.shell.middle[0] + 0.65 * head.pose.x
        reach = (head.width + self.grow[0] + (0.16 if long else 0.04)) * size
        bottom = np.array([middle + side * reach, head.pose.y + self.cut.hang * size])
        if not long:
            lean = -0.6 * np.sin(np.radians(head.shot.roll))
            bottom = start + (self.cut.hang + 0.15) * size * np.array([lean, 1.0])
        path = start + (bottom - start) * np.stack([t**1.3, t], 1)
        if self.cut.edge == "waves":
            path[:, 0] += side * 0.075 * size * np.sin(t * 15) * (0.4 + t)
        elif self.cut.edge == "curls":
            path[:, 0] += side * 0.09 * size * np.abs(np.sin(t * 14))
        else:
            path[:, 0] += side * 0.1 * size * np.sin(t * np.pi)
        end = bottom + (-side * 0.36 * reach, 0.05 * size)
        return np.concatenate([path, end[None]])

    def front(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """(N, 3) on the front of the shell at x, y."""
        (cx, cy, cz), (rx, ry, rz) = self.shell.centre, self.shell.radii
        inside = np.clip(1 - ((x - cx) / rx) ** 2 - ((y - cy) / ry) ** 2, 0, 1)
        return np.stack([x, y, cz + rz * np.sqrt(inside)], 1)

    def hairline(self) -> np.ndarray:
        """(17, 3) from temple to temple."""
        wide, top = self.head.width, self.head.hairline
        u = _LINE
        temple = -0.24
        y = top + (temple - top) * np.abs(u) ** 3.2
        reach = 0.9
        kind = self.cut.line
        if kind == "receding":
            high = np.stack([u * wide * 0.9, np.full(17, -0.45), np.full(17, -0.1)], 1)
            crown = 1 - u**2
            high[:, 1] -= 0.62 * crown
            high[:, 2] -= 0.62 * crown
            return high
        if kind == "jagged":
            y = y + 0.07 * np.abs((u * 7) % 2 - 1) - 0.02
        elif kind == "curls":
            y = y + 0.05 * np.abs(np.sin(u * 11)) - 0.02
        elif kind == "pulled":
            y = y - 0.03 * np.exp(-(((u - self.part * 0.6) / 0.12) ** 2))
        elif kind == "swept":
            gap = (u - self.part) * (1 if self.part < 0 else -1)
            y = top - 0.03 + np.where(gap > 0, 0.3 * np.clip(gap, 0, 1.4) ** 0.8, 0.2 * gap**2)
            y = np.maximum(y, top + (temple - top) * np.abs(u) ** 3)
        elif kind == "fringe":
            y = -0.35 + 0.05 * np.abs((u * 5 + self.part) % 2 - 1) + 0.05 * u**2
        elif kind == "curtain":
            gap = np.abs(u - self.part * 0.5)
            y = top - 0.06 + 0.44 * np.clip(gap - 0.03, 0, 2) ** 0.85
            reach = 0.93
        return self.front(u * wide * reach, y)

    def opening(self) -> np.ndarray:
        """(N, 2) the area without hair: face, ears, neck."""
        line = self.hairline()
        low = self._low_edge()
        mirrored = low * (-1, 1, 1)
        ring = np.concatenate([mirrored[::-1], line, low])
        flat = self.shell.pushed(ring)
        size = self.head.pose.scale
        if self.cut.hang:
            wide = 0.62 if self.cut.hang > 1.2 else 1.6
            gap = self.head.still([[wide, 1.45], [wide + 0.1, 3.2], [-wide - 0.1, 3.2], [-wide, 1.45]])
        else:
            wide = 0.6 if self.cut.side > 0.1 else 1.5
            gap = self.shell.middle + np.array([[wide, 3.0], [-wide, 3.0]]) * size
        return np.concatenate([flat, gap])

    def _low_edge(self) -> np.ndarray:
        """(N, 3) from the temple on the right down, in front of or around the ear."""
        wide, burn = self.head.width, self.cut.sideburn
        if self.cut.side > 0.1 and not self.cut.hang:  # thick all around the ears
            side = [(0.97, -0.08, 0.3), (0.99, 0.6 * burn, 0.22), (1.0, burn, 0.16)]
            side += [(1.2, burn - 0.12, -0.02), (1.22, 0.3, -0.06), (0.97, 0.48, 0.02)]
            side += [(0.84, 0.72, 0.12), (0.7, 1.0, 0.2)]
        elif self.cut.hang:
            side = [(0.97, 0.05, 0.2), (0.98, 0.35, 0.16), (0.93, 0.62, 0.18), (0.78, 0.9, 0.2)]
        else:
            side = [(0.97, -0.08, 0.3), (0.99, burn * 0.6, 0.22), (1.0, burn, 0.16)]
            side += [(1.02, burn - 0.04, 0.05), (1.03, 0.0, -0.1), (1.02, 0.25, -0.2)]
            side += [(0.95, 0.36, -0.36), (0.82, 0.47, -0.52), (0.4, 0.52, -0.76)]
        return np.array(side) * (wide, 1, 1)

    def fill(self, ink: Ink, light: Light) -> str:
        """From the lit top to the shaded low side."""
        (x, y), size = self.shell.middle, self.head.pose.scale
        lit = mix(self.base, self.light, 0.5)
        stops = [(0, lit, 1), (0.4, self.base, 1), (1, mix(self.base, self.dark, 0.75), 1)]
        reach = light.side * size * 0.8
        return ink.gradient((x + reach, y - size * 1.1), (x - reach, y + size * 1.1), stops)


def draw_behind(ink: Ink, head: Head) -> None:
    """What is behind neck and shoulders."""
    cut = cut_of(head)
    if cut is None:
        return
    hair = Hair(head, cut)
    if cut.hang or cut.side > 0.1:
        ink.shape(smooth(hair.outline()), hair.dark)
    if cut.extra:
        _draw_tied(ink, hair, behind=True)


def draw_cap(ink: Ink, head: Head, light: Light) -> None:
    """What is before face and skull."""
    cut = cut_of(head)
    if cut is None:
        return
    hair = Hair(head, cut)
    sharp = cut.edge in ("spikes", "tufts")
    outer, opening = hair.outline(), hair.opening()
    opened = smooth(opening, tension=0.55)
    outline = straight(outer) if sharp else smooth(outer)
    _draw_shadow(ink, hair)
    ink.open_clip(f"M-99 -99H299V299H-99Z{opened}", evenodd=True)
    ink.shape(outline, hair.fill(ink, light), 0.82 if cut is CUTS["buzz"] else 1.0, outline=1.0)
    ink.open_clip(outline)
    _draw_texture(ink, hair, outer, light)
    if ink.pen.width:
        ink.line(opened, ink.pen.colour, ink.pen.width * 2)
    ink.close()
    ink.close()
    if cut.extra:
        _draw_tied(ink, hair, behind=False)


def _draw_shadow(ink: Ink, hair: Hair) -> None:
    """The shadow of the front hair on the forehead."""
    if hair.cut.line == "receding" or ink.pen.soft < 0.5:
        return
    line = hair.hairline()[2:-2]
    low = hair.shell.pushed(line + (0, 0.05, -0.03))
    ink.line(
        smooth(low, False), shade(hair.head.who.skin_rgb, 0.7), 0.13 * hair.head.pose.scale, 0.28
    )


def _draw_texture(ink: Ink, hair: Hair, outer: np.ndarray, light: Light) -> None:
    size = hair.head.pose.scale
    if hair.cut.edge in ("curls", "fuzz"):
        _draw_curls(ink, hair)
    elif hair.cut is not CUTS["buzz"]:
        _draw_strands(ink, hair, outer)
        if hair.cut.hang:
            _draw_fallen(ink, hair, outer)
    (x, y, z) = 0.35 * light.side, -0.82, 0.5
    shine = hair.shell.on(np.array([[x, y, z]]) / np.linalg.norm([x, y, z]))
    at = hair.head.pose.project(shine)[0]
    dull = 0.35 if hair.cut.edge in ("curls", "fuzz") else 0.6
    turn = hair.head.shot.roll + 18 * light.side
    ink.soft(at, 0.52 * size, 0.22 * size, hair.light, dull, turn)


def _draw_strands(ink: Ink, hair: Hair, outer: np.ndarray) -> None:
    """Lines from the parting to the edges."""
    size, head = hair.head.pose.scale, hair.head
    pulled = hair.cut.line == "pulled"
    root = (0.0, -0.9, -0.35) if pulled else (0.9 * hair.part * head.width, -0.98, 0.25)
    if hair.cut.line == "fringe":
        root = (0.0, -1.0, 0.2)
    start = head.pose.project(np.array([root]))[0]
    ends = [*outer[1::4], *hair.shell.pushed(hair.hairline()[1::2])]
    lines: tuple[list[str], list[str]] = ([], [])
    around = len(outer[1::4])
    for k, end in enumerate(ends):
        way = end - start
        bow = 0.13 if k < around else 0.05
        aside = np.array([-way[1], way[0]]) * (bow if way[0] > 0 else -bow)
        begin = start + (0.12 if k < around else 0.32) * way
        points = np.array([begin, start + 0.4 * way - aside, start + 0.75 * way - aside, end])
        lines[k % 2].append(bezier(points, False))
    if hair.cut.line == "swept":
        part = hair.front(np.array([hair.part * head.width * 0.9]), np.array([head.hairline - 0.05]))
        way = np.array([hair.shell.pushed(part)[0], start])
        ink.line(straight(way, False), hair.dark, 0.06 * size, 0.9)
    strong = 0.5 if luma(hair.base) > 60 else 0.8
    ink.line("".join(lines[0]), hair.dark, 0.032 * size, strong)
    ink.line("".join(lines[1]), hair.light, 0.028 * size, 0.4)


def _draw_curls(ink: Ink, hair: Hair) -> None:
    """Rows of curls, or the grain of an afro, that sit on the shell and turn with it."""
    rng = np.random.default_rng([11, hair.head.who.seed])
    size, fuzz = hair.head.pose.scale, hair.cut.edge == "fuzz"
    count = 220 if fuzz else 40
    way = rng.normal(size=(count, 3))
    way[:, 1] = -np.abs(way[:, 1]) * 1.1 + 0.4
    points = hair.shell.on(0.97 * way / np.linalg.norm(way, axis=1, keepdims=True))
    flat = hair.head.pose.project(points[hair.head.pose.turned(points)[:, 2] > -0.2])
    if fuzz:
        ink.line(dots(flat[::2]), hair.dark, 0.06 * size, 0.5)
        ink.line(dots(flat[1::2]), hair.light, 0.05 * size, 0.4)
        return
    if hair.cut.hang:
        low = rng.uniform((-1.2, 0.0), (1.2, hair.cut.hang), (40, 2))
        flat = np.concatenate([flat, hair.head.still(low)])
    rows = [hair.shell.outline(_ROUND, hair.reach(_ROUND) * grow) for grow in (0.84, 0.64)]
    ink.line("".join(smooth(row) for row in rows), hair.dark, 0.04 * size, 0.35)
    turn = rng.uniform(0, 2 * np.pi, len(flat))
    arcs = 0.085 * size * np.stack([[np.cos(turn + a), np.sin(turn + a)] for a in (0, 1.3, 2.6, 4.0)])
    arcs = arcs.transpose(2, 0, 1) + flat[:, None]
    for half, colour, alpha in ((arcs[::2], hair.dark, 0.5), (arcs[1::2], hair.light, 0.36)):
        ink.line("".join(smooth(arc, False) for arc in half), colour, 0.034 * size, alpha)


_ROUND = np.linspace(0, 2 * np.pi, 72, endpoint=False)


def _draw_fallen(ink: Ink, hair: Hair, outer: np.ndarray) -> None:
    """Strands along the hair that hangs, beside its outer edges."""
    size = hair.head.pose.scale
    right, left = outer[30:39], outer[-9:][::-1]
    inward = np.array([size, 0.0])
    lines: tuple[list[str], list[str]] = ([], [])
    for k, share in enumerate((0.09, 0.18, 0.27, 0.36)):
        for side, edge in ((-1, right), (1, left)):
            lines[k % 2].append(smooth(edge[::2] + side * share * inward, False))
    ink.line("".join(lines[0]), hair.dark, 0.034 * size, 0.5)
    ink.line("".join(lines[1]), hair.light, 0.03 * size, 0.4)


def _draw_tied(ink: Ink, hair: Hair, behind: bool) -> None:
    kind, head = hair.cut.extra, hair.head
    if kind == "bun" and behind:
        ball = Ellipse(head.pose, np.array([0.0, -1.2, -0.42]), np.array([0.36, 0.3, 0.34]))
        _draw_ball(ink, hair, ball)
    elif kind == "tail" and behind:
        _draw_tail(ink, hair)
    elif kind == "pigtails":
        for side in (-1.0, 1.0):
            turned_away = side == head.far and abs(head.shot.yaw) > 14
            if turned_away == behind:
                _draw_pigtail(ink, hair, side)


def _draw_ball(ink: Ink, hair: Hair, ball: Ellipse) -> None:
    turn = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    size = hair.head.pose.scale
    ink.shape(smooth(ball.outline(turn)), mix(hair.base, hair.dark, 0.25))
    arcs = [
        smooth(ball.outline(np.linspace(2.6, 5.2, 6), reach), False) for reach in (0.75, 0.5, 0.3)
    ]
    ink.line("".join(arcs), hair.dark, 0.04 * size, 0.7)
    ink.soft(ball.middle - (0, 0.12 * size), 0.22 * size, 0.12 * size, hair.light, 0.6)


def _draw_tail(ink: Ink, hair: Hair) -> None:
    """High at the back, over one shoulder."""
    head, size = hair.head, hair.head.pose.scale
    lean = 1.0 if hair.part > 0 else -1.0
    if abs(head.shot.yaw) > 15:
        lean = -head.far
    base = head.pose.project(np.array([[0.0, -0.86, -0.8]]))[0]
    rise = base + (lean * 0.28 * size, -0.16 * size)
    end = head.still([[lean * 1.0, 1.5]])[0]
    outer = [base + (-lean * 0.14 * size, -0.2 * size), rise + (lean * 0.05 * size, -0.1 * size)]
    outer += [rise + (lean * 0.5 * size, 0.3 * size), end + (lean * 0.36 * size, -0.8 * size)]
    inner = [end + (lean * 0.06 * size, -0.62 * size), base + (lean * 0.36 * size, 0.55 * size)]
    points = np.array(
        [*outer, end + (lean * 0.12 * size, 0.05 * size), *inner, base + (0, 0.3 * size)]
    )
    ink.shape(smooth(points), mix(hair.base, hair.dark, 0.25))
    strand = np.array([outer[0], (outer[1] + inner[1]) / 2, (outer[3] + inner[0]) / 2, points[4]])
    ink.line(smooth(strand, False), hair.light, 0.05 * size, 0.5)
    ink.line(smooth(strand - (0.1 * size * lean, 0), False), hair.dark, 0.05 * size, 0.6)


def _draw_pigtail(ink: Ink, hair: Hair, side: float) -> None:
    head, size = hair.head, hair.head.pose.scale
    base = head.pose.project(np.array([[side * head.width * 1.06, 0.0, -0.3]]))[0]
    end = np.array([base[0] + side * 0.3 * size, head.pose.y + 1.35 * size])
    way = end - base
    side_x = side * size
    points = np.array(
        [base + (-0.08 * side_x, 0), base + (0.2 * side_x, -0.06 * size), base + 0.35 * way + (0.36 * side_x, 0), base + 0.75 * way + (0.22 * side_x, 0), end, base + 0.7 * way - (0.2 * side_x, 0), base + 0.3 * way - (0.2 * side_x, 0)]
    )  # fmt: skip
    ink.shape(smooth(points), mix(hair.base, hair.dark, 0.12))
    for shift, colour in ((0.06, hair.light), (-0.08, hair.dark)):
        line = base + np.outer([0.12, 0.45, 0.85], way) + (shift * side_x, 0)
        ink.line(smooth(line, False), colour, 0.045 * size, 0.6)
    band = np.array([base + (-0.08 * side_x, 0.06 * size), base + (0.2 * side_x, 0.02 * size)])
    ink.line(straight(band, False), (222, 60, 84), 0.13 * size)
