"""What a face does on the photo that an identity was made of: kept in the identity, for editing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..face.analyser import FaceAnalyser
from ..face.face import Face
from ..face.landmark_image import in_frame, landmark_image
from ..face.landmark_pose import FIVE, Angles
from ..face.pack import POINTS
from .identity import Encoding

EACH = "each"
"""Name in `Encoding.extra` of the tokens of each photo, (P, N, C)."""
LANDMARKS, ANGLES, SIZE = "landmarks", "angles", "size"
"""Names in `Encoding.extra`: (P, 106 or 5, 2) pixels, (P, 3) degrees, (P, 2) width and height."""
WORDS = "words"
"""Name in `Encoding.recipe` of the prompt of an edited face."""


@dataclass(frozen=True, eq=False)
class SeenMotion:
    """Landmarks and angles of a face in a photo."""

    points: np.ndarray
    """(106 or 5, 2) pixels of the photo, float64."""
    angles: Angles
    """Yaw, pitch, roll in degrees."""
    size: tuple[int, int]
    """Width and height of the photo in pixels."""

    @property
    def picture(self) -> Tensor:
        """(96, 96) uint8, as the keypoint encoder reads it."""
        return landmark_image(self.framed)

    @property
    def framed(self) -> Tensor:
        """(106 or 5, 2) in the square frame that the photo is stretched to."""
        return in_frame(torch.from_numpy(self.points), *self.size)


def see_motion(
    analyser: FaceAnalyser, rgb: np.ndarray, face: Face, count: int = POINTS
) -> SeenMotion:
    """rgb (H, W, 3) uint8 and a face in it. count: of landmarks, 106 or the face's own 5.

    Raises ValueError for 106 without a landmark model.
    """
    size = (rgb.shape[1], rgb.shape[0])
    if count == FIVE:
        return SeenMotion(face.points.numpy().astype(np.float64), face.angles, size)
    if analyser.landmarks is None:
        raise ValueError(
            "The face analyser has 0 landmark models, expected 1. Open buffalo_l, with its file "
            "2d106det.onnx, with Load Face Analyser."
        )
    points = analyser.landmarks.find(rgb, face.box).numpy().astype(np.float64)
    return SeenMotion(points, face.angles, size)


def keep_motion(motions: Sequence[SeenMotion], tokens: Tensor) -> dict[str, Tensor]:
    """What an encoding's `extra` keeps of photos, tokens (P, N, C) being those of each."""
    return {
        EACH: tokens,
        LANDMARKS: torch.from_numpy(np.stack([one.points for one in motions])).float(),
        ANGLES: torch.tensor([one.angles for one in motions], dtype=torch.float32),
        SIZE: torch.tensor([one.size for one in motions], dtype=torch.float32),
    }


def kept_motion(encoding: Encoding, count: int = POINTS) -> list[tuple[Tensor, SeenMotion]]:
    """Tokens (1, N, C) and motion of each photo; empty where the encoding kept none. count: of
    landmarks, as the editor reads them.

    Raises ValueError for tensors of other shapes, and for values that are not finite.
    """
    extra = encoding.extra
    if LANDMARKS not in extra:
        return []
    photos = len(extra[LANDMARKS])
    wanted = {
        LANDMARKS: (photos, count, 2),
        ANGLES: (photos, 3),
        SIZE: (photos, 2),
        EACH: (photos, *encoding.tokens.shape[1:]),
    }
    _check_shapes(extra, wanted)
    found = []
    for number in range(photos):
        yaw, pitch, roll = extra[ANGLES][number].tolist()
        width, height = (max(1, round(value)) for value in extra[SIZE][number].tolist())
        points = extra[LANDMARKS][number].double().numpy()
        motion = SeenMotion(points, (yaw, pitch, roll), (width, height))
        found.append((extra[EACH][number : number + 1], motion))
    return found


def _check_shapes(extra: Mapping[str, Tensor], wanted: Mapping[str, tuple[int, ...]]) -> None:
    for name, shape in wanted.items():
        tensor = extra.get(name)
        if tensor is None or tuple(tensor.shape) != shape or not tensor.isfinite().all():
            found = "nothing" if tensor is None else f"{tuple(tensor.shape)}"
            raise ValueError(
                f"The identity holds {found} as {name} of its photos, expected {shape} finite "
                "values. Encode the photo again."
            )
