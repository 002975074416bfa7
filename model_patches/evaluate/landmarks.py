"""How much a face moved: five points, and the mesh of MediaPipe's landmarker."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .modes import CORRECTED, Mode, check_mode

POINTS = ("left_eye", "right_eye", "nose", "mouth_left", "mouth_right")
"""As seen in the picture: the left eye is the one further left."""
MESH_POINTS = {
    "left_eye": 468, "right_eye": 473, "nose": 1, "mouth_left": 61, "mouth_right": 291,
}  # fmt: skip
"""Where they are in the 478 points of MediaPipe's landmarker."""
SURFACE = 468
"""So many of the 478 are on the skin; the others are the irises."""
FLAT = 1e-9
Places = Mapping[str, Sequence[float]]


def five_points(mesh: np.ndarray) -> dict[str, tuple[float, float]]:
    """(478, 2 or more) pixels -> the five points, each on its side of the picture.

    In a mirrored picture the eyes and the mouth's corners change places. Raises ValueError for
    another number of points.
    """
    mesh = _check_mesh(mesh)
    found = {name: (float(mesh[at, 0]), float(mesh[at, 1])) for name, at in MESH_POINTS.items()}
    for left, right in (("left_eye", "right_eye"), ("mouth_left", "mouth_right")):
        if found[left][0] > found[right][0]:
            found[left], found[right] = found[right], found[left]
    return found


def landmark_diff(one: Places, other: Places, mode: Mode = CORRECTED) -> float:
    """IBench's LandmarkDiff: mean distance of the five points after removing place and size.

    Each set is moved to its centroid and divided by its bounding box's diagonal. Tilting the head
    changes the value: see `landmark_diff_sim`. corrected: NaN when a point is missing on either
    side, or when all lie in one place. compat: the points that both have, 0 when there is none,
    and a diagonal of 0 counts as 1.
    """
    check_mode(mode)
    if mode == CORRECTED and (set(POINTS) - one.keys() or set(POINTS) - other.keys()):
        return float("nan")
    first, second = _normalise(one, mode), _normalise(other, mode)
    if first is None or second is None:
        return float("nan")
    both = [name for name in POINTS if name in first and name in second]
    gaps = [float(np.linalg.norm(first[name] - second[name])) for name in both]
    return float(np.mean(gaps)) if gaps else 0.0


def _normalise(places: Places, mode: Mode) -> dict[str, np.ndarray] | None:
    points = np.array([places[name] for name in POINTS if name in places], np.float64)
    if not len(points):
        return {}
    diagonal = float(np.linalg.norm(points.max(0) - points.min(0)))
    if diagonal <= FLAT:
        if mode == CORRECTED:
            return None
        diagonal = 1.0
    points = (points - points.mean(0)) / diagonal
    return dict(zip([name for name in POINTS if name in places], points, strict=True))


def landmark_diff_sim(one: Places, other: Places) -> float:
    """Mean distance of the five points after removing place, size and tilt.

    Each set is moved to its centroid and divided by the root mean square distance from it, then
    the second is turned onto the first by least squares, without mirroring. Both orders give the
    same value. NaN when a point is missing, or when all lie in one place.
    """
    if set(POINTS) - one.keys() or set(POINTS) - other.keys():
        return float("nan")
    first, second = (np.array([each[k] for k in POINTS], np.float64) for each in (one, other))
    first, second = first - first.mean(0), second - second.mean(0)
    sizes = [float(np.sqrt((each**2).sum(1).mean())) for each in (first, second)]
    if min(sizes) <= FLAT:
        return float("nan")
    return _residual(first / sizes[0], second / sizes[1])


def shape_change(one: np.ndarray, other: np.ndarray) -> float:
    """Mean distance of the 468 skin points in 3-D after removing place, size and head pose.

    one, other: (478, 3). Each is divided by the distance of its pupils, which is the unit of the
    result; what is left is expression and the shape of the face. NaN when both pupils are in one
    place.
    """
    meshes = []
    for each in (one, other):
        mesh = _check_mesh(each)
        if mesh.shape[1] != 3:
            raise ValueError(f"expected points in three dimensions, got {mesh.shape[1]}")
        between = np.linalg.norm(mesh[MESH_POINTS["left_eye"]] - mesh[MESH_POINTS["right_eye"]])
        if between <= FLAT:
            return float("nan")
        skin = mesh[:SURFACE] / between
        meshes.append(skin - skin.mean(0))
    return _residual(*meshes)


def _residual(first: np.ndarray, second: np.ndarray) -> float:
    """Mean distance after turning centred points (N, D) onto others by least squares (Kabsch)."""
    left, _, right = np.linalg.svd(second.T @ first)
    signs = np.ones(first.shape[1])
    signs[-1] = np.sign(np.linalg.det(left @ right))
    turned = second @ (left * signs) @ right
    return float(np.linalg.norm(first - turned, axis=1).mean())


def _check_mesh(mesh: np.ndarray) -> np.ndarray:
    mesh = np.asarray(mesh, np.float64)
    if mesh.ndim != 2 or mesh.shape[0] != SURFACE + 10:
        raise ValueError(
            f"expected the {SURFACE + 10} points of MediaPipe's landmarker, got an array of shape "
            f"{mesh.shape}"
        )
    return mesh
