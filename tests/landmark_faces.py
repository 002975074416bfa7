"""106 landmarks of a drawn face: where each point lies on it, seen from any side."""

from __future__ import annotations

import numpy as np
from flexid.model_patches.face import landmark_pose as pose
from flexid.model_patches.face.angles import rotation


def front() -> np.ndarray:
    """(106, 2) millimetres from the middle between the eyes; x to the picture's right, y down."""
    face = np.zeros((106, 2))
    for side, sign in ((pose.LEFT_SIDE, -1), (pose.RIGHT_SIDE, 1)):
        turn = np.linspace(np.pi / 2, 0, len(side))
        face[list(side)] = np.column_stack([sign * 70 * np.cos(turn), 105 * np.sin(turn)])
    for eye, corners, x in (
        (pose.LEFT_EYE, pose.LEFT_CORNERS, -31.5),
        (pose.RIGHT_EYE, pose.RIGHT_CORNERS, 31.5),
    ):
        turn = np.linspace(0, 2 * np.pi, len(eye), endpoint=False)
        face[list(eye)] = np.column_stack([x + 12 * np.cos(turn), 5 * np.sin(turn)])
        face[list(corners)] = [[x - 15, 0], [x + 15, 0]]
    for brow, x in ((range(43, 52), -31.5), (range(97, 106), 31.5)):
        face[list(brow)] = np.column_stack([np.linspace(x - 20, x + 20, 9), np.full(9, -22.0)])
    face[range(72, 87)] = np.column_stack([np.linspace(-14, 14, 15), np.linspace(0, 45, 15)])
    face[[72, 73, 74, 86]] = [[0, 0], [0, 12], [0, 24], [0, 36]]
    lips = {
        52: -26, 64: -16, 63: -8, 71: 0, 67: 8, 68: 16, 61: 26, 58: 16, 59: 8, 53: 0, 56: -8,
        55: -16, 65: -22, 66: -8, 62: 0, 70: 8, 69: 22, 57: 8, 60: 0, 54: -8,
    }  # fmt: skip
    heights = {52: 0, 61: 0, 65: 0, 69: 0}
    heights |= dict.fromkeys((64, 63, 71, 67, 68), -8) | dict.fromkeys((66, 62, 70), -2)
    heights |= dict.fromkeys((58, 59, 53, 56, 55), 9) | dict.fromkeys((57, 60, 54), 2)
    for index, x in lips.items():
        face[index] = x, 73 + heights[index]
    return face


def seen_from(
    angles: pose.Angles, scale: float = 2.0, middle: tuple = (256.0, 200.0)
) -> np.ndarray:
    """(106, 2) pixels of that face turned by yaw, pitch, roll about the middle of the head."""
    solid = np.column_stack([front(), pose._depths()]) - pose.PIVOT
    turned = solid @ rotation(*angles).T
    return np.array(middle) + scale * turned[:, :2]
