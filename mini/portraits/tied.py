"""Hair that is tied: a bun, a tail, pigtails."""

import numpy as np

from .colour import mix
from .geometry import Ellipse
from .hair_shape import Hair
from .ink import Ink, smooth, straight


def draw_tied(ink: Ink, hair: Hair, behind: bool) -> None:
    """The part behind neck and shoulders, or the part before them."""
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
    end = head.place_body([[lean * 1.0, 1.5]])[0]
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
    outer = [base + (0.2 * side_x, -0.06 * size), base + 0.35 * way + (0.36 * side_x, 0)]
    outer += [base + 0.75 * way + (0.22 * side_x, 0), end]
    inner = [base + share * way - (0.2 * side_x, 0) for share in (0.7, 0.3)]
    points = np.array([base + (-0.08 * side_x, 0), *outer, *inner])
    ink.shape(smooth(points), mix(hair.base, hair.dark, 0.12))
    for shift, colour in ((0.06, hair.light), (-0.08, hair.dark)):
        line = base + np.outer([0.12, 0.45, 0.85], way) + (shift * side_x, 0)
        ink.line(smooth(line, False), colour, 0.045 * size, 0.6)
    band = np.array([base + (-0.08 * side_x, 0.06 * size), base + (0.2 * side_x, 0.02 * size)])
    ink.line(straight(band, False), (222, 60, 84), 0.13 * size)
