"""Open FaceCLIP's public encoders and keep only what a semantic residual needs.

The 12.5 GB pickle of FaceT5 holds T5 and CLIP-L besides its 2 GB of face encoder and fuser; it is
read through a memory map. FaceCLIP's file holds two towers, L and bigG.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.utils
import torch
from torch import Tensor, nn

from ..files.kinds import recognise
from ..files.public_files import FACE_CLIP, FACE_T5, FACECLIP_FOLDER
from ..files.tensor_file import TensorFile, check_floating, check_shapes, digest, read_weights
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
    digest: str
    towers: tuple[Tower, ...]

    @property
    def family(self) -> str:
        return "faceclip_t5" if self.towers[0].key == "t5" else "faceclip"


def load_faceclip(path: str | Path) -> FaceClip:
    """Open face_t5_encoder.pt, face_clip_encoder.pt or a converted file, of any size.

    Raises FileNotFoundError or ValueError: what the file is, and which one is needed.
    """
    parts = open_parts(path)
    towers = tuple(_tower(key, part, Path(path)) for key, part in parts.items())
    return FaceClip(Path(path).name, digest(path), towers)


def open_parts(path: str | Path) -> dict[str, dict[str, Tensor]]:
    """Tower key -> its tensors without prefix, dead ones included. Raises like `load_faceclip`."""
    file = read_weights(path, WANTED)
    tensors = {key.replace("model.", ""): tensor for key, tensor in file.tensors.items()}
    found = [match[1] for key in tensors if (match := _MARK.match(key))]
    keys = {prefix: _TOWERS.get(prefix) for prefix in found}
    if not found or None in keys.values():
        raise ValueError(_refusal(file, found))
    order = sorted(keys, key=lambda prefix: list(_TOWERS).index(prefix))
    return {keys[prefix]: _part(tensors, prefix) for prefix in order}


def _part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    wanted = ("positional_embedding", "face_", "fuser.", "text_embed", "text_pos", *_TEXT)
    names = {key: key[len(prefix) :] for key in tensors if key.startswith(prefix)}
    return {name: tensors[key] for key, name in names.items() if name.startswith(wanted)}


def _refusal(file: TensorFile, found: list[str]) -> str:
    if found:
        return (
            f"{file.path.name} has a FaceCLIP fuser under {', '.join(map(repr, found))}, expected "
            f"{', '.join(_TOWERS)}. Use the unmodified {WANTED}."
        )
    kind = recognise(file.shapes)
    if kind is not None:
        return f"{file.path.name} is {kind.name}. {kind.advice} Needed here: {WANTED}."
    names = ", ".join(sorted(file.shapes)[:3]) or "none"
    return (
        f"{file.path.name} has no FaceCLIP fuser among its {len(file.shapes)} tensors ({names}). "
        f"Needed here: {WANTED}."
    )


def _tower(key: str, part: dict[str, Tensor], path: Path) -> Tower:
    what = f"{path.name} ({key})"
    vit = {k[len(_VIT) :]: t for k, t in part.items() if k.startswith(_VIT)}
    rest = {k: t for k, t in part.items() if not k.startswith(_VIT)}
    text = None if key == "t5" else _build(_text_model, rest, what, path, key)
    if key == "t5":
        vit = {k: t for k, t in vit.items() if not k.startswith("feature.")}
    return Tower(
        key,
        _build(_vit_model, vit, what, path, key),
        _build(_fuser_model, rest, what, path, key),
        text,
    )


Recipe = Callable[[Mapping[str, Tensor], str], tuple[Callable[..., nn.Module], dict[str, Tensor]]]


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {key: tuple(tensor.shape) for key, tensor in tensors.items()}


def _vit_model(tensors: Mapping[str, Tensor], what: str) -> tuple[Callable, dict[str, Tensor]]:
    dims = vit_dims(_shapes(tensors), what, WANTED)
    dropped = ("mask_token", "num_batches_tracked")
    kept = {k: t for k, t in tensors.items() if not k.endswith(dropped)}
    return lambda operations, **factory: FaceVit(dims, operations, **factory), kept


def _fuser_model(tensors: Mapping[str, Tensor], what: str) -> tuple[Callable, dict[str, Tensor]]:
    dims = fuser_dims(_shapes(tensors), what, WANTED)
    return lambda operations, **factory: Fuser(dims, operations, **factory), live_tensors(
        tensors, dims
    )


def _text_model(tensors: Mapping[str, Tensor], what: str) -> tuple[Callable, dict[str, Tensor]]:
    dims = text_dims(_shapes(tensors), what, WANTED)
    kept = {
        key.replace("in_proj_", "in_proj."): tensor
        for key, tensor in tensors.items()
        if key.startswith((*_TEXT, "positional_embedding"))
    }
    face = tensors["proj1.weight"].shape[1] if "proj1.weight" in tensors else 512
    return lambda operations, **factory: FaceText(dims, face, operations, **factory), kept


def _build(
    recipe: Recipe,
    tensors: Mapping[str, Tensor],
    what: str,
    path: Path,
    key: str,
    disable_dynamic: bool = False,
) -> Patcher:
    """A model with these weights in a ModelPatcher; strictly matched."""
    make, kept = recipe(tensors, what)
    check_floating(kept, what, WANTED)
    check_shapes(_shapes(kept), _shapes(make(nn, device="meta").state_dict()), what, WANTED)
    offload = comfy.model_management.unet_offload_device()
    dtype = comfy.utils.weight_dtype(kept)
    module = make(comfy.ops.manual_cast, device=offload, dtype=dtype).eval()
    core = comfy.model_patcher
    patch = core.ModelPatcher if disable_dynamic else core.CoreModelPatcher
    load_device = comfy.model_management.get_torch_device()
    patcher = patch(module, load_device=load_device, offload_device=offload)
    module.load_state_dict(kept, strict=True, assign=patcher.is_dynamic())
    module.requires_grad_(False)
    patcher.cached_patcher_init = (_rebuild, (path, key, recipe.__name__))
    return patcher


def _rebuild(path: Path, key: str, recipe: str, disable_dynamic: bool = False) -> Patcher:
    """One model again from the file, as ComfyUI asks for on a second device."""
    part = open_parts(path)[key]
    if recipe == _vit_model.__name__:
        part = {k[len(_VIT) :]: t for k, t in part.items() if k.startswith(_VIT)}
        if key == "t5":
            part = {k: t for k, t in part.items() if not k.startswith("feature.")}
    recipes = {one.__name__: one for one in (_vit_model, _fuser_model, _text_model)}
    return _build(recipes[recipe], part, path.name, path, key, disable_dynamic)


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
