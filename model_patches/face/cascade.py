"""The bundled detector: scikit-image's frontal cascade. Needs no download.

The cascade answers yes or no per window and brings neither score nor points. Both are made here:
a true face is confirmed by many neighbouring windows, and by most of them when the head is
upright, so candidates are looked at again at several roll angles, and the count of agreeing
windows gives the score, the angle, and a steadier box. The five points are those of a mean face
in that box: good enough to crop, not a measurement.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from .boxes import Detection, inside, keep_best, overlap, shrink
from .packages import need

# Left eye, right eye, nose, mouth corners in fractions of the cascade's box, averaged by eye over
# the public-domain and packaged photos that the tests use.
MEAN_POINTS = np.array([(0.305, 0.38), (0.695, 0.38), (0.5, 0.595), (0.345, 0.775), (0.655, 0.775)])
SMALLEST = 24
"""Side of the cascade's own window, in pixels."""
LARGEST_ZOOM = 4
SIZES = (320, 512)
CANDIDATES = 16
LOOK = 160
"""Side of the second look, in pixels; the face is FACE wide in it."""
FACE = 72
ROLLS = (-36.0, -24.0, -12.0, 0.0, 12.0, 24.0, 36.0)
AGREEING = 40
"""Windows that make a score of one half. Faces give 42 to 130, background less than 38."""
PROMISING = 8
"""Windows at the nearest of every second roll, below which a candidate is given up."""
SHARP = 30
"""Side below which more must agree: a small patch is smooth, and agrees with itself."""
TILTS = (-25.0, 25.0)
"""The cascade itself only knows heads within about 15 degrees of upright."""


class Cascade(Protocol):
    """What is used of scikit-image's Cascade."""

    def detect_multi_scale(
        self,
        img: np.ndarray,
        scale_factor: float,
        step_ratio: float,
        min_size: tuple[float, float],
        max_size: tuple[float, float],
        min_neighbor_number: int,
        intersection_score_threshold: float,
    ) -> list[dict[str, int]]:
        """Windows with their r, c, width and height."""
        ...


