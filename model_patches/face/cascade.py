"""The bundled detector: scikit-image's frontal cascade. Needs no download.

The cascade answers yes or no per window and brings neither score nor points. Both are made here:
a true face is confirmed by many neighbouring windows, and by most of them when the head is
upright, so candidates are looked at again at several roll angles, and the count of agreeing
windows gives the score, the angle, and a steadier box. The five points are those of a mean face
in that box: good enough to crop, not a measurement.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from .boxes import Detection, inside, keep_best, overlap, shrink
from .lbp import WINDOW, LbpCascade, read_cascade
from .packages import need

# Left eye, right eye, nose, mouth corners in fractions of the cascade's box, averaged by eye over
# the public-domain and packaged photos that the tests use.
MEAN_POINTS = np.array([(0.305, 0.38), (0.695, 0.38), (0.5, 0.595), (0.345, 0.775), (0.655, 0.775)])
LARGEST_ZOOM = 4
UPRIGHT, TILTED, FILLING = 512, 320, 160
"""Long sides, in pixels, at which the smallest face is as large as the window."""
ZOOM_STEP = 1.15
"""Ratio of the sizes at which a photo is searched."""
TILTS = (-25.0, 25.0)
"""The cascade itself only knows heads within about 15 degrees of upright."""
MOST_WINDOWS = 3000
"""Windows that are grouped: only patterns of stripes give more."""
CANDIDATES = 16
LOOK = 160
"""Side of the second look, in pixels; the face is FACE wide in it."""
FACE = 72
REACH = 6
"""How far a window of the second look may lie from where the face is expected, in pixels."""
FACE_SIZES = tuple(FACE * 0.7 * 1.08**step for step in range(10))
"""Sizes of the windows of the second look."""
ROLLS = (-36.0, -24.0, -12.0, 0.0, 12.0, 24.0, 36.0)
AGREEING = 40
"""Windows that make a score of one half."""
PROMISING = 8
"""Windows at the best of every second roll, below which a candidate is given up."""
SHARP = 30
"""Side below which more must agree: a small patch is smooth, and agrees with itself."""


@dataclass(frozen=True)
class Look:
    """What the second look at a candidate saw."""

    box: np.ndarray
    """(4,) x0, y0, x1, y1, upright around the face."""
    roll: float
    """Degrees, clockwise in the picture."""
    agreeing: int
    """Windows that found the same face."""

    @property
    def score(self) -> float:
        """One half at the threshold, towards 1 with every window that agrees."""
        side = self.box[2] - self.box[0]
        return float(self.agreeing / (self.agreeing + AGREEING * max(1.0, SHARP / side)))


@dataclass(frozen=True)
class CascadeDetector:
    """scikit-image's local-binary-pattern cascade for frontal faces."""

    cascade: LbpCascade = field(repr=False)
    name: str = "lbp cascade (bundled, five points estimated from the box)"
    tried: str = "long side 512, then 1280, then with a border of half the photo"

    def find(self, rgb: np.ndarray) -> list[Detection]:
        """See `Detector.find`. Finds frontal faces within about 35 degrees of upright."""
        cv2 = need("cv2")
        small, scale = shrink(rgb)
        grey = cv2.cvtColor(np.ascontiguousarray(small), cv2.COLOR_RGB2GRAY)
        found = self._search(grey)
        if not found:
            found = self._search_harder(grey)
        made = (self._detection(look, scale, rgb.shape) for look in found)
        return [detection for detection in made if detection]

    def _search(self, grey: np.ndarray) -> list[Look]:
        return self._confirm(grey, self._scan_tilts(grey, UPRIGHT, TILTED))

    def _search_harder(self, grey: np.ndarray) -> list[Look]:
        """Look for small faces, then for one that fills the frame and leaves the window no room."""
        cv2 = need("cv2")
        if max(grey.shape) > UPRIGHT:
            found = self._confirm(grey, self._scan(grey, max(grey.shape), step=2))
            if found:
                return found
        pad = min(grey.shape) // 2
        around = cv2.copyMakeBorder(grey, pad, pad, pad, pad, cv2.BORDER_REPLICATE)
        found = self._confirm(around, self._scan_tilts(around, FILLING, FILLING))
        return [Look(look.box - pad, look.roll, look.agreeing) for look in found]

    def _scan_tilts(self, grey: np.ndarray, upright: int, tilted: int) -> np.ndarray:
        windows = [self._scan(grey, upright)]
        windows += [self._scan(grey, tilted, roll) for roll in TILTS]
        return np.concatenate(windows)

    def _scan(
        self, grey: np.ndarray, long_side: int, roll: float = 0.0, step: int = 1
    ) -> np.ndarray:
        """Windows that pass in the photo turned upright for heads that tilt by `roll` degrees.

        long_side: of the unturned photo, in pixels, at the first and largest size. Returns (N, 4)
        x0, y0, x1, y1 in the photo, not turned.
        """
        zoom = min(long_side / max(grey.shape), LARGEST_ZOOM)
        turned, matrix = _turn_photo(grey, roll, zoom)
        sizes = _pyramid(turned)
        hits = self.cascade.find([size[None] for size in sizes], step)
        if not len(hits.x):
            return np.zeros((0, 4))
        # Each side is rounded to a whole number of pixels, so x and y have their own factors.
        factors = np.array([np.divide(turned.shape, size.shape)[::-1] for size in sizes])
        factors = factors[hits.stack]
        centres = (np.stack([hits.x, hits.y], 1) + WINDOW / 2) * factors
        centres = (centres - matrix[:, 2]) @ np.linalg.inv(matrix[:, :2]).T
        half = (WINDOW / 2 / zoom * factors.mean(1))[:, None]
        return np.hstack([centres - half, centres + half])

    def _confirm(self, grey: np.ndarray, windows: np.ndarray) -> list[Look]:
        """Faces among the windows, best first."""
        boxes = _cluster(windows)[:CANDIDATES]
        looks = [look for look in self._look_again(grey, boxes) if look.score >= 0.5]
        if not looks:
            return []
        order = keep_best(
            np.stack([look.box for look in looks]), [look.score for look in looks], 0.3
        )
        return [looks[index] for index in order]

    def _look_again(self, grey: np.ndarray, boxes: Sequence[np.ndarray]) -> list[Look]:
        """Look at each box at several rolls; those that do not promise anything are left out."""
        coarse = self._count(grey, boxes, ROLLS[1::2])
        kept = [index for index, counts in enumerate(coarse) if counts.max() >= PROMISING]
        boxes = [boxes[index] for index in kept]
        counts = np.zeros((len(boxes), len(ROLLS)), int)
        counts[:, 1::2] = coarse[kept]
        counts[:, ::2] = self._count(grey, boxes, ROLLS[::2])
        rolls = [_mean_roll(row) for row in counts]
        agreeing = self._agreeing(grey, list(zip(boxes, rolls, strict=True)))
        return [
            Look(_settle(box, roll, windows), roll, max(len(windows), int(row.max())))
            for box, roll, windows, row in zip(boxes, rolls, agreeing, counts, strict=True)
        ]

    def _count(
        self, grey: np.ndarray, boxes: Sequence[np.ndarray], rolls: Sequence[float]
    ) -> np.ndarray:
        """(boxes, rolls) numbers of agreeing windows."""
        jobs = [(box, roll) for box in boxes for roll in rolls]
        counts = [len(windows) for windows in self._agreeing(grey, jobs)]
        return np.array(counts, int).reshape(len(boxes), len(rolls))

    def _agreeing(
        self, grey: np.ndarray, jobs: Sequence[tuple[np.ndarray, float]]
    ) -> list[np.ndarray]:
        """For each box and roll: windows of the upright look that agree with the box, (N, 4).

        The look's mirror image is asked as well, and its windows are mirrored back.
        """
        if not jobs:
            return []
        patches = np.concatenate([_patches(grey, box, roll) for box, roll in jobs])
        hits = self.cascade.find([np.concatenate([patches, patches[:, :, ::-1]])])
        mirrored, patch = np.divmod(hits.picture, len(patches))
        job, size = np.divmod(patch, len(FACE_SIZES))
        side = np.array(FACE_SIZES)[size]
        offsets = np.stack([np.where(mirrored, 2 * REACH - hits.x, hits.x), hits.y], 1) - REACH
        centres = LOOK / 2 + offsets * (side / WINDOW)[:, None]
        windows = np.hstack([centres - side[:, None] / 2, centres + side[:, None] / 2])
        half = FACE / 2
        expected = np.array([-half, -half, half, half]) + LOOK / 2
        agrees = overlap(expected, windows) > 0.4
        return [windows[agrees & (job == index)] for index in range(len(jobs))]

    def _detection(self, look: Look, scale: float, shape: tuple[int, ...]) -> Detection | None:
        box = look.box / scale
        visible = inside(box, shape[1], shape[0])
        if visible is None:
            return None
        side = box[2] - box[0]
        points = (box[:2] + box[2:]) / 2 + (MEAN_POINTS - 0.5) * side @ _turn(look.roll).T
        # A mean face's points say nothing on yaw and pitch; the cascade answers to frontal ones.
        angles = (0.0, 0.0, look.roll)
        return Detection(visible, points.astype(np.float32), look.score, self.name, angles)


