"""Open FaceCLIP's public encoders and keep only what a semantic residual needs.

The 12.5 GB pickle of FaceT5 holds T5 and CLIP-L besides its 2 GB of face encoder and fuser; it is
read through a memory map. FaceCLIP's file holds two towers, L and bigG.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import torch
from torch import Tensor, nn

from ..files.checks import shape_of, shapes_of
from ..files.kinds import find_kind
from ..files.modules import build
from ..files.public_files import FACE_CLIP, FACE_T5, FACECLIP_FOLDER
from ..files.tensor_file import TensorFile, digest, read_weights, tensors_digest
from .faceclip_fuser import Fuser, fuser_dims, live_tensors
from .faceclip_text import FaceText, text_dims
from .faceclip_vit import FaceVit, vit_dims

WANTED = (
    f"{FACE_T5.file} (Flux) or {FACE_CLIP.file} (SDXL, SD 1.5) from {FACECLIP_FOLDER}, or a file "
    "of the Convert FaceCLIP node, in models/flexid"
)

_MARK = re.compile(r"^(.*)fuser\.encoder\.fusion_layers\.0\.gamma_l$")
_TOWERS = {"encoder_2.": "t5", "face_clip_l.": "l", "face_clip_g.": "g"}
_VIT = "face_encoder."
_TEXT = ("token_embedding.", "transformer.", "ln_final.", "proj1.")

Patcher = comfy.model_patcher.ModelPatcher


@dataclass(frozen=True, eq=False)
class Tower:
    """One fuser with its face encoder; for L and bigG also its text tower."""

    key: str
    """t5, l or g."""
    face: Patcher
    """Holds a FaceVit."""
    fuser: Patcher
    """Holds a Fuser."""
    text: Patcher | None
    """Holds a FaceText; None for t5, which reads the model's own T5."""

    @property
    def width(self) -> int:
        return self.fuser.model.dims.width


@dataclass(frozen=True, eq=False)
class FaceClip:
    """An opened file. ComfyUI owns the weights through the towers' patchers."""

    name: str
    """File name."""
    digest: str
    """Content digest of the file, see `tensor_file.digest`."""
    encoder_digest: str
    """Digest of the face encoders' tensors alone: a published file and its conversion share it."""
    towers: tuple[Tower, ...]

    @property
    def family(self) -> str:
        return "faceclip_t5" if self.towers[0].key == "t5" else "faceclip"


def load_faceclip(path: str | Path) -> FaceClip:
    """Open face_t5_encoder.pt, face_clip_encoder.pt or a converted file, of any size.

    Raises FileNotFoundError or ValueError: what the file is, and which one is needed.
    """
    path = Path(path)
    parts = open_parts(path)
    towers = tuple(_build_tower(part, path, key) for key, part in parts.items())
    return FaceClip(path.name, digest(path), _digest_encoders(parts), towers)


def load_part(path: Path, tower: str, part: str, disable_dynamic: bool = False) -> Patcher:
    """One model of a file alone, for ComfyUI to build it again (second device, hooks).

    `tower` is t5, l or g; `part` is face, fuser or text. Raises like `load_faceclip`.
    """
    return _build_part(open_parts(path)[tower], path, tower, part, disable_dynamic)


def open_parts(path: str | Path) -> dict[str, dict[str, Tensor]]:
    """Tower key -> its tensors without prefix, dead ones included. Raises like `load_faceclip`."""
    file = read_weights(path, WANTED)
    tensors = {key.replace("model.", ""): tensor for key, tensor in file.tensors.items()}
    found = [match[1] for key in tensors if (match := _MARK.match(key))]
    if not found or not _TOWERS.keys() >= set(found):
        raise ValueError(_explain_refusal(file, found))
    present = {prefix: key for prefix, key in _TOWERS.items() if prefix in found}
    return {key: _select_part(tensors, prefix) for prefix, key in present.items()}


def _select_part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    wanted = ("positional_embedding", "face_", "fuser.", "text_embed", "text_pos", *_TEXT)
    names = {key: key[len(prefix) :] for key in tensors if key.startswith(prefix)}
    return {name: tensors[key] for key, name in names.items() if name.startswith(wanted)}


