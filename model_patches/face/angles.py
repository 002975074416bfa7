"""Head angles from five points, by fitting a mean face in three dimensions."""

from __future__ import annotations

import math

import numpy as np

from .packages import need

# Millimetres; x to the picture's right, y down, z away from the camera. Widths and heights are
# the ArcFace template's at 63 mm between the pupils; depths are adult means (nose tip about 30 mm
# before the pupils, mouth corners about 6 mm before them).
MEAN_FACE = np.array(
    [
        (-31.5, -36.0, 0.0),
        (31.5, -36.0, 0.0),
        (0.0, 0.0, -30.0),
        (-26.1, 36.8, -6.0),
        (26.1, 36.8, -6.0),
    ]
)
FOCAL = 8.0
"""Focal length over face size: a portrait distance of about one metre."""


def head_angles(points: np.ndarray) -> tuple[float, float, float]:
    """(5, 2) pixels -> yaw, pitch, roll in degrees.

    Yaw is positive when the face turns to the picture's right, pitch when it looks up, roll when
    the head tilts clockwise in the picture. (0, 0, 0) looks straight into the camera. Five points
    know the depth of a face only by its mean, so expect errors of about five degrees on photos.
    """
    cv2 = need("cv2")
    camera, centred = _camera(np.asarray(points, np.float64))
    found, rotation, shift = cv2.solvePnP(
        MEAN_FACE, centred, camera, None, flags=cv2.SOLVEPNP_SQPNP
    )
    if not found:
        raise ValueError(f"no head pose fits the face points {np.asarray(points).tolist()}")
    rotation, _ = cv2.solvePnPRefineLM(MEAN_FACE, centred, camera, None, rotation, shift)
    return angles_of(cv2.Rodrigues(rotation)[0])


def _camera(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    centred = points - points.mean(0)
    focal = FOCAL * max(float(np.abs(centred).max()) * 2, 1e-6)
    return np.diag([focal, focal, 1.0]), centred


def angles_of(matrix: np.ndarray) -> tuple[float, float, float]:
    """Rotation matrix (3, 3), roll after yaw after pitch -> yaw, pitch, roll in degrees."""
    yaw = math.asin(max(-1.0, min(1.0, float(matrix[2, 0]))))
    pitch = math.atan2(-float(matrix[2, 1]), float(matrix[2, 2]))
    roll = math.atan2(float(matrix[1, 0]), float(matrix[0, 0]))
    return math.degrees(yaw), math.degrees(pitch), math.degrees(roll)


def rotation(yaw: float, pitch: float, roll: float) -> np.ndarray:
    """The inverse of `angles_of`: degrees -> (3, 3)."""
    y, p, r = (math.radians(value) for value in (yaw, pitch, roll))
    turn = np.array([[math.cos(y), 0, -math.sin(y)], [0, 1, 0], [math.sin(y), 0, math.cos(y)]])
    nod = np.array([[1, 0, 0], [0, math.cos(p), math.sin(p)], [0, -math.sin(p), math.cos(p)]])
    tilt = np.array([[math.cos(r), -math.sin(r), 0], [math.sin(r), math.cos(r), 0], [0, 0, 1]])
    return tilt @ turn @ nod