def load_cascade() -> CascadeDetector:
    """The detector with scikit-image's own trained file; RuntimeError without the package."""
    data = need("skimage.data")
    return CascadeDetector(read_cascade(Path(data.lbp_frontal_face_cascade_filename())))


def _pyramid(grey: np.ndarray) -> list[np.ndarray]:
    """The picture at ever smaller sizes, down to the window's."""
    sizes, zoom = [], 1.0
    while min(grey.shape) * zoom >= WINDOW:
        sizes.append(_resize(grey, zoom))
        zoom /= ZOOM_STEP
    return sizes


def _resize(grey: np.ndarray, zoom: float) -> np.ndarray:
    cv2 = need("cv2")
    size = max(1, round(grey.shape[1] * zoom)), max(1, round(grey.shape[0] * zoom))
    how = cv2.INTER_AREA if zoom < 1 else cv2.INTER_LINEAR
    return cv2.resize(grey, size, interpolation=how)


def _turn_photo(grey: np.ndarray, roll: float, zoom: float) -> tuple[np.ndarray, np.ndarray]:
    """The whole photo turned back by `roll` degrees and zoomed, and the (2, 3) matrix to it."""
    cv2 = need("cv2")
    height, width = grey.shape
    if not roll:
        return _resize(grey, zoom), np.array([[zoom, 0, 0], [0, zoom, 0]])
    reach = np.abs(_turn(roll)) @ (width, height) * zoom
    matrix = _turn(roll).T * zoom
    matrix = np.hstack([matrix, (reach / 2 - matrix @ (width / 2, height / 2))[:, None]])
    # The warp reads single pixels: average first what it would skip.
    small, scale = shrink(grey, max(1, round(2 * zoom * max(width, height))))
    affine = matrix / (scale, scale, 1)
    size = [max(1, math.ceil(value)) for value in reach]
    return cv2.warpAffine(small, affine, size, borderMode=cv2.BORDER_REPLICATE), matrix


