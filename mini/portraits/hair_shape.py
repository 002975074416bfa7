"""The shapes of hair: a grown skull with an opening for the face, and what hangs from it."""

import numpy as np

from .colour import RGB, luma, mix, shade, tint
from .cuts import CUTS, Cut
from .geometry import Head, lerp
from .ink import Ink
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
        flat = self.shell.push_out(ring)
        size = self.head.pose.scale
        if self.cut.hang:
            wide = 0.62 if self.cut.hang > 1.2 else 1.6
            gap = self.head.place_body(
                [[wide, 1.45], [wide + 0.1, 3.2], [-wide - 0.1, 3.2], [-wide, 1.45]]
            )
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
