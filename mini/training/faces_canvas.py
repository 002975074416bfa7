"""Canvases for the detector: pictures at any size and place, on grounds without faces."""

from __future__ import annotations

import cv2
import numpy as np

from .faces_anchors import Faces
from .faces_degrade import degrade
from .faces_pictures import Pictures

WHOLE, NOBODY, MOSAIC = 0.4, 0.1, 0.2
"""Shares of the canvases: one picture that fills it, ground alone, a grid of pictures."""
GROUP_SHARE = 0.35
SMALLEST = 16.0
"""Side of the smallest face, in pixels."""
LARGEST = 0.95
"""Of the largest, as a share of the canvas."""
VISIBLE = 0.6
"""Share of a face's box that must lie on the canvas for the face to be asked for."""

Frame = tuple[int, int, int, int]


def canvas(rng: np.random.Generator, pictures: Pictures, size: int) -> tuple[np.ndarray, Faces]:
    """(size, size, 3) uint8 RGB and its faces."""
    ground = _ground(rng, pictures, size)
    kind = rng.random()
    if kind < NOBODY:
        return ground, Faces(np.zeros((0, 4)), np.zeros((0, 5, 2)), np.zeros(0, bool))
    if kind < NOBODY + WHOLE:
        frames, fill = [(0, 0, size, size)], True
    else:
        frames, fill = _frames(rng, size), False
    return ground, _join_faces([_place(rng, pictures, ground, frame, fill) for frame in frames])


def _frames(rng: np.random.Generator, size: int) -> list[Frame]:
    if rng.random() > MOSAIC / (1 - WHOLE - NOBODY):
        return [(0, 0, size, size)]
    count = int(rng.choice([2, 3]))
    edges = np.linspace(0, size, count + 1).astype(int)
    spans = list(zip(edges[:-1], edges[1:], strict=True))
    return [(x0, y0, x1, y1) for x0, x1 in spans for y0, y1 in spans if rng.random() < 0.7]


def _place(
    rng: np.random.Generator, pictures: Pictures, ground: np.ndarray, frame: Frame, fill: bool
) -> Faces:
    """Paint one picture into `frame` of `ground`; its faces in the canvas's pixels."""
    rgb, boxes, points = pictures[pictures.draw(rng, GROUP_SHARE)]
    rgb = degrade(rng, rgb, wobble=False)
    x0, y0, x1, y1 = frame
    size = x1 - x0, y1 - y0
    matrix = _fill_frame(rng, rgb, size) if fill else _place_face(rng, boxes, size)
    part = ground[y0:y1, x0:x1]
    part[:] = _paste(rng, rgb, matrix, part)
    shift = np.array((x0, y0), np.float32)
    return _move_faces(boxes, points, matrix, size, shift)


def _fill_frame(rng: np.random.Generator, rgb: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The picture as insightface letterboxes it, at the top left; sometimes a little larger."""
    scale = max(size) / max(rgb.shape[:2])
    if rng.random() < 0.3:
        scale *= rng.uniform(0.6, 1.4)
    return np.array(((scale, 0, 0), (0, scale, 0)))


def _place_face(rng: np.random.Generator, boxes: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """One face at a random size, its centre anywhere in the frame."""
    x0, y0, x1, y1 = boxes[rng.integers(len(boxes))]
    wanted = np.exp(rng.uniform(np.log(SMALLEST), np.log(LARGEST * min(size))))
    scale = wanted / np.sqrt((x1 - x0) * (y1 - y0))
    # Large faces stay near the middle: cut off, they would only be ignored.
    room = np.maximum(np.array(size) - 0.8 * wanted, 0.1 * np.array(size))
    centre = np.array(size) / 2 + (rng.random(2) - 0.5) * room
    shift = centre - scale * np.array(((x0 + x1) / 2, (y0 + y1) / 2))
    return np.array(((scale, 0, shift[0]), (0, scale, shift[1])))


def _paste(
    rng: np.random.Generator, rgb: np.ndarray, matrix: np.ndarray, under: np.ndarray
) -> np.ndarray:
    """`under` with the picture over it. insightface itself shrinks without averaging."""
    scale = matrix[0, 0]
    if scale < 0.7 and rng.random() < 0.5:
        small = max(8, round(rgb.shape[1] * scale)), max(8, round(rgb.shape[0] * scale))
        shrunk = cv2.resize(rgb, small, interpolation=cv2.INTER_AREA)
        matrix = matrix.copy()
        matrix[:, :2] *= rgb.shape[1] / small[0]
        rgb = shrunk
    size = under.shape[1], under.shape[0]
    edge = {"borderMode": cv2.BORDER_TRANSPARENT, "dst": np.ascontiguousarray(under)}
    return cv2.warpAffine(rgb, matrix, size, flags=cv2.INTER_LINEAR, **edge)


def _move_faces(
    boxes: np.ndarray,
    points: np.ndarray,
    matrix: np.ndarray,
    size: tuple[int, int],
    shift: np.ndarray,
) -> Faces:
    corners = boxes.reshape(-1, 2, 2) * matrix[0, 0] + matrix[:, 2]
    seen = np.clip(corners, 0, np.array(size))
    share = np.prod(seen[:, 1] - seen[:, 0], 1) / np.prod(corners[:, 1] - corners[:, 0], 1)
    moved = (points * matrix[0, 0] + matrix[:, 2] + shift).astype(np.float32)
    kept = share > 0.05
    flat = (corners + shift).reshape(-1, 4).astype(np.float32)
    return Faces(flat[kept], moved[kept], share[kept] < VISIBLE)


def _join_faces(parts: list[Faces]) -> Faces:
    empty = Faces(np.zeros((0, 4)), np.zeros((0, 5, 2)), np.zeros(0, bool))
    parts = [empty, *parts]
    return Faces(
        np.concatenate([part.boxes for part in parts]).astype(np.float32),
        np.concatenate([part.points for part in parts]).astype(np.float32),
        np.concatenate([part.hidden for part in parts]),
    )


def _ground(rng: np.random.Generator, pictures: Pictures, size: int) -> np.ndarray:
    kind = rng.random()
    if kind < 0.25:
        return np.zeros((size, size, 3), np.uint8)
    if kind < 0.4:
        return np.full((size, size, 3), rng.integers(0, 256, 3), np.uint8)
    if kind < 0.6:
        cells = int(rng.integers(2, 40))
        coarse = rng.integers(0, 256, (cells, cells, 3)).astype(np.uint8)
        return cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC)
    return _draw_faceless(rng, pictures, size)


def _draw_faceless(rng: np.random.Generator, pictures: Pictures, size: int) -> np.ndarray:
    """Clothes, hair and scenery, enlarged: a strip of a picture beside all of its faces."""
    rgb, boxes, _ = pictures[pictures.draw(rng, GROUP_SHARE)]
    left, top = np.floor(boxes[:, :2].min(0)).astype(int).clip(0)
    right, bottom = np.ceil(boxes[:, 2:].max(0)).astype(int)
    strips = [rgb[:top], rgb[bottom:], rgb[:, :left], rgb[:, right:]]
    strips = [strip for strip in strips if min(strip.shape[:2]) >= 8]
    if not strips:
        return np.zeros((size, size, 3), np.uint8)
    strip = strips[rng.integers(len(strips))]
    if rng.random() < 0.3:
        strip = np.rot90(strip, int(rng.integers(1, 4)))
    return cv2.resize(np.ascontiguousarray(strip), (size, size), interpolation=cv2.INTER_LINEAR)
