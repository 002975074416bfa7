"""Opens the encoders that a training on a Flux reads its data with: face pack, EVA-CLIP, VAE, T5
and CLIP-L."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import comfy.sd
import comfy.utils

from ..encoders.eva_clip import VisionEncoder, load_eva_clip
from ..encoders.mini_text import load_mini_clip, stated_family
from ..face.pack import read_pack
from ..files.header import Header, peek
from ..files.tensor_file import digest
from .face_features import Encoders, FaceEncoder, FaceMaker, Prints, open_analyser
from .frozen_base import Anchors

PREFIX = "model.diffusion_model."


class FluxFiles(Protocol):
    """The files that a job names."""

    @property
    def eva(self) -> Path: ...
    @property
    def faces(self) -> Path: ...
    @property
    def parsing(self) -> Path | None: ...
    @property
    def vae(self) -> Path: ...
    @property
    def t5(self) -> Path: ...
    @property
    def clip_l(self) -> Path: ...


def size_of(header: Header) -> Anchors | None:
    """The sizes of a Flux; None for a layout in which its header does not tell them."""
    shapes = {key.removeprefix(PREFIX): shape for key, shape in header.shapes.items()}
    width = shapes.get("img_in.weight", (0,))[0]
    if not width:
        return None
    doubles, singles = (
        len({key.split(".")[1] for key in shapes if key.startswith(f"{stack}_blocks.")})
        for stack in ("double", "single")
    )
    return Anchors(width, doubles, singles)


def prints_of(files: FluxFiles, encoder: str) -> Prints:
    """Of everything that features are made by; encoder: a digest of what reads the faces, or its
    name. Raises FileNotFoundError."""
    pack = sorted(read_pack(files.faces).roles)
    face_files = [*pack, files.eva, *([files.parsing] if files.parsing else [])]
    faces = (*map(digest, face_files), encoder)
    return Prints(repr(faces), digest(files.vae), repr((digest(files.t5), digest(files.clip_l))))


def encoders_of(files: FluxFiles, encode: Callable[[VisionEncoder], FaceEncoder]) -> Encoders:
    """Each is opened when it is needed. encode: an adapter's reader of faces, by EVA-CLIP."""

    def open_faces() -> FaceMaker:
        analyser = open_analyser(files.faces, "antelopev2", files.parsing)
        return FaceMaker(analyser, encode(load_eva_clip(files.eva)))

    return Encoders(
        open_faces, lambda: open_vae(files.vae), lambda: open_clip(files.t5, files.clip_l)
    )


def open_vae(path: Path) -> Any:
    """A comfy.sd.VAE. Raises ValueError for another file."""
    state, metadata = comfy.utils.load_torch_file(str(path), return_metadata=True)
    vae = comfy.sd.VAE(sd=state, metadata=metadata)
    if vae.first_stage_model is None:
        raise ValueError(f"{path.name} is no VAE that ComfyUI knows. Name Flux's, ae.safetensors.")
    return vae


def open_clip(t5: Path, clip_l: Path) -> comfy.sd.CLIP:
    """Flux's two text encoders, full size or the small world's."""
    header = peek(t5)
    if header is not None and stated_family(header.metadata):
        return load_mini_clip(t5, clip_l)
    return comfy.sd.load_clip([str(clip_l), str(t5)], clip_type=comfy.sd.CLIPType.FLUX)
