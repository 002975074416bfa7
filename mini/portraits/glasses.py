"""Glasses."""

import numpy as np

from .colour import WHITE, shade, tint
from .geometry import Head
from .ink import Ink, smooth
from .persons import FRAMES

_TURN = np.linspace(0, 2 * np.pi, 20, endpoint=False)


def _lens(kind: str) -> tuple[np.ndarray, float]:
    """(20, 2) the rim about its middle, x outwards, in half-widths of an eye; its line width."""
    cos, sin = np.cos(_TURN), np.sin(_TURN)
    if kind == "round":
        return np.stack([1.2 * cos, 1.14 * sin], 1), 0.05
    if kind == "aviator":
        ring = np.stack([1.34 * cos, 1.08 * sin + 0.14], 1)
        ring[:, 0] += 0.2 * sin * (sin > 0)
        return ring, 0.038
    boxy = np.stack([np.sign(cos) * np.abs(cos) ** 0.5, np.sign(sin) * np.abs(sin) ** 0.5], 1)
    if kind == "cat-eye":
        ring = boxy * (1.28, 0.9)
        ring[:, 1] -= 0.5 * np.clip(cos, 0, 1) * (sin < 0.2) * np.abs(sin - 0.2)
        return ring, 0.075
    if kind == "thick":
        return boxy * (1.32, 1.06), 0.115
    return boxy * (1.3, 0.86), 0.052


def draw_glasses(ink: Ink, head: Head) -> None:
    """Two rims in a plane before the eyes, the bridge, and the arm that can be seen."""
    if head.who.glasses == "none":
        return
    shape, width = _lens(head.who.glasses)
    colour, size = FRAMES[head.who.frame], head.pose.scale
    middle = np.array([head.eye_x * 1.02, head.eye_y + 0.035])
    scale = min(head.eye_a * 1.08, (head.eye_x - 0.06) / np.abs(shape[:, 0]).max())
    _draw_arm(ink, head, shade(colour, 0.2), width)
    for side in (-1.0, 1.0):
        ring = shape * scale * (1, 1.12) + middle
        rim = smooth(_place(head, ring * (side, 1)))
        dark = head.who.glasses == "aviator"
        ink.shape(rim, (70, 60, 50) if dark else WHITE, 0.22 if dark else 0.1, outline=0)
        glare = _place(
            head,
            (np.array([[-0.75, 0.35], [0.1, -0.7], [0.45, -0.75], [-0.55, 0.6]]) * scale + middle)
            * (side, 1),
        )
        ink.shape(smooth(glare, tension=0.2), WHITE, 0.26, outline=0)
        ink.line(rim, colour, width * size)
        ink.line(rim, tint(colour, 0.4), 0.25 * width * size, 0.5)
    inner = middle[0] - np.abs(shape[:, 0]).max() * scale
    bridge = np.array(
        [[-inner, middle[1] - 0.03], [0.0, middle[1] - 0.085], [inner, middle[1] - 0.03]]
    )
    ink.line(smooth(_place(head, bridge), False), colour, max(0.045, 0.8 * width) * size)


def _place(head: Head, points: np.ndarray) -> np.ndarray:
    """(N, 2) seen from the front -> (N, 2) in the picture, on a plane bent towards the ears."""
    front = head.surface(np.array([[0.0, head.eye_y]]))[0, 2] + 0.1
    depth = front - 0.55 * np.abs(points[:, 0]) ** 1.8
    return head.pose.project(np.concatenate([points, depth[:, None]], 1))


def _draw_arm(ink: Ink, head: Head, colour: tuple[int, int, int], width: float) -> None:
    near = -head.far
    x = near * (head.eye_x + head.eye_a * 1.25)
    start = np.array([[x, head.eye_y - 0.02]])
    hinge = _place(head, start)[0]
    ear = head.pose.project(np.array([[near * head.width * 0.99, head.eye_y - 0.05, 0.0]]))[0]
    ink.line(
        smooth(np.array([hinge, ear]), False), colour, max(0.045, 0.7 * width) * head.pose.scale
    )
