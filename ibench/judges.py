"""Who measures: recogniser, landmarker, CLIP. What is absent is named with where it comes from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from ..model_patches.encoders.clip_pair import ClipPair
from ..model_patches.evaluate.inception import Inception, build_inception
from ..model_patches.evaluate.modes import CORRECTED, Mode
from ..model_patches.face.analyser import FaceAnalyser, load_analyser
from ..model_patches.face.mesh import MeshFinder
from ..model_patches.files.tensor_file import digest, read_weights
from ..model_patches.identity.compare_prompt import PromptText
from .clip_files import ADVICE as CLIP_ADVICE
from .clip_files import find_pair, open_pair
from .networks import INCEPTION, Networks, open_networks
from .painter import FACE_PACKS
from .records import DataError

LANDMARKER = "mediapipe_face_fp32.safetensors"
LANDMARKER_ADVICE = (
    f"put {LANDMARKER} of huggingface.co/Comfy-Org/mediapipe into models/detection; older ComfyUIs "
    "cannot read it"
)
NEVER = {
    "image quality": "IBench takes MUSIQ with SPAQ weights, whose library (pyiqa) is not free for "
    "all uses; measure it yourself on the pictures",
    "DreamSim, ImageReward, GPT": "IBench's own code gives no values for them",
}
"""Of the papers' tables, what this benchmark leaves out, whatever files are there."""
FAVOURITE = "antelopev2"
"""The pack that IBench measures with."""


@dataclass(frozen=True, eq=False)
class Judges:
    """What is there of them."""

    analyser: FaceAnalyser
    pack: str
    finder: MeshFinder | None = None
    clip: ClipPair | None = None
    inception: Inception | None = None
    networks: Networks = field(default_factory=Networks)
    files: Mapping[str, str] = field(default_factory=dict)
    """File -> digest, of all that decides a figure."""
    absent: Mapping[str, str] = field(default_factory=dict)
    """What cannot be measured -> the file that it needs, and where that comes from."""

    def ask(self, prompt: str) -> PromptText | None:
        """None without CLIP."""
        return PromptText(self.clip, prompt) if self.clip else None


def open_judges(
    folders: Any, pack: str | None, cpu: bool, device: torch.device, mode: Mode = CORRECTED
) -> Judges:
    """folders: ComfyUI's folder_paths. pack: a face pack's name; None: the only one, or antelopev2.
    device: of the published networks; the others' is ComfyUI's choice.

    Raises DataError where no pack can be chosen, ValueError for a file that is not what its name
    says.
    """
    place = choose_pack(folders, pack)
    analyser = load_analyser(place, "auto", ["CPU" if cpu else "auto"], None)
    if analyser.recogniser is None:
        raise DataError(
            f"the face pack {place.name} has 0 recognisers, expected 1; choose antelopev2 or "
            "buffalo_l: --judge PACK."
        )
    files = {f"{place.name}/{one.name}": digest(one) for one in sorted(place.rglob("*.onnx"))}
    absent = dict(NEVER)
    finder, pair = _open_landmarker(folders), find_pair(folders)
    if finder is None:
        absent["landmarks, shape, expression"] = LANDMARKER_ADVICE
    else:
        files[LANDMARKER] = digest(folders.get_full_path("detection", LANDMARKER))
    if pair is None:
        absent["prompt, clip_plain, clip_photo, quality"] = CLIP_ADVICE
    else:
        files |= {path.name: digest(path) for path in pair}
    path = INCEPTION.find(folders)
    if path is None:
        absent[INCEPTION.measures] = INCEPTION.absence
    else:
        files[path.name] = digest(path)
    clip = open_pair(*pair) if pair else None
    opened = open_networks(folders, clip, mode, device)
    net = build_inception(read_weights(path, INCEPTION.advice).tensors) if path else None
    return Judges(
        analyser, place.name, finder, clip, net and net.to(device), opened.networks,
        files | opened.files, absent | opened.absent,
    )  # fmt: skip


def choose_pack(folders: Any, name: str | None) -> Path:
    packs: dict[str, Path] = {}
    for root in folders.get_folder_paths(FACE_PACKS):
        for place in sorted((Path(root) / "models").glob("*")):
            if any(place.rglob("*.onnx")):
                packs.setdefault(place.name, place)
    if name in packs:
        return packs[name]
    if name is None and FAVOURITE in packs:
        return packs[FAVOURITE]
    if name is None and len(packs) == 1:
        return next(iter(packs.values()))
    listed = ", ".join(packs) or "none"
    raise DataError(
        f"{len(packs)} face packs are in models/{FACE_PACKS}/models ({listed}), and "
        f"{'none is chosen' if name is None else f'{name} is not among them'}. "
        "Choose one: --judge PACK; `start.py models fetch vfa` gets antelopev2."
    )


def _open_landmarker(folders: Any) -> MeshFinder | None:
    """None without its file, and in a ComfyUI that has no landmarker."""
    try:
        from comfy_extras.mediapipe.face_geometry import transformation_matrix_from_detection
        from comfy_extras.nodes_mediapipe import LoadMediaPipeFaceLandmarker
    except ImportError:
        return None
    if not folders.get_full_path("detection", LANDMARKER):
        return None
    model = LoadMediaPipeFaceLandmarker.execute(LANDMARKER).args[0]
    return MeshFinder(model, transformation_matrix_from_detection)


def warn_of_kinship(judges: Judges, named: Mapping[str, Sequence[str]]) -> list[str]:
    """Rows whose graph reads the pack that also measures: it favours them.

    named: row -> files that its graph names.
    """
    start = f"{judges.pack}/"
    same = [row for row, files in named.items() if any(one.startswith(start) for one in files)]
    if not same:
        return []
    return [
        f"{judges.pack} measures the likeness and also makes the identities of {', '.join(same)}, "
        "which favours them; --judge PACK measures with another one"
    ]
