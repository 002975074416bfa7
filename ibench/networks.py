"""The published networks that IBench and DynamicID judge with: each file is found and opened, or
named with where it comes from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from ..model_patches.encoders.clip_pair import ClipPair
from ..model_patches.encoders.clip_vision import look_at_pixels
from ..model_patches.evaluate.dino import CLS, DINO_FILE, build_dino
from ..model_patches.evaluate.features import (
    AESTHETIC_ADVICE,
    AESTHETIC_FILE,
    IQA_TEXTS,
    aesthetic,
    clip_iqa,
)
from ..model_patches.evaluate.inception import INCEPTION_ADVICE, INCEPTION_FILE
from ..model_patches.evaluate.modes import COMPAT, CORRECTED, Mode
from ..model_patches.evaluate.networks import (
    FER_ADVICE,
    FER_FILE,
    POSE_ADVICE,
    POSE_FILE,
    ExpressionNet,
    PoseNet,
    build_expression_net,
    build_pose_net,
)
from ..model_patches.evaluate.pixels import clip_pixels, compat_aesthetic_pixels
from ..model_patches.evaluate.subject import (
    SUBJECT_ADVICE,
    SUBJECT_FILE,
    SUBJECT_KEY,
    can_cut,
    open_remover,
)
from ..model_patches.files.header import Header, peek
from ..model_patches.files.tensor_file import digest, read_weights
from .clip_files import find_vision, open_vision

if TYPE_CHECKING:
    from transformers import Dinov2Model

OWN = "flexid"
"""The folder of these files, below models."""
CLIP_WIDTH, DINO_WIDTH = 768, 768


@dataclass(frozen=True)
class NetworkFile:
    """A file of the user's."""

    name: str
    """Its published name, which is enough where the header cannot be read."""
    measures: str
    """What needs it."""
    advice: str
    """What it is and where it comes from."""
    fits: Callable[[Header], bool]
    folders: tuple[str, ...] = (OWN,)

    @property
    def absence(self) -> str:
        return f"put into models/{self.folders[0]}: {self.advice}"

    def find(self, folders: Any) -> Path | None:
        """folders: ComfyUI's folder_paths, which may lack a folder where it is older. None where
        no file fits."""
        known = [name for name in self.folders if name in folders.folder_names_and_paths]
        places = [Path(root) for name in known for root in folders.get_folder_paths(name)]
        for path in sorted(one for place in places for one in place.glob("*") if one.is_file()):
            header = peek(path)
            if path.name == self.name or (header is not None and self.fits(header)):
                return path
        return None


def _has(key: str, shape: tuple[int, ...]) -> Callable[[Header], bool]:
    return lambda header: header.shapes.get(key) == shape


INCEPTION = NetworkFile(
    INCEPTION_FILE,
    "fid, kid",
    INCEPTION_ADVICE,
    lambda header: "Mixed_7c.branch_pool.conv.weight" in header.shapes,
)
DINO = NetworkFile(
    "dinov2-base.safetensors",
    "dino, fgis",
    f"{DINO_FILE} (huggingface.co), under a name of your choice",
    _has(CLS, (1, 1, DINO_WIDTH)),
    ("clip_vision", OWN),
)
EXPRESSION = NetworkFile(
    FER_FILE,
    "expression_class, expression_asked",
    FER_ADVICE,
    lambda header: any(
        header.shapes.get(f"{start}classifier.weight") == (7, 512)
        and f"{start}features.49.weight" in header.shapes
        for start in ("net.", "")
    ),
)
POSE = NetworkFile(
    POSE_FILE,
    "yaw, pitch and roll by IBench's network; five points of the face stand in for it",
    POSE_ADVICE,
    _has("fc_yaw.weight", (66, 2048)),
)
AESTHETIC = NetworkFile(
    AESTHETIC_FILE,
    "aesthetic",
    f"{AESTHETIC_ADVICE}; it also needs the picture half of CLIP ViT-L/14 in models/clip_vision",
    lambda header: header.shapes == {"weight": (1, CLIP_WIDTH), "bias": (1,)},
)
SUBJECT = NetworkFile(
    SUBJECT_FILE,
    "clip_subject, dino_subject",
    f"{SUBJECT_ADVICE}; ComfyUIs without Remove Background cannot read it",
    lambda header: SUBJECT_KEY in header.shapes,
    ("background_removal",),
)


