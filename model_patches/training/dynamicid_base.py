"""What both stages of DynamicID's training open: an SD 1.5 checkpoint, CLIP ViT-H, a face pack."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ..adapters.dynamicid import FAMILY
from ..encoders.clip_vision import CLIP, check_vision
from ..face.analyser import FaceAnalyser
from ..face.pack import read_pack
from ..files.tensor_file import digest
from .checkpoint import Checkpoint, open_checkpoint, open_vision
from .face_features import Encoders, FaceEncoder, FaceMaker, Prints, open_analyser
from .sheets import Sampling

PACK = "buffalo_l"
SAMPLING = Sampling(50, 5.0, "ddim", "ddim_uniform")
"""Of sheets: the paper's."""


@dataclass(frozen=True, eq=False)
class Models:
    """The frozen models of a job."""

    base: Checkpoint
    encoders: Encoders
    prints: Prints


def open_models(
    base: Path,
    clip_vision: Path,
    faces: Path,
    device: torch.device,
    encode: Callable[[object, FaceAnalyser], FaceEncoder],
    made_by: str = "",
) -> Models:
    """Through ComfyUI's own loaders; the face pack and CLIP ViT-H when they are needed.

    encode: makes what reads faces of a CLIP_VISION and the analyser; made_by: what else decides
    what it makes. Raises ValueError for another kind of base.
    """
    opened = open_checkpoint(base, device)
    if opened.kind != "sd15":
        raise ValueError(
            f"{base.name} is a checkpoint of {opened.kind}, DynamicID is for SD 1.5. Name a "
            "checkpoint of SD 1.5, such as Realistic Vision."
        )

    def open_faces() -> FaceMaker:
        vision = open_vision(clip_vision)
        check_vision(vision, CLIP, "--clip-vision")
        analyser = open_analyser(faces, PACK)
        return FaceMaker(analyser, encode(vision, analyser))

    pack = [digest(path) for path in sorted(read_pack(faces).roles)]
    print_of_faces = repr((*pack, digest(clip_vision), FAMILY, made_by))
    latents = f"{digest(base)} square"
    encoders = Encoders(open_faces, lambda: opened.vae, lambda: opened.clip)
    return Models(opened, encoders, Prints(print_of_faces, latents, digest(base)))