def _cluster(windows: np.ndarray) -> list[np.ndarray]:
    """Mean boxes of windows on the same spot, largest group first."""
    if not len(windows):
        return []
    windows = windows[:: -(-len(windows) // MOST_WINDOWS)]
    near = np.stack([overlap(window, windows) for window in windows]) > 0.5
    counts = near.sum(1)
    order = keep_best(windows, counts.tolist(), 0.2)
    return [windows[near[index]].mean(0) for index in order if counts[index] >= 3]


def _patches(grey: np.ndarray, box: np.ndarray, roll: float) -> np.ndarray:
    """(sizes, H, W) uint8: the upright look at each of FACE_SIZES, made as large as the window.

    The window in the middle of a patch is where the face is expected.
    """
    cv2 = need("cv2")
    look = cv2.warpAffine(
        grey, _turn_upright(box, roll), (LOOK, LOOK), borderMode=cv2.BORDER_REPLICATE
    )
    side = WINDOW + 2 * REACH
    patches = []
    for size in FACE_SIZES:
        whole = 2 * round(LOOK * WINDOW / size / 2)
        small = cv2.resize(look, (whole, whole), interpolation=cv2.INTER_AREA)
        start = (whole - side) // 2
        patches.append(small[start : start + side, start : start + side])
    return np.stack(patches)


def _mean_roll(counts: np.ndarray) -> float:
    """The roll in degrees at which most windows agree, between the steps of ROLLS."""
    best = int(counts.argmax())
    near = slice(max(best - 1, 0), best + 2)
    return float(np.average(ROLLS[near], weights=counts[near])) if counts.any() else 0.0


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
    if not len(windows):
        return box
    mean = windows.mean(0)
    unit = (box[2] - box[0]) / FACE
    offset = _turn(roll) @ ((mean[:2] + mean[2:]) / 2 - LOOK / 2) * unit
    centre = (box[:2] + box[2:]) / 2 + offset
    half = (mean[2] - mean[0]) / 2 * unit
    return np.concatenate([centre - half, centre + half])
