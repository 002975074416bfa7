"""Turn the landmarks of a face, open its mouth, lift its brows: the points of the same face in
another pose, for DynamicID's keypoint encoder.

Landmarks are flat; a mean face lends them its depth, in millimetres. There are 106, with the
indices of insightface's 2d106det, or the five of a detector, which know less of a mouth.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass, fields

import numpy as np

from .angles import MEAN_FACE, rotation
from .pack import POINTS

FIVE = len(MEAN_FACE)
POINT_COUNTS = (POINTS, FIVE)
"""How many landmarks a face can have: those of a landmark model, or those of a detector."""

FURTHEST = 60.0
"""Degrees of yaw and pitch. Beyond it half of the points are hidden, and their depth decides."""
PUPILS = 63.0
"""Millimetres between the eyes of an adult."""
PIVOT = np.array([0.0, 0.0, 70.0])
"""What a head turns about, seen from the middle between the eyes: x right, y down, z away."""
GAPE, LIFT, SPREAD, RAISE = 30.0, 8.0, 6.0, 8.0
"""Millimetres that a slider of 1 moves: the lower lip, mouth corners up and out, brows."""
WIDE = 0.6
"""By how much eyes open further at 1."""

LEFT_EYE, RIGHT_EYE = range(33, 43), range(87, 97)
LEFT_CORNERS, RIGHT_CORNERS = (35, 39), (89, 93)
BROWS = (*range(43, 52), *range(97, 106))
MOUTH = range(52, 72)
MOUTH_CORNERS = (52, 61)
LOWER_LIP = (53, 54, 55, 56, 57, 58, 59, 60)
UPPER_INSIDE, LOWER_INSIDE = (66, 62, 70), (54, 60, 57)
# From the chin to either temple.
LEFT_SIDE = (0, 8, 7, 6, 5, 4, 3, 2, 16, 15, 14, 13, 12, 11, 10, 9, 1)
RIGHT_SIDE = (0, 24, 23, 22, 21, 20, 19, 18, 32, 31, 30, 29, 28, 27, 26, 25, 17)
NOSE = {72: -10.0, 73: -17.0, 74: -24.0, 86: -30.0, 80: -18.0, 79: -15.0, 85: -15.0}
"""Depth of its ridge, tip and base; its other points have -10."""

Angles = tuple[float, float, float]


@dataclass(frozen=True)
class Sliders:
    """How a face differs from the one that was seen; 0 leaves all as it is."""

    yaw: float = 0.0
    """Degrees; positive towards the picture's right."""
    pitch: float = 0.0
    """Degrees; positive up."""
    roll: float = 0.0
    """Degrees; positive clockwise."""
    mouth: float = 0.0
    """1: opened by 30 mm; -1: closed."""
    smile: float = 0.0
    """1: corners 8 mm up and 6 mm out; -1: as much down and in."""
    eyes: float = 0.0
    """1: open 1.6 times as far; -1: shut."""
    brows: float = 0.0
    """1: raised by 8 mm; -1: lowered as much."""

    def __post_init__(self) -> None:
        for name, value in zip(SLIDERS, astuple(self), strict=True):
            low, high = limits_of(name)
            if not low <= value <= high:
                raise ValueError(f"{name} is {value:g}, expected {low:g} to {high:g}.")

    @property
    def turns(self) -> Angles:
        return self.yaw, self.pitch, self.roll


SLIDERS = tuple(field.name for field in fields(Sliders))


def limits_of(name: str) -> tuple[float, float]:
    """Least and greatest value of a slider."""
    if name in ("yaw", "pitch"):
        return -2 * FURTHEST, 2 * FURTHEST  # from one end to the other
    return (-180.0, 180.0) if name == "roll" else (-1.0, 1.0)


def _check_angles(angles: Angles, what: str) -> None:
    """Raise ValueError where landmarks of such a face cannot be turned."""
    for name, value in zip(("yaw", "pitch"), angles, strict=False):
        if not abs(value) <= FURTHEST:
            raise ValueError(
                f"{what} has a {name} of {value:.0f} degrees, expected {-FURTHEST:g} to "
                f"{FURTHEST:g}: beyond it a face's landmarks hide each other. Turn it less, or use "
                "a driving photo of such a face."
            )


def move_landmarks(
    points: np.ndarray, angles: Angles, target: Angles, sliders: Sliders
) -> np.ndarray:
    """Landmarks (106 or 5, 2) in pixels of a face with these angles -> the same face with the
    target's.

    Of the sliders only mouth, smile, eyes and brows are read. Where nothing changes the points come
    back as they are. Raises ValueError for angles beyond FURTHEST, and for sliders that move what
    five points do not show.
    """
    points = np.asarray(points, np.float64)
    few = len(points) == FIVE
    if few:
        _check_five(sliders)
    moves = any((sliders.mouth, sliders.smile, sliders.eyes, sliders.brows))
    if target == angles and not moves:
        return points
    _check_angles(angles, "The source face")
    _check_angles(target, "The target")
    seen, wanted = rotation(*angles), rotation(*target)
    depth = MEAN_FACE[:, 2] if few else _depths()
    eyes = ((0,), (1,)) if few else (LEFT_CORNERS, RIGHT_CORNERS)
    scale, centre = _measure(points, eyes, depth, seen)
    across = (points - centre) / scale - np.outer(depth, seen[:2, 2])
    face = np.linalg.solve(seen[:2, :2], across.T).T
    face = _smile(face, sliders.smile) if few else _express(face, sliders)
    solid = np.column_stack([face, depth]) - PIVOT
    moved = centre + scale * (solid @ wanted.T + seen @ PIVOT)[:, :2]
    return moved if few or target == angles else _hide_far_side(moved, wanted)