def _explain_refusal(file: TensorFile, found: list[str]) -> str:
    if found:
        return (
            f"{file.path.name} has a FaceCLIP fuser under {', '.join(map(repr, found))}, expected "
            f"{', '.join(_TOWERS)}. Use the unmodified {WANTED}."
        )
    kind = find_kind(file.shapes)
    if kind is not None:
        return f"{file.path.name} is {kind.name}. {kind.advice} Needed here: {WANTED}."
    names = ", ".join(sorted(file.shapes)[:3]) or "none"
    return (
        f"{file.path.name} has no FaceCLIP fuser among its {len(file.shapes)} tensors ({names}). "
        f"Needed here: {WANTED}."
    )


def _digest_encoders(parts: Mapping[str, Mapping[str, Tensor]]) -> str:
    """Over the face encoders of all towers, as far as they are read."""
    faces = {key: _select_face(part, key) for key, part in parts.items()}
    return tensors_digest({f"{key}.{k}": t for key, face in faces.items() for k, t in face.items()})


def _build_tower(tensors: Mapping[str, Tensor], path: Path, key: str) -> Tower:
    face, fuser = (_build_part(tensors, path, key, part) for part in ("face", "fuser"))
    text = None if key == "t5" else _build_part(tensors, path, key, "text")
    return Tower(key, face, fuser, text)


def _build_part(
    tensors: Mapping[str, Tensor], path: Path, tower: str, part: str, disable_dynamic: bool = False
) -> Patcher:
    what = f"{path.name} ({tower})"
    make, kept = _PARTS[part](tensors, what, tower)
    return build(make, kept, what, WANTED, (load_part, (path, tower, part)), disable_dynamic)


Plan = tuple[Callable[..., nn.Module], dict[str, Tensor]]
"""What makes a model, see `modules.build`, and the tensors that belong into it."""


def _plan_face(tensors: Mapping[str, Tensor], what: str, tower: str) -> Plan:
    kept = _select_face(tensors, tower)
    return partial(FaceVit, vit_dims(shapes_of(kept), what, WANTED)), kept


def _select_face(tensors: Mapping[str, Tensor], tower: str) -> dict[str, Tensor]:
    """The face encoder's tensors without prefix; t5 never reads the head's vector."""
    vit = {k[len(_VIT) :]: t for k, t in tensors.items() if k.startswith(_VIT)}
    head = ("feature.",) if tower == "t5" else ()
    return {
        key: tensor
        for key, tensor in vit.items()
        if not key.endswith(("mask_token", "num_batches_tracked")) and not key.startswith(head)
    }


def _plan_fuser(tensors: Mapping[str, Tensor], what: str, tower: str) -> Plan:
    rest = {key: tensor for key, tensor in tensors.items() if not key.startswith(_VIT)}
    dims = fuser_dims(shapes_of(rest), what, WANTED)
    return partial(Fuser, dims), live_tensors(rest, dims)


def _plan_text(tensors: Mapping[str, Tensor], what: str, tower: str) -> Plan:
    kept = {
        key.replace("in_proj_", "in_proj."): tensor
        for key, tensor in tensors.items()
        if key.startswith((*_TEXT, "positional_embedding"))
    }
    shapes = shapes_of(kept)
    dims = text_dims(shapes, what, WANTED)
    face = shape_of(shapes, "proj1.weight", 2, what, WANTED)[1]
    return partial(FaceText, dims, face), kept


_PARTS = {"face": _plan_face, "fuser": _plan_fuser, "text": _plan_text}


def run(patcher: Patcher, *inputs: Tensor | None) -> Any:
    """The patcher's model on these inputs in float32 (integers stay), result on the CPU."""
    size = sum(4 * value.numel() for value in inputs if value is not None)
    comfy.model_management.load_models_gpu([patcher], memory_required=48 * size)
    device = patcher.load_device
    moved = [
        value
        if value is None
        else value.to(device, torch.float32)
        if value.is_floating_point()
        else value.to(device)
        for value in inputs
    ]
    with torch.no_grad():
        out = patcher.model(*moved)
    if isinstance(out, tuple):
        return tuple(part if part is None else part.cpu() for part in out)
    return out.cpu()
