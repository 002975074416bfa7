"""Hair: what is behind the shoulders, and what is before the skull."""

import numpy as np

from .colour import luma, mix, shade
from .cuts import CUTS
from .geometry import Head
from .hair_shape import Hair, cut_of
from .ink import Ink, bezier, dots, smooth, straight
from .skin import Light
from .tied import draw_tied


def draw_behind(ink: Ink, head: Head) -> None:
    """What is behind neck and shoulders."""
    cut = cut_of(head)
    if cut is None:
        return
    hair = Hair(head, cut)
    if cut.hang or cut.side > 0.1:
        depth = 1.0 if cut.hang else 0.35  # a mass around the head is lit; a curtain is not
        ink.shape(smooth(hair.outline()), mix(hair.base, hair.dark, depth))
    if cut.extra:
        draw_tied(ink, hair, behind=True)


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
        draw_tied(ink, hair, behind=False)


def _draw_shadow(ink: Ink, hair: Hair) -> None:
    """The shadow of the front hair on the forehead."""
    if hair.cut.line == "receding" or ink.pen.soft < 0.5:
        return
    line = hair.hairline()[2:-2]
    low = hair.shell.push_out(line + (0, 0.05, -0.03))
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
    ends = [*outer[1::4], *hair.shell.push_out(hair.hairline()[1::2])]
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
        part = hair.front(
            np.array([hair.part * head.width * 0.9]), np.array([head.hairline - 0.05])
        )
        way = np.array([hair.shell.push_out(part)[0], start])
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
    flat = hair.head.pose.project(points[hair.head.pose.turn(points)[:, 2] > -0.2])
    if fuzz:
        ink.line(dots(flat[::2]), hair.dark, 0.06 * size, 0.5)
        ink.line(dots(flat[1::2]), hair.light, 0.05 * size, 0.4)
        return
    if hair.cut.hang:
        low = rng.uniform((-1.2, 0.0), (1.2, hair.cut.hang), (40, 2))
        flat = np.concatenate([flat, hair.head.place_body(low)])
    rows = [hair.shell.outline(_ROUND, hair.reach(_ROUND) * grow) for grow in (0.84, 0.64)]
    ink.line("".join(smooth(row) for row in rows), hair.dark, 0.04 * size, 0.35)
    turn = rng.uniform(0, 2 * np.pi, len(flat))
    arcs = (
        0.085 * size * np.stack([[np.cos(turn + a), np.sin(turn + a)] for a in (0, 1.3, 2.6, 4.0)])
    )
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
