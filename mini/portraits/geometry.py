"""A head in space: its surface, its turn, and where its points fall in the picture.

Head units: the origin lies between the eyes at the depth of the ears; x to the picture's right,
y down, z towards the viewer; the chin is near y = 1, the ears near |x| = 0.8. Pictures are
128 units wide and high whatever their size in pixels.
"""

from dataclasses import dataclass

import cv2
import numpy as np

from .looks import Look, look
from .persons import Person
from .shots import Framing, Shot

UNITS = 128.0
_PIVOT = np.array([0.0, 0.5, -0.25])  # the top of the neck
_DEPTH = 0.05  # how much larger a point one unit nearer is drawn
_ROWS = np.linspace(-0.95, 1.25, 67)


def lerp(low: float, high: float, share: float) -> float:
    """low at 0, high at 1."""
    return low + (high - low) * share


@dataclass(frozen=True)
class Pose:
    """The turn of a head and its place; `scale` is the length of a head unit in picture units."""

    matrix: np.ndarray
    x: float
    y: float
    scale: float

    def turn(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) in the head -> (N, 3) after the turn, still in head units."""
        return (points - _PIVOT) @ self.matrix.T + _PIVOT

    def project(self, points: np.ndarray) -> np.ndarray:
        """(N, 3) in the head -> (N, 2) in the picture."""
        return self.flat(self.turn(np.asarray(points, dtype=float)))

    def flat(self, turned: np.ndarray) -> np.ndarray:
        """(N, 3) after the turn -> (N, 2) in the picture."""
        near = self.scale * (1 + _DEPTH * turned[:, 2:])
        return turned[:, :2] * near + (self.x, self.y)


def pose(shot: Shot, framing: Framing) -> Pose:
    """Pitch first, then yaw, then roll, about the top of the neck."""
    yaw, pitch, roll = np.radians([shot.yaw, shot.pitch, shot.roll])
    (sy, sp, sr), (cy, cp, cr) = np.sin([yaw, pitch, roll]), np.cos([yaw, pitch, roll])
    about_x = np.array([[1, 0, 0], [0, cp, -sp], [0, sp, cp]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cr, -sr, 0], [sr, cr, 0], [0, 0, 1]])
    x, y, scale = framing.x * UNITS, framing.y * UNITS, framing.scale * UNITS
    return Pose(about_z @ about_y @ about_x, x, y, scale)


def _smooth(knots: list[tuple[float, float]]) -> np.ndarray:
    """Values at _ROWS of a smooth curve through (y, value) knots (Catmull-Rom slopes)."""
    ys, values = np.array(knots).T
    slopes = np.gradient(values, ys)
    place = np.clip(np.searchsorted(ys, _ROWS) - 1, 0, len(ys) - 2)
    gap = ys[place + 1] - ys[place]
    t = np.clip((_ROWS - ys[place]) / gap, 0, 1)
    start, end = values[place], values[place + 1]
    bend = slopes[place] * gap, slopes[place + 1] * gap
    keep = (1 + 2 * t) * (1 - t) ** 2 * start + t * t * (3 - 2 * t) * end
    return keep + t * (1 - t) ** 2 * bend[0] - t * t * (1 - t) * bend[1]


class Head:
    """One person's head in one shot."""

    def __init__(self, who: Person, shot: Shot, framing: Framing) -> None:
        self.who, self.shot, self.look = who, shot, look(shot)
        self.pose = pose(shot, framing)
        self.far = 1.0 if shot.yaw > 0 else -1.0  # the side (of x) turned away
        self.young = 1.0 if who.age == "child" else 0.0
        self._measure(who, self.look)
        self._shape(who)

    def _measure(self, who: Person, moves: Look) -> None:
        young = self.young
        self.width = lerp(0.66, 0.86, who.face_width) + 0.03 * young
        self.long = lerp(0.9, 1.1, who.face_length) - 0.07 * young
        self.hairline = lerp(-0.5, -0.72, who.forehead)
        self.eye_x = self.width * lerp(0.42, 0.53, who.eye_spacing)
        self.eye_y = lerp(-0.035, 0.045, who.eye_height) + 0.04 * young
        self.eye_a = lerp(0.175, 0.225, who.eye_size) + 0.025 * young
        self.nose_y = self.long * lerp(0.33, 0.46, who.nose_length) - 0.03 * young
        self.mouth_y = self.nose_y + lerp(0.19, 0.27, who.mouth_height) * self.long
        self.chin_y = self.long + moves.jaw

    def _shape(self, who: Person) -> None:
        wide, long, chin = self.width, self.long, self.chin_y
        jaw = lerp(0.7, 0.98, who.jaw) - (0.05 if who.gender == "woman" else 0.0)
        tip = lerp(0.26, 0.56, who.chin)
        cheek = lerp(0.94, 1.06, who.cheek) + 0.04 * self.young
        knots = [
            (-0.95, 0.62),
            (-0.6, 0.88),
            (-0.25, 0.97),
            (0.15, cheek),
            (0.4 * long, cheek * 0.96),
        ]
        knots += [(0.66 * long, jaw), (chin * 0.86, 0.45 * jaw + 0.55 * tip)]
        self._wide = _smooth([(y, value * wide) for y, value in [*knots, (chin, tip * 0.7)]])
        low = 1 - np.clip((_ROWS - 0.82 * chin) / (0.18 * chin), 0, 1) ** 3
        self._wide *= np.sqrt(np.maximum(low, 0.01))  # the round end of the chin
        front = [(-0.95, 0.3), (-0.6, 0.66), (-0.2, 0.76), (0.1, 0.75), (0.45 * long, 0.8)]
        self._front = _smooth([*front, (0.75 * long, 0.78), (chin * 0.95, 0.74), (chin, 0.62)])
        edge = [(-0.95, -0.05), (-0.5, 0.12), (-0.1, 0.1), (0.2, 0.02), (0.6 * long, 0.06)]
        self._edge = _smooth([*edge, (chin * 0.85, 0.32), (chin, 0.48)])
        self.skull = np.array([0.0, -0.2, -0.14]), np.array([wide * 0.99, 0.86, 0.92])

    def place_body(self, points: object) -> np.ndarray:
        """(N, 2) head units of the body, which does not turn -> (N, 2) in the picture.

        The shoulders lie lower under a longer face.
        """
        down = (self.long - 1.0) * 0.85 - 0.08
        place = np.asarray(points, dtype=float) + (0.0, down)
        return place * self.pose.scale + (self.pose.x, self.pose.y)

    def half(self, y: np.ndarray | float) -> np.ndarray:
        """Half the width of the face at height y."""
        return np.interp(y, _ROWS, self._wide)

    def surface(self, points: np.ndarray, lift: np.ndarray | float = 0.0) -> np.ndarray:
        """(N, 2) seen from the front -> (N, 3) on the face, `lift` in front of it."""
        x, y = points[:, 0], points[:, 1]
        edge, front = np.interp(y, _ROWS, self._edge), np.interp(y, _ROWS, self._front)
        share = np.minimum(np.abs(x) / self.half(y), 1.0)
        z = edge + (front - edge) * (1 - share**2.2) ** (1 / 2.2)
        return np.stack([x, y, z + lift], 1)

    def map(self, points: object, lift: np.ndarray | float = 0.0) -> np.ndarray:
        """(N, 2) seen from the front -> (N, 2) in the picture."""
        return self.pose.project(self.surface(np.asarray(points, dtype=float), lift))

    def rim(self, points: object, out: float = 0.03) -> np.ndarray:
        """As `map`, but what is turned behind the outline is moved `out` beyond the outline.

        For areas that end at the edge of the face: without it a strip of skin would stay bare.
        """
        points = np.asarray(points, dtype=float)
        shares = np.linspace(1.0, 0.0, 9)
        tried = (points[:, None] * np.stack([shares, np.ones(9)], 1)).reshape(-1, 2)
        turned = self.pose.turn(self.surface(tried)).reshape(len(points), 9, 3)
        right = self.pose.matrix[:2, 0] / np.linalg.norm(self.pose.matrix[:2, 0])
        aside = (turned[:, :, :2] @ right) * np.sign(points[:, :1])
        best = aside.argmax(1)
        found = turned[np.arange(len(points)), best]
        found[:, :2] += ((best > 0) * np.sign(points[:, 0]) * out)[:, None] * right
        return self.pose.flat(found)

    def disc(self, x: float, y: float, rx: float, ry: float, lift: float = 0.0) -> np.ndarray:
        """(12, 2) points of an ellipse on the face."""
        return self.map(_RING * (rx, ry) + (x, y), lift)

    def face_outline(self) -> np.ndarray:
        """(N, 2) the outline of the face in the picture, clockwise or not, no point twice."""
        rows = self.chin_y - (self.chin_y + 0.76) * np.linspace(0, 1, 24) ** 1.5
        grid = np.stack(np.meshgrid(rows, _ACROSS, indexing="ij"), -1).reshape(-1, 2)
        grid = np.stack([grid[:, 1] * self.half(grid[:, 0]), grid[:, 0]], 1)
        return hull(self.map(grid))

    def visible_face(self) -> np.ndarray:
        """(N, 2) in the picture: the surface from forehead to chin that is turned to the viewer."""
        y = np.linspace(self.hairline, self.chin_y, 14)
        grid = np.stack(np.meshgrid(y, _ACROSS, indexing="ij"), -1).reshape(-1, 2)
        grid = np.stack([grid[:, 1] * self.half(grid[:, 0]), grid[:, 0]], 1)
        turned = self.pose.turn(self.surface(grid))
        return self.pose.flat(turned[turned[:, 2] > 0.0])

    def ellipse(self, grow: np.ndarray | float = 0.0, shift: object = 0.0) -> "Ellipse":
        """The outline of the skull's ellipsoid, grown and shifted in head units."""
        centre, radii = self.skull
        return Ellipse(self.pose, centre + shift, radii + grow)


