"""Writes SVG: shapes, lines, soft spots, gradients, clips."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .colour import RGB, css


@dataclass(frozen=True)
class Pen:
    """How a style draws: outline width in picture units (0 none), its colour, soft shading 0..1."""

    width: float = 0.0
    colour: RGB = (30, 24, 28)
    soft: float = 1.0


PENS = {
    "photo": Pen(),
    "sketch": Pen(0.75, (40, 38, 40), 0.9),
    "oil": Pen(0.35, (58, 36, 26), 1.0),
    "comic": Pen(1.25, (18, 14, 20), 0.75),
    "watercolour": Pen(0.4, (96, 80, 78), 0.7),
}


_START = "M{:.2f} {:.2f}".format
_CURVE = "C{:.2f} {:.2f} {:.2f} {:.2f} {:.2f} {:.2f}".format


def dots(points: np.ndarray) -> str:
    """A path of round dots at (N, 2) points when it is stroked."""
    return "".join("M{:.2f} {:.2f}h.01".format(*row) for row in np.asarray(points).tolist())


def smooth(points: np.ndarray, closed: bool = True, tension: float = 1.0) -> str:
    """A path of cubic curves through (N, 2) points (Catmull-Rom); tension 0 gives straight."""
    points = np.asarray(points, dtype=float)
    ends = (points[-1:], points, points[:2]) if closed else (points[:1], points, points[-1:])
    padded = np.concatenate(ends)  # with neighbours on both sides of every point
    slope = (padded[2:] - padded[:-2]) * (tension / 6)
    start, end = padded[1:-2], padded[2:-1]
    curves = np.concatenate([start + slope[:-1], end - slope[1:], end], 1)
    body = "".join(map(_CURVE, *curves.T.tolist()))
    return _START(*points[0].tolist()) + body + ("Z" if closed else "")


def straight(points: np.ndarray, closed: bool = True) -> str:
    """A path of straight lines through (N, 2) points."""
    body = "L".join("{:.2f} {:.2f}".format(*row) for row in np.asarray(points).tolist())
    return "M" + body + ("Z" if closed else "")


def bezier(points: np.ndarray, closed: bool = True) -> str:
    """A path of cubic curves from (1 + 3 n, 2): start, then two handles and an end for each."""
    rows = np.asarray(points).tolist()
    body = "".join(_CURVE(*rows[k], *rows[k + 1], *rows[k + 2]) for k in range(1, len(rows) - 2, 3))
    return _START(*rows[0]) + body + ("Z" if closed else "")


class Ink:
    """Collects the elements of one picture."""

    def __init__(self, pen: Pen, prefix: str = "s") -> None:
        """`prefix` tells the names of two inks in one document apart."""
        self.pen, self._prefix = pen, prefix
        self._defs: list[str] = []
        self._body: list[str] = []
        self._spots: dict[RGB, str] = {}

    def _name(self) -> str:
        return f"{self._prefix}{len(self._defs)}"

    def add(self, element: str) -> None:
        """Any element, as it is."""
        self._body.append(element)

    def shape(self, path: str, fill: RGB | str, opacity: float = 1.0, outline: float = 1.0) -> None:
        """A filled path, outlined where the style outlines (`outline` times the pen's width)."""
        colour = fill if isinstance(fill, str) else css(fill)
        alpha = f' fill-opacity="{opacity:.2f}"' if opacity < 1 else ""
        self._body.append(f'<path d="{path}" fill="{colour}"{alpha}/>')
        if self.pen.width and outline:
            self.line(path, self.pen.colour, self.pen.width * outline)

    def line(self, path: str, colour: RGB, width: float, opacity: float = 1.0) -> None:
        """A stroked path; width in picture units."""
        alpha = f' stroke-opacity="{opacity:.2f}"' if opacity < 1 else ""
        self._body.append(
            f'<path d="{path}" fill="none" stroke="{css(colour)}" stroke-width="{width:.2f}"'
            f' stroke-linecap="round" stroke-linejoin="round"{alpha}/>'
        )

    def soft(
        self, at: np.ndarray, rx: float, ry: float, colour: RGB, opacity: float, turn: float = 0.0
    ) -> None:
        """A spot that fades to nothing at its edge; turn in degrees."""
        opacity *= self.pen.soft
        if opacity < 0.02 or rx < 0.2 or ry < 0.2:
            return
        if colour not in self._spots:
            name = self._name()
            self._defs.append(
                f'<radialGradient id="{name}"><stop stop-color="{css(colour)}"/>'
                f'<stop offset=".5" stop-color="{css(colour)}" stop-opacity=".55"/>'
                f'<stop offset="1" stop-color="{css(colour)}" stop-opacity="0"/></radialGradient>'
            )
            self._spots[colour] = name
        x, y = float(at[0]), float(at[1])
        spin = f' transform="rotate({turn:.1f} {x:.2f} {y:.2f})"' if turn else ""
        fill = f"url(#{self._spots[colour]})"
        self._body.append(  # it fades out: a smooth edge would only cost time
            f'<ellipse shape-rendering="crispEdges" cx="{x:.2f}" cy="{y:.2f}" rx="{rx:.2f}"'
            f' ry="{ry:.2f}"{spin} fill="{fill}" fill-opacity="{opacity:.2f}"/>'
        )

    def gradient(
        self,
        start: Sequence[float],
        end: Sequence[float],
        stops: Sequence[tuple[float, RGB, float]],
    ) -> str:
        """A linear gradient between two points of the picture; stops of (place, colour, opacity).

        Returns a fill.
        """
        name = self._name()
        inner = "".join(
            f'<stop offset="{place}" stop-color="{css(colour)}" stop-opacity="{alpha:.2f}"/>'
            for place, colour, alpha in stops
        )
        self._defs.append(
            f'<linearGradient id="{name}" gradientUnits="userSpaceOnUse" x1="{start[0]:.1f}"'
            f' y1="{start[1]:.1f}" x2="{end[0]:.1f}" y2="{end[1]:.1f}">{inner}</linearGradient>'
        )
        return f"url(#{name})"

    def open_clip(self, path: str, evenodd: bool = False) -> None:
        """What follows shows only inside the path, until `close`."""
        name = self._name()
        rule = ' clip-rule="evenodd"' if evenodd else ""
        self._defs.append(f'<clipPath id="{name}"><path d="{path}"{rule}/></clipPath>')
        self._body.append(f'<g clip-path="url(#{name})">')

    def open_blur(self, deviation: float) -> None:
        """What follows is blurred, until `close`; deviation in picture units."""
        name = self._name()
        self._defs.append(
            f'<filter id="{name}" x="-.1" y="-.1" width="1.2" height="1.2">'
            f'<feGaussianBlur stdDeviation="{deviation}"/></filter>'
        )
        self._body.append(f'<g filter="url(#{name})">')

    def close(self) -> None:
        """End of a clip or blur."""
        self._body.append("</g>")

    def text(self, size: int, over: "Ink | None" = None) -> str:
        """The SVG document; with what another ink drew over it."""
        inks = [self, over] if over else [self]
        defs = "".join("".join(ink._defs) for ink in inks)
        body = "".join("".join(ink._body) for ink in inks)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{size}" height="{size}"'
            f' viewBox="0 0 128 128"><defs>{defs}</defs>{body}</svg>'
        )
