"""Opens what a training of an identity adapter reads, and refuses what does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import nn

from ..adapters.pulid_flux import FAMILY, IdentityAdapter, encode_tokens
from ..encoders.eva_clip import VisionEncoder
from ..face.align import arcface_crop
from ..face.face import Face
from ..face.pack import RECOGNITION, load_model, read_pack
from ..face.providers import CPU
from ..face.recogniser import make_recogniser
from ..files.header import peek
from ..identity.encode import encode_identity
from ..inject.flux import FITTING
from .face_features import FeatureStore, Made, shrink
from .flux_encoders import FluxFiles, size_of
from .pictures import read_picture
from .pulid_likeness import Likeness, open_decoder
from .pulid_rows import Row


class Files(FluxFiles, Protocol):
    """The files of a job."""

    @property
    def decoder(self) -> Path | None: ...


def check_base(path: Path, adapter: IdentityAdapter) -> None:
    """Raise ValueError for a base of another kind or size, by its header: before it is read.

    What the header does not tell (other layouts of a Flux file) is checked once it is open.
    """
    header = peek(path)
    if header is None:
        raise ValueError(
            f"{path.name} is no weight file that can be trained beside; expected a Flux.1 as "
            f".safetensors, in 16 bits (no GGUF). Name {FITTING}."
        )
    if header.kind != "flux":
        raise ValueError(
            f"{path.name} is {header.kind or 'of no known kind'}, a Flux.1 is needed for "
            f"{adapter.name}. Name {FITTING}."
        )
    size = size_of(header)
    if size is None:
        return
    width, counts = size.hidden, (size.doubles, size.singles)
    layers = len(adapter.blocks or size.blocks)
    if (layers, width) != (adapter.count, adapter.dim):
        raise ValueError(
            f"{path.name} has {counts[0]} double and {counts[1]} single blocks of width {width}, "
            f"for {layers} layers; {adapter.name} has {adapter.count} layers of width "
            f"{adapter.dim}. Name the base that it was made for: {FITTING}."
        )


class PulidFaces:
    """The identity tokens of PuLID-FLUX: a FaceEncoder."""

    def __init__(self, adapter: IdentityAdapter, vision: VisionEncoder) -> None:
        self.adapter, self.vision = adapter, vision

    def of(self, face: Face, picture: Image.Image, name: str) -> Made:
        """tokens (N, C)."""
        encoding = encode_identity(self.adapter, self.vision, [face]).identity.encodings[FAMILY]
        return {"tokens": shrink(encoding.tokens[0], name)}

    def nobody(self) -> Made:
        """tokens (N, C): the encoder's answer to zeros."""
        dims, seen = self.adapter.encoder.model.dims, self.vision.dims.tokens
        nothing = torch.zeros(1, 1, dims.condition), torch.zeros(1, dims.groups, seen, dims.vision)
        return {"tokens": shrink(encode_tokens(self.adapter, *nothing)[0], "nobody")}


def open_recogniser(folder: Path) -> nn.Module:
    """The recogniser of a face pack in torch, frozen.

    Raises FileNotFoundError for a folder without one, ValueError for operations that are not known,
    RuntimeError where it answers differently than in onnxruntime.
    """
    pack = read_pack(folder)
    path = pack.first(RECOGNITION)
    if path is None:
        raise FileNotFoundError(
            f"{folder} has 0 recognisers, and --likeness needs one. Name antelopev2's folder, or "
            "train with --likeness 0."
        )
    known, _ = load_model(path, [CPU])
    return make_recogniser(known, path, pack.name).network.model


def make_likeness(
    files: Files,
    latent_format: Any,
    recogniser: nn.Module,
    store: FeatureStore,
    rows: Sequence[Row],
    device: torch.device,
) -> Likeness:
    """The identity loss, after a look at whether the recogniser is the face pack's.

    Raises ValueError where it is not.
    """
    decode = open_decoder(files.decoder or files.vae, latent_format, device)
    likeness = Likeness(decode, recogniser)
    for row in rows:
        face = store.face(row.photo)
        if "points" not in face or store.data.photos[row.photo].points is not None:
            continue
        picture = read_picture(store.data.photos[row.photo].path)
        crop = arcface_crop(np.array(picture), face["points"].numpy())
        seen = torch.from_numpy(crop).float().permute(2, 0, 1)[None].to(device) / 127.5 - 1
        likeness.check(seen, face["embedding"][None])
        break
    return likeness
