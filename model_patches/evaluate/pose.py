"""How far a head turned: angles from matrices and from binned networks, and their differences."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from .measures import shortest_turns
from .modes import COMPAT, CORRECTED, Mode, check_mode

BINS = 66
BIN_WIDTH, LOWEST = 3.0, -99.0
"""Degrees: Hopenet's bins."""
FRONT, SIDE, UP, DOWN = VIEWS = ("front", "side", "up", "down")
THRESHOLD = 10.0
"""Degrees, DynamicID's prompt writer."""
AXES = ("yaw", "pitch", "roll")


def decode_bins(logits: Tensor, mode: Mode = CORRECTED) -> Tensor:
    """Hopenet's (..., 66) logits of one axis -> (...) degrees: expectation over the bins.

    compat: exponentials in float32 as they are, so that a logit of about 90 gives NaN.
    """
    check_mode(mode)
    if logits.shape[-1] != BINS:
        raise ValueError(f"expected {BINS} bins, got logits of shape {tuple(logits.shape)}")
    if mode == COMPAT:
        raised = logits.float().exp()
        shares = raised / raised.sum(-1, keepdim=True)
    else:
        shares = logits.double().softmax(-1)
    return (shares * torch.arange(BINS).to(shares)).sum(-1) * BIN_WIDTH + LOWEST


def head_rotation(matrix: np.ndarray) -> np.ndarray:
    """Upper left of a (3, 3) or (4, 4) pose with uniform scale -> its rotation (3, 3).

    Raises ValueError for a matrix that is none: not finite, flat, or mirrored.
    """
    upper = np.asarray(matrix, np.float64)[:3, :3]
    volume = float(np.linalg.det(upper)) if np.isfinite(upper).all() else float("nan")
    if not volume > 0:
        raise ValueError(f"no head pose: the matrix has the determinant {volume:g}, expected > 0")
    return upper / volume ** (1 / 3)


def matrix_angles(matrix: np.ndarray) -> tuple[float, float, float]:
    """MediaPipe's face pose (4, 4) -> yaw, pitch, roll in degrees.

    Yaw is positive towards the picture's right, pitch when the face looks down, roll
    counter-clockwise.
    """
    turn = head_rotation(matrix)
    yaw = math.atan2(turn[0, 2], turn[2, 2])
    pitch = math.asin(max(-1.0, min(1.0, -turn[1, 2])))
    roll = math.atan2(turn[1, 0], turn[1, 1])
    return math.degrees(yaw), math.degrees(pitch), math.degrees(roll)


def pose_change(one: np.ndarray, other: np.ndarray) -> float:
    """Angle in degrees, 0 to 180, of the turn between two face poses or rotations."""
    turn = head_rotation(one).T @ head_rotation(other)
    # Stable near 0, where the arc cosine of the trace loses half of the digits.
    skew = turn - turn.T
    across = float(np.linalg.norm([skew[2, 1], skew[0, 2], skew[1, 0]]))
    return math.degrees(math.atan2(across, float(np.trace(turn)) - 1))


def axis_changes(
    one: Sequence[float], other: Sequence[float], mode: Mode = CORRECTED
) -> tuple[float, float, float]:
    """Absolute differences of yaw, pitch and roll in degrees; corrected: the short way round.

    Their means over pictures are IBench's PoseDiv.
    """
    check_mode(mode)
    if len(one) != 3 or len(other) != 3:
        raise ValueError(f"expected yaw, pitch and roll, got {len(one)} and {len(other)} angles")
    first, second = np.asarray(one, np.float64), np.asarray(other, np.float64)
    gaps = shortest_turns(first, second) if mode == CORRECTED else np.abs(first - second)
    yaw, pitch, roll = gaps.tolist()
    return yaw, pitch, roll


def view_of(yaw: float, pitch_up: float, threshold: float = THRESHOLD) -> str:
    """DynamicID's view of a head: up, down, front or side; up and down come before side.

    yaw and pitch_up in degrees, pitch positive when the face looks up.
    """
    if pitch_up > threshold:
        return UP
    if pitch_up < -threshold:
        return DOWN
    return FRONT if abs(yaw) < threshold else SIDE