def _check_five(sliders: Sliders) -> None:
    for name in ("mouth", "eyes", "brows"):
        if value := getattr(sliders, name):
            raise ValueError(
                f"{name} is {value:g}, expected 0: this editor reads {FIVE} landmarks, the eyes, "
                "the nose and the corners of the mouth. Say it in words, or use smile."
            )


def _smile(face: np.ndarray, smile: float) -> np.ndarray:
    """(5, 2) millimetres of a face from the front, with its mouth's corners moved."""
    return face + smile * np.array([(0, 0), (0, 0), (0, 0), (-SPREAD, -LIFT), (SPREAD, -LIFT)])


def _measure(
    points: np.ndarray, eyes: tuple[tuple[int, ...], ...], depth: np.ndarray, seen: np.ndarray
) -> tuple[float, np.ndarray]:
    """Pixels per millimetre, and where the middle between the pupils is seen. eyes: the points
    whose mean is the left one, and the right one."""
    left, right = (points[list(corners)].mean(0) for corners in eyes)
    length = float(np.linalg.norm(right - left))
    if not length > 0:
        raise ValueError(
            f"Both eyes lie at {left.round(1).tolist()}, expected two places: these are no "
            "landmarks of a face. Use another photo."
        )
    scale = length / (PUPILS * float(np.linalg.norm(seen[:2, 0])))
    behind = depth[[*eyes[0], *eyes[1]]].mean()
    return scale, (left + right) / 2 - scale * behind * seen[:2, 2]


def _depths() -> np.ndarray:
    """(106,) millimetres behind the pupils of a mean face; in front of them it is negative.

    The tip of the nose and the corners of the mouth are those of `angles.MEAN_FACE`.
    """
    depth = np.zeros(POINTS)
    for side in (LEFT_SIDE, RIGHT_SIDE):
        along = np.linspace(0.0, 1.0, len(side))
        depth[list(side)] = -8.0 + 78.0 * along**1.3
    depth[[LEFT_CORNERS[0], RIGHT_CORNERS[1]]] = 6.0
    depth[list(BROWS)] = -6.0
    depth[range(72, 87)] = -10.0
    depth[list(NOSE)] = list(NOSE.values())
    depth[list(MOUTH)] = -14.0
    depth[list(MOUTH_CORNERS)] = -6.0
    return depth


def _express(face: np.ndarray, sliders: Sliders) -> np.ndarray:
    """(106, 2) millimetres of a face from the front -> the same with another expression."""
    face = face.copy()
    corners = face[list(MOUTH_CORNERS)]
    middle, half = corners.mean(0), max(abs(corners[1, 0] - corners[0, 0]) / 2, 1.0)
    sideways = np.clip((face[:, 0] - middle[0]) / half, -1.0, 1.0)
    moved = np.zeros_like(face)
    if sliders.smile:
        lips = list(MOUTH)
        moved[lips, 0] += SPREAD * sliders.smile * sideways[lips]
        moved[lips, 1] -= LIFT * sliders.smile * sideways[lips] ** 2
    if sliders.mouth:
        lower, upper = face[list(LOWER_INSIDE), 1].mean(), face[list(UPPER_INSIDE), 1].mean()
        gap = GAPE if sliders.mouth > 0 else max(lower - upper, 0.0)
        lips = list(LOWER_LIP)
        moved[lips, 1] += gap * sliders.mouth * (1 - sideways[lips] ** 2)
        for side in (LEFT_SIDE, RIGHT_SIDE):
            along = np.linspace(0.0, 1.0, len(side))
            moved[list(side), 1] = gap * sliders.mouth * (1 - along) ** 2
    moved[list(BROWS), 1] -= RAISE * sliders.brows
    opened = 1 + sliders.eyes * (WIDE if sliders.eyes > 0 else 1.0)
    for eye, ends in ((LEFT_EYE, LEFT_CORNERS), (RIGHT_EYE, RIGHT_CORNERS)):
        moved[list(eye)] += (opened - 1) * _off_line(face[list(eye)], face[list(ends)])
    return face + moved


def _off_line(points: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """What leads from the line through both ends to each of the points (N, 2)."""
    along = ends[1] - ends[0]
    along = along / max(float(np.linalg.norm(along)), 1e-6)
    away = points - ends[0]
    return away - np.outer(away @ along, along)


def _hide_far_side(points: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """The outline on the side that turned away stays on what can be seen, as detectors draw it."""
    away = float(wanted[2, 0])  # above 0: towards the picture's right
    side, sign = (RIGHT_SIDE, 1.0) if away > 0 else (LEFT_SIDE, -1.0)
    points, side = points.copy(), list(side)
    along = wanted[:2, 0] / np.linalg.norm(wanted[:2, 0])  # from its left to its right
    across = sign * (points[side] @ along)
    hidden = np.maximum.accumulate(across) - across
    hidden[: len(side) // 2] = 0.0  # the jaw below does turn inwards
    points[side] += np.outer(sign * min(2 * abs(away), 1.0) * hidden, along)
    return points


def describe_angles(angles: Angles) -> str:
    """Yaw, pitch and roll in whole degrees."""
    yaw, pitch, roll = map(round, angles)
    return f"yaw {yaw:+d}, pitch {pitch:+d}, roll {roll:+d} degrees"