@dataclass(frozen=True)
class CascadeDetector:
    """scikit-image's local-binary-pattern cascade for frontal faces."""

    cascade: Cascade = field(repr=False)
    name: str = "lbp cascade (bundled, five points estimated from the box)"
    tried: str = "long side 320 and 512, then 1280, then with a border of half the photo"

    def find(self, rgb: np.ndarray) -> list[Detection]:
        """See `Detector.find`. Finds frontal faces within about 35 degrees of upright."""
        cv2 = need("cv2")
        small, scale = shrink(rgb)
        grey = cv2.cvtColor(np.ascontiguousarray(small), cv2.COLOR_RGB2GRAY)
        found = self._search(grey, SIZES)
        if not found and max(grey.shape) > SIZES[-1]:
            found = self._search(grey, (max(grey.shape),))
        if not found:
            # A face that fills the frame leaves the window no room.
            pad = max(grey.shape) // 2
            padded = cv2.copyMakeBorder(grey, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
            found = [(box - pad, roll, count) for box, roll, count in self._search(padded, SIZES)]
        made = (self._detection(item, scale, rgb.shape) for item in found)
        return [detection for detection in made if detection]

    def _search(self, grey: np.ndarray, sizes: tuple[int, ...]) -> list[tuple]:
        windows = [self._windows_at(grey, size) for size in sizes]
        windows += [self._windows_tilted(grey, sizes[0], roll) for roll in TILTS]
        candidates = _clusters(np.concatenate(windows))[:CANDIDATES]
        looked = [self._look(grey, box) for _, box in candidates]
        faces = [item for item in looked if item[2] >= _count_needed(item[0])]
        if not faces:
            return []
        order = keep_best(
            np.stack([box for box, _, _ in faces]), [_score(*one) for one in faces], 0.3
        )
        return [faces[index] for index in order]

    def _windows_at(self, grey: np.ndarray, long_side: int) -> np.ndarray:
        cv2 = need("cv2")
        zoom = min(long_side / max(grey.shape), LARGEST_ZOOM)
        size = max(1, round(grey.shape[1] * zoom)), max(1, round(grey.shape[0] * zoom))
        how = cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR
        return self._windows(cv2.resize(grey, size, interpolation=how), 1.1) / zoom

    def _windows_tilted(self, grey: np.ndarray, long_side: int, roll: float) -> np.ndarray:
        """Windows of the photo turned upright for heads that tilt by `roll` degrees."""
        cv2 = need("cv2")
        height, width = grey.shape
        reach = np.abs(_turn(roll)) @ (width, height)
        zoom = min(long_side / max(width, height), LARGEST_ZOOM)
        matrix = _turn(roll).T * zoom
        middle = reach * zoom / 2
        affine = np.hstack([matrix, (middle - matrix @ (width / 2, height / 2))[:, None]])
        small, scale = shrink(grey, max(1, round(2 * zoom * max(width, height))))
        affine[:, :2] /= scale
        size = [max(1, math.ceil(value * zoom)) for value in reach]
        turned = cv2.warpAffine(small, affine, size, borderMode=cv2.BORDER_REPLICATE)
        windows = self._windows(turned, 1.1)
        centres = ((windows[:, :2] + windows[:, 2:]) / 2 - middle) / zoom @ _turn(roll).T
        centres += (width / 2, height / 2)
        half = (windows[:, 2:] - windows[:, :2]) / 2 / zoom
        return np.hstack([centres - half, centres + half])

    def _windows(
        self, grey: np.ndarray, step: float, smallest: float = SMALLEST, largest: float = 1e6
    ) -> np.ndarray:
        """Every window that passes: (N, 4) x0, y0, x1, y1."""
        largest = min(largest, *grey.shape)
        if largest < SMALLEST:
            return np.zeros((0, 4))
        passed = self.cascade.detect_multi_scale(
            grey,
            scale_factor=step,
            step_ratio=1.0,
            min_size=(smallest, smallest),
            max_size=(largest, largest),
            min_neighbor_number=1,
            # No two windows can share twice their area: keeps scikit-image from merging them.
            intersection_score_threshold=2.0,
        )
        rows = [(w["c"], w["r"], w["c"] + w["width"], w["r"] + w["height"]) for w in passed]
        return np.array(rows, np.float64).reshape(-1, 4)

    def _look(self, grey: np.ndarray, box: np.ndarray) -> tuple[np.ndarray, float, int]:
        """Look again at several rolls: a steadier box, the roll in degrees, agreeing windows."""
        counts = np.zeros(len(ROLLS), int)
        counts[1::2] = [len(self._find_agreeing(grey, box, roll)) for roll in ROLLS[1::2]]
        if counts.max() < PROMISING:
            return box, 0.0, 0
        counts[::2] = [len(self._find_agreeing(grey, box, roll)) for roll in ROLLS[::2]]
        best = int(counts.argmax())
        near = slice(max(best - 1, 0), best + 2)
        roll = float(np.average(ROLLS[near], weights=counts[near]))
        agreeing = self._find_agreeing(grey, box, roll)
        count = max(len(agreeing), int(counts[best]))
        return (_settle(box, roll, agreeing) if len(agreeing) else box), roll, count

    def _find_agreeing(self, grey: np.ndarray, box: np.ndarray, roll: float) -> np.ndarray:
        """Windows of the upright look, and of its mirror image, that agree with `box`."""
        cv2 = need("cv2")
        look = cv2.warpAffine(
            grey, _turn_upright(box, roll), (LOOK, LOOK), borderMode=cv2.BORDER_REPLICATE
        )
        low, high = FACE * 0.7, FACE * 1.45
        straight = self._windows(look, 1.08, low, high)
        mirrored = self._windows(np.ascontiguousarray(look[:, ::-1]), 1.08, low, high)
        mirrored[:, [0, 2]] = LOOK - mirrored[:, [2, 0]]
        windows = np.concatenate([straight, mirrored])
        half = FACE / 2
        expected = np.array([-half, -half, half, half]) + LOOK / 2
        return windows[overlap(expected, windows) > 0.4]

    def _detection(self, item: tuple, scale: float, shape: tuple[int, ...]) -> Detection | None:
        box, roll, _ = item
        score = _score(*item)
        box = box / scale
        visible = inside(box, shape[1], shape[0])
        if visible is None:
            return None
        side = box[2] - box[0]
        points = (box[:2] + box[2:]) / 2 + (MEAN_POINTS - 0.5) * side @ _turn(roll).T
        # A mean face's points say nothing on yaw and pitch; the cascade answers to frontal ones.
        angles = (0.0, 0.0, roll)
        return Detection(visible, points.astype(np.float32), score, self.name, angles)


def load_cascade() -> CascadeDetector:
    """The detector with scikit-image's own trained file; RuntimeError without the package."""
    data = need("skimage.data")
    feature = need("skimage.feature")
    return CascadeDetector(feature.Cascade(data.lbp_frontal_face_cascade_filename()))


def _clusters(windows: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """Groups of windows on the same spot, largest first: how many, and their mean box."""
    if not len(windows):
        return []
    near = np.stack([overlap(window, windows) for window in windows]) > 0.5
    counts = near.sum(1)
    means = np.stack([windows[row].mean(0) for row in near])
    order = keep_best(windows, counts.tolist(), 0.2)
    return [(int(counts[i]), means[i]) for i in order if counts[i] >= 3]


def _count_needed(box: np.ndarray) -> float:
    return AGREEING * max(1.0, SHARP / (box[2] - box[0]))


def _score(box: np.ndarray, roll: float, count: int) -> float:
    """One half at the threshold."""
    return float(count / (count + _count_needed(box)))


def _turn(roll: float) -> np.ndarray:
    """Rotation by `roll` degrees, clockwise in a picture (y down)."""
    angle = math.radians(roll)
    cos, sin = math.cos(angle), math.sin(angle)
    return np.array([[cos, -sin], [sin, cos]])


def _turn_upright(box: np.ndarray, roll: float) -> np.ndarray:
    """(2, 3) matrix from the photo to a look in which the face is upright and FACE wide."""
    matrix = _turn(roll).T * FACE / (box[2] - box[0])
    centre = (box[:2] + box[2:]) / 2
    return np.hstack([matrix, (LOOK / 2 - matrix @ centre)[:, None]])


def _settle(box: np.ndarray, roll: float, windows: np.ndarray) -> np.ndarray:
    """The mean of `windows`, found in the upright look at `box`, as a square in the photo."""
    mean = windows.mean(0)
    unit = (box[2] - box[0]) / FACE
    offset = _turn(roll) @ ((mean[:2] + mean[2:]) / 2 - LOOK / 2) * unit
    centre = (box[:2] + box[2:]) / 2 + offset
    half = (mean[2] - mean[0]) / 2 * unit
    return np.concatenate([centre - half, centre + half])