@dataclass(frozen=True, eq=False)
class Quality:
    """CLIP-IQA by the CLIP that also judges the prompts."""

    clip: ClipPair

    @cached_property
    def texts(self) -> tuple[Tensor, Tensor]:
        """Features (1, D) of a good photo and of a bad one."""
        good, bad = map(self.clip.embed_text, IQA_TEXTS)
        return good, bad

    def score(self, feature: Tensor) -> float:
        """(1, D) of a picture -> 0 to 1."""
        return float(clip_iqa(feature, *self.texts))


@dataclass(frozen=True, eq=False)
class Aesthetic:
    """LAION's head on the features of CLIP ViT-L/14."""

    vision: Any
    """comfy.clip_vision.ClipVisionModel."""
    weight: Tensor
    """(1, D)"""
    bias: Tensor
    """(1,)"""

    def score(self, picture: np.ndarray, mode: Mode = CORRECTED) -> float:
        """(H, W, 3) uint8 RGB -> about 1 to 10; compat: by IBench's pixels."""
        pixels = (compat_aesthetic_pixels if mode == COMPAT else clip_pixels)(picture)
        seen = look_at_pixels(self.vision, pixels[None].to(self.vision.load_device))
        return float(aesthetic(seen.pooled, self.weight, self.bias))


@dataclass(frozen=True, eq=False)
class Networks:
    """Those whose files are there."""

    dino: Dinov2Model | None = None
    expression: ExpressionNet | None = None
    pose: PoseNet | None = None
    """Of compat mode; the corrected pose needs none."""
    aesthetic: Aesthetic | None = None
    quality: Quality | None = None
    remover: Any = None
    """comfy.bg_removal_model.BackgroundRemovalModel, which cuts subjects out."""


@dataclass(frozen=True, eq=False)
class Opened:
    """What `open_networks` found."""

    networks: Networks
    files: dict[str, str]
    """File -> digest."""
    absent: dict[str, str]
    """Measures -> the file that they need."""


def open_networks(folders: Any, clip: ClipPair | None, mode: Mode, device: torch.device) -> Opened:
    """clip: ViT-L/14 where both halves are there; the aesthetic score needs its pictures alone.

    Raises ValueError for a file of one of these names with other content.
    """
    files: dict[str, str] = {}
    absent: dict[str, str] = {}

    def read(file: NetworkFile) -> dict[str, Tensor] | None:
        path = file.find(folders)
        if path is None:
            absent[file.measures] = file.absence
            return None
        files[path.name] = digest(path)
        return dict(read_weights(path, file.advice).tensors)

    dino, expression = read(DINO), read(EXPRESSION)
    pose = read(POSE) if mode == COMPAT else None
    head, eye = read(AESTHETIC), find_vision(folders)
    if head and eye:
        files[eye.name] = digest(eye)
    elif head:
        absent[AESTHETIC.measures] = AESTHETIC.absence
    cutter = SUBJECT.find(folders) if can_cut() else None
    if cutter is None:
        absent[SUBJECT.measures] = SUBJECT.absence
    else:
        files[cutter.name] = digest(cutter)
    networks = Networks(
        build_dino(dino).to(device) if dino else None,
        build_expression_net(expression).to(device) if expression else None,
        build_pose_net(pose).to(device) if pose else None,
        _make_aesthetic(clip.vision if clip else open_vision(eye), head) if head and eye else None,
        Quality(clip) if clip else None,
        open_remover(cutter) if cutter else None,
    )
    return Opened(networks, files, absent)


def _make_aesthetic(vision: Any, head: dict[str, Tensor]) -> Aesthetic:
    shapes = {key: tuple(value.shape) for key, value in head.items()}
    if shapes != {"weight": (1, CLIP_WIDTH), "bias": (1,)}:
        raise ValueError(
            f"these are not the tensors of {AESTHETIC_FILE}: it has {shapes}, expected weight "
            f"(1, {CLIP_WIDTH}) and bias (1,); get the published file"
        )
    return Aesthetic(vision, head["weight"].float(), head["bias"].float())
