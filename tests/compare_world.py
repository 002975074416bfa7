"""Painted faces whose likeness, head angle and expression are known, and who looks at them.

A face is a box of one colour, its identity; the pixel in the picture's upper left corner holds
the head's yaw (red, 0 to 1 for 0 to 90 degrees) and how far the mouth is open (green).
"""

from __future__ import annotations

import dynamicid_world
import numpy as np
import tiny_faces
import torch
from flexid.model_patches.face.analyser import FaceAnalyser
from flexid.model_patches.face.angles import rotation
from flexid.model_patches.face.boxes import Detection
from flexid.model_patches.identity.identity import Identity
from torch import Tensor

BOX, SECOND = (30, 30, 110, 130), (180, 40, 260, 140)
WIDTH, HEIGHT = 300, 200
RED, GREEN, BLUE = (1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)
HALF_RED = (0.5, 0.5, 0.0)
"""As like red as green: 0.707."""


class PaintedDetector:
    """Finds the boxes that are colourful in the middle."""

    name = "painted"
    tried = "two places"

    def __init__(self) -> None:
        self.pictures = 0

    def find(self, rgb: np.ndarray) -> list[Detection]:
        self.pictures += 1
        found = []
        for box in (BOX, SECOND):
            if is_face(rgb, box):
                plain = tiny_faces.face_at(box)
                angles = (yaw_in(rgb), 0.0, 0.0)
                found.append(Detection(plain.box, plain.points, 0.9, "painted", angles))
        return found


def is_face(rgb: np.ndarray, box: tuple[int, int, int, int]) -> bool:
    return bool(np.ptp(rgb[(box[1] + box[3]) // 2, (box[0] + box[2]) // 2].astype(int)) > 40)


def yaw_in(rgb: np.ndarray) -> float:
    return float(rgb[0, 0, 0]) / 255 * 90


def analyser() -> FaceAnalyser:
    return tiny_faces.analyser(PaintedDetector(), dynamicid_world.ColourRecogniser())


def picture(
    colour: tuple[float, float, float] | None = RED,
    second: tuple[float, float, float] | None = None,
    yaw: float = 0.0,
    mouth: float = 0.0,
    background: float = 0.0,
) -> Tensor:
    """(1, H, W, 3). colour None: no face. yaw in degrees; background: grey of all but the faces."""
    image = torch.full((1, HEIGHT, WIDTH, 3), background)
    for box, one in ((BOX, colour), (SECOND, second)):
        x0, y0, x1, y1 = box
        if one is not None:
            image[:, y0:y1, x0:x1] = torch.tensor(one)
    image[:, 0, 0] = torch.tensor((yaw / 90, mouth, 0.0))
    return image


def identity(colour: tuple[float, float, float]) -> Identity:
    means = torch.tensor(colour) * 255
    return Identity(features={"arcface": means.repeat(171)[None, :512]})


def surface() -> np.ndarray:
    """(478, 3) centimetres: an oval face, x to the right, y up, z to the camera."""
    numbers = np.arange(478)
    across = np.sin(numbers * 2.4) * 0.9
    up = np.linspace(-1, 1, 478)
    across *= np.sqrt(1 - up**2 * 0.9)
    depth = np.sqrt(np.clip(1.2 - across**2 - up**2 * 0.5, 0, None))
    points = np.stack([7 * across, 9 * up, 6 * depth], -1)
    for at, place in {
        468: (-3, 3, 4),
        473: (3, 3, 4),
        61: (-2.5, -4, 5),
        291: (2.5, -4, 5),
    }.items():
        points[at] = place
    points[1] = (0, 0, 8)
    return points


class Landmarker:
    """As ComfyUI's FaceLandmarkerModel answers, for the painted faces."""

    def __init__(self) -> None:
        self.canonical_data = {
            "canonical_vertices": surface()[:468].astype(np.float32),
            "procrustes_indices": np.arange(0, 468, 13),
            "procrustes_weights": np.ones(36, np.float32),
        }

    def detect_batch(
        self, images: list[np.ndarray], num_faces: int, score_thresh: float, variant: str
    ) -> list[list[dict]]:
        assert variant in ("short", "full") and num_faces == 16 and score_thresh == 0.5
        return [self._look(rgb) if variant == "full" else [] for rgb in images]

    def _look(self, rgb: np.ndarray) -> list[dict]:
        return [
            _face(box, yaw_in(rgb), float(rgb[0, 0, 1]) / 255)
            for box in (BOX, SECOND)
            if is_face(rgb, box)
        ]


def _face(box: tuple[int, int, int, int], yaw: float, mouth: float) -> dict:
    """Seen from far away, so that size does not change with depth."""
    turned = surface() * (1, -1, -1) @ rotation(yaw, 0.0, 0.0).T  # y down, z away
    scale = (box[3] - box[1]) / 20
    middle = np.array([(box[0] + box[2]) / 2, (box[1] + box[3]) / 2])
    solid = turned * 8 + (96, 96, 0)
    shapes = {"_neutral": 1 - mouth, "jawOpen": mouth, "mouthSmileLeft": 0.0, "eyeWideLeft": 0.0}
    return {
        "bbox_xyxy": np.array(box, np.float32),
        "landmarks_xy": (turned[:, :2] * scale + middle).astype(np.float32),
        "landmarks_3d": solid.astype(np.float32),
        "blendshapes": shapes,
        "presence": 5.0,
        "score": 0.9,
    }