_TURN = np.linspace(0, 2 * np.pi, 12, endpoint=False)
_RING = np.stack([np.cos(_TURN), np.sin(_TURN)], 1)
_ACROSS = np.array([-1.0, -0.95, -0.85, -0.6, -0.3, 0.0, 0.3, 0.6, 0.85, 0.95, 1.0])


def hull(points: np.ndarray) -> np.ndarray:
    """(N, 2) the convex hull of points."""
    return cv2.convexHull(points.astype(np.float32))[:, 0].astype(float)


class Ellipse:
    """The outline of a turned ellipsoid in the picture."""

    def __init__(self, pose: Pose, centre: np.ndarray, radii: np.ndarray) -> None:
        self.pose, self.centre, self.radii = pose, centre, radii
        spread = pose.matrix * radii
        turned = pose.turn(centre[None])
        near = pose.scale * (1 + _DEPTH * turned[0, 2])
        self.root = np.linalg.cholesky(spread[:2] @ spread[:2].T) * near
        self.middle = pose.flat(turned)[0]

    def outline(self, angles: np.ndarray, reach: np.ndarray | float = 1.0) -> np.ndarray:
        """(N, 2) at angles (radians, 0 right, clockwise in the picture), `reach` 1 on the edge."""
        ring = np.stack([np.cos(angles), np.sin(angles)], 1)
        away = ring @ np.linalg.inv(self.root).T
        length = np.linalg.norm(away, axis=1)
        return self.middle + ring / length[:, None] * np.reshape(reach, (-1, 1))

    def on(self, directions: np.ndarray) -> np.ndarray:
        """(N, 3) unit directions in the head -> (N, 3) on the ellipsoid."""
        return self.centre + directions * self.radii

    def push_out(self, points: np.ndarray, push: float = 0.5) -> np.ndarray:
        """(N, 3) in the head -> (N, 2); points turned to the back move outside the outline."""
        turned = self.pose.turn(points)
        flat = self.pose.flat(turned)
        behind = np.clip(-(turned[:, 2] - self.pose.turn(self.centre[None])[0, 2]) * 4, 0, 1)
        away = (flat - self.middle) @ np.linalg.inv(self.root).T
        length = np.maximum(np.linalg.norm(away, axis=1), 1e-6)
        wanted = np.where(behind > 0, np.maximum(length, 1 + push * behind), length)
        return self.middle + (flat - self.middle) * (wanted / length)[:, None]
