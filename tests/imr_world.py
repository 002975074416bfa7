"""Small files of motion editing, for DynamicID's tokens and for others, a small text encoder, and
faces with landmarks."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import comfy.sd
import dynamicid_files
import dynamicid_world
import ip_files
import landmark_faces
import numpy as np
import torch
from flexid.mini import random_text
from flexid.model_patches.adapters.imr import MotionEditor, load_editor
from flexid.model_patches.adapters.imr_settings import ImrSettings, metadata_of
from flexid.model_patches.face.analyser import FaceAnalyser
from flexid.model_patches.face.boxes import Detection
from flexid.model_patches.face.landmark_pose import Angles
from safetensors.torch import load_file, save_file

WIDTH = random_text.CLIP_CONFIG["hidden_size"]
"""Of the text, and of face tokens."""
KEYPOINTS = (4, 4, 6, 6, 8, 8, 8)
"""Channels of the keypoint encoder's blocks."""


def write_files(folder: Path, suffix: str = ".bin", width: int = WIDTH) -> tuple[Path, Path]:
    """IMR and key_point_encoder for face tokens and text of this width."""
    imr = ip_files.seed_all(dynamicid_files.imr_shapes(width, dim=64, hidden=96))
    points = dynamicid_files.keypoint_shapes(KEYPOINTS, width)
    keypoints = dynamicid_files.seed_keypoints(points, he=True)
    return (
        dynamicid_files.write_flat(folder / f"IMR{suffix}", imr),
        dynamicid_files.write_flat(folder / f"key_point_encoder{suffix}", keypoints),
    )


def editor(folder: Path, width: int = WIDTH) -> MotionEditor:
    return load_editor(*write_files(folder, width=width))


OTHER = ImrSettings(
    family="pulid_flux",
    encoder="ab" * 32,
    adapter="their_pulid.safetensors",
    text_encoder="their_clip_l.safetensors",
    text=WIDTH,
    points=5,
)
"""Of an editor for the tokens of a PuLID file."""


def write_other(folder: Path, width: int, landmarks: int = 8, **stated: str) -> tuple[Path, Path]:
    """Both files for other tokens of this width; stated: metadata in place of OTHER's."""
    both = landmarks + WIDTH
    shapes = dynamicid_files.imr_shapes(width, dim=64, hidden=96)
    shapes |= {"feature_fusion.0.weight": (both,), "feature_fusion.0.bias": (both,)}
    shapes |= {"feature_fusion.1.weight": (64, both)}
    path = folder / "other_imr.safetensors"
    save_file(ip_files.seed_all(shapes), path, {**metadata_of(OTHER), **stated})
    keypoints = dynamicid_files.keypoint_shapes(KEYPOINTS, landmarks)
    found = dynamicid_files.seed_keypoints(keypoints, he=True)
    return path, dynamicid_files.write_flat(folder / "other_keys.safetensors", found)


def clip(folder: Path) -> comfy.sd.CLIP:
    """A CLIP-L with a text projection, so that projected and plain pooled texts differ."""
    random_text.write_clip_l(folder / "plain.safetensors", 4)
    state = load_file(folder / "plain.safetensors")
    generator = torch.Generator().manual_seed(6)
    state["text_projection.weight"] = torch.randn(WIDTH, WIDTH, generator=generator).half() / 8
    save_file(state, folder / "clip_l.safetensors")
    options = {"model_config": dict(random_text.CLIP_CONFIG)}
    return comfy.sd.load_clip([str(folder / "clip_l.safetensors")], model_options=options)


class DrawnLandmarks:
    """Landmarks of the drawn face with these angles, filling the given box."""

    name = "drawn"

    def __init__(self, angles: Angles = (0.0, 0.0, 0.0)) -> None:
        self.angles = angles

    def find(self, rgb: np.ndarray, box) -> torch.Tensor:
        x0, y0, x1, y1 = box
        middle = ((x0 + x1) / 2, y0 + 0.4 * (y1 - y0))
        points = landmark_faces.seen_from(self.angles, (x1 - x0) / 200, middle)
        return torch.from_numpy(points).float()


@dataclass(frozen=True)
class TurnedFaces(dynamicid_world.TwoFaces):
    """The same faces, by a detector that knows their angles."""

    angles: Angles = (0.0, 0.0, 0.0)

    def find(self, rgb: np.ndarray) -> list[Detection]:
        return [replace(one, angles=self.angles) for one in super().find(rgb)]


def analyser(angles: Angles = (0.0, 0.0, 0.0), landmarks: object | None = None) -> FaceAnalyser:
    """Faces that look this way, and their landmarks."""
    return FaceAnalyser(
        TurnedFaces(angles),
        dynamicid_world.ColourRecogniser(),
        None,
        "a test analyser",
        landmarks or DrawnLandmarks(angles),
    )
