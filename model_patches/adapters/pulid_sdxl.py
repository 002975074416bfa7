"""Open a PuLID file for SDXL, version 1 or 1.1, in its authors' layout or in IPAdapter's.

Version 1 has an encoder of its own, version 1.1 the IDFormer of PuLID-FLUX. Both feed keys and
values of every cross-attention of the UNet. Source: PuLID (arXiv 2404.16022).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import comfy.model_patcher
import torch
from torch import Tensor, nn

from ..files.checks import Shapes, check_finite, check_floating, count_layers, shape_of, shapes_of
from ..files.kinds import check_prefixes, require, select_part
from ..files.modules import build
from ..files.tensor_file import TensorFile, digest, read_weights, tensors_digest
from .flexip import Stream
from .idformer import IDFormer, idformer_dims, make_mapping

FAMILY = "pulid_sdxl"
NAME = "a PuLID adapter"
KINDS = ("pulid_sdxl_v1", "pulid_sdxl_v1.1", "pulid_sdxl_ipadapter")
WANTED = (
    "pulid_v1.1.safetensors or pulid_v1.bin from https://huggingface.co/guozinan/PuLID, in "
    "models/pulid"
)
MAIN_TOKENS = 5
"""Tokens that version 1 makes of the condition, before one for each level of the tower."""

_ENCODERS = ("id_adapter.", "image_proj.")
_LAYERS = ("id_adapter_attn_layers.", "ip_adapter.")
_KEY_VALUE = re.compile(r"(\d{1,4})\.(?:id_)?to_([kv])(?:_ip)?\.weight")


@dataclass(frozen=True, eq=False)
class SdxlAdapter:
    """A loaded adapter. ComfyUI owns the encoder's weights through `encoder`."""

    name: str
    """File name."""
    digest: str
    """Content digest of the file, see `tensor_file.digest`."""
    encoder_digest: str
    """Digest of the encoder's tensors alone, the same in both layouts."""
    version: str
    """"1" or "1.1"."""
    encoder: comfy.model_patcher.ModelPatcher
    """Holds an IdEncoder or an IDFormer."""
    stream: Stream
    """Keys and values, in the order of diffusers' attention layers."""

    family = FAMILY

    @property
    def patcher(self) -> comfy.model_patcher.ModelPatcher:
        """Where ComfyUI's caches look for a model's patcher."""
        return self.encoder

    @property
    def token_dim(self) -> int:
        """Channels of an identity token."""
        return self.encoder.model.dims.output

    @property
    def tokens(self) -> int:
        """Identity tokens per encoded photo."""
        return self.encoder.model.dims.queries


@dataclass(frozen=True)
class IdEncoderDims:
    """Sizes: `condition` channels in, `groups` levels of `vision` channels, `queries` tokens of
    `output` channels out."""

    condition: int
    hidden: int
    vision: int
    groups: int
    output: int
    queries: int


class IdEncoder(nn.Module):
    """PuLID v1: (condition, hidden) -> identity tokens (B, 5 + levels, output).

    Inputs as IDFormer takes them. Several photos of one person are concatenated: all tokens of the
    first, and the first five of each further one.
    """

    def __init__(self, dims: IdEncoderDims, operations: Any = nn, **factory: Any) -> None:
        super().__init__()
        self.dims = dims
        sizes = (dims.hidden, MAIN_TOKENS * dims.output)
        self.body = make_mapping(dims.condition, *sizes, operations, **factory)
        for level in range(dims.groups):
            for name in (f"mapping_{level}", f"mapping_patch_{level}"):
                sizes = (dims.vision, dims.hidden, dims.output)
                self.add_module(name, make_mapping(*sizes, operations, **factory))

    def forward(self, condition: Tensor, hidden: Tensor) -> Tensor:
        """condition (B, n, C), hidden (B, levels, n * T, vision)."""
        photos = condition.shape[1]
        looks = hidden.unflatten(2, (photos, -1))
        tokens = [self.body(condition[:, 0]).unflatten(-1, (MAIN_TOKENS, -1))]
        tokens += [self._look(looks[:, level, 0], level) for level in range(self.dims.groups)]
        tokens += [
            self.body(condition[:, photo]).unflatten(-1, (MAIN_TOKENS, -1))
            for photo in range(1, photos)
        ]
        return torch.cat(tokens, dim=1)

    def _look(self, level: Tensor, number: int) -> Tensor:
        """One level (B, T, vision), class token first -> one token (B, 1, output)."""
        whole = self.get_submodule(f"mapping_{number}")(level[:, :1])
        patches = self.get_submodule(f"mapping_patch_{number}")(level[:, 1:])
        return whole + patches.mean(dim=1, keepdim=True)


def load_sdxl_adapter(path: str | Path) -> SdxlAdapter:
    """Open a PuLID file for SDXL of any size. Raises FileNotFoundError or ValueError.

    Every other kind of file is refused with what it is; missing, extra and misshapen tensors are
    counted and named.
    """
    file = _open_file(path)
    encoder, layers = (_select(file, prefixes) for prefixes in (_ENCODERS, _LAYERS))
    patcher = _build_encoder(file, encoder, False)
    return SdxlAdapter(
        name=file.path.name,
        digest=digest(file.path),
        encoder_digest=tensors_digest(encoder),
        version="1.1" if "latents" in encoder else "1",
        encoder=patcher,
        stream=_read_stream(file, layers, patcher.model.dims.output),
    )


def load_sdxl_encoder(
    path: str | Path, disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    """The encoder alone, for ComfyUI to rebuild it from the file (second device, hooks)."""
    file = _open_file(path)
    return _build_encoder(file, _select(file, _ENCODERS), disable_dynamic)


def _open_file(path: str | Path) -> TensorFile:
    file = read_weights(path, WANTED)
    require(file, KINDS, WANTED)
    check_prefixes(file, (*_ENCODERS, *_LAYERS), f"{NAME} for SDXL", WANTED)
    return file


def _select(file: TensorFile, prefixes: tuple[str, ...]) -> dict[str, Tensor]:
    return select_part(file, prefixes, NAME, WANTED)


def _build_encoder(
    file: TensorFile, tensors: Mapping[str, Tensor], disable_dynamic: bool
) -> comfy.model_patcher.ModelPatcher:
    what = f"{file.path.name} (its encoder)"
    shapes = shapes_of(tensors)
    make: Callable[..., nn.Module]
    if "latents" in shapes:
        make = partial(IDFormer, idformer_dims(shapes, what, WANTED))
    else:
        make = partial(IdEncoder, _read_dims(shapes, what))
    rebuild = (load_sdxl_encoder, (file.path,))
    return build(make, tensors, what, WANTED, rebuild, disable_dynamic)


def _read_dims(shapes: Shapes, what: str) -> IdEncoderDims:
    def read(key: str) -> tuple[int, ...]:
        return shape_of(shapes, key, 2, what, WANTED)

    hidden, condition = read("body.0.weight")
    groups = count_layers([k for k in shapes if "patch" not in k], "mapping_", what, WANTED)
    output = read("mapping_0.6.weight")[0]
    vision = read("mapping_0.0.weight")[1]
    return IdEncoderDims(condition, hidden, vision, groups, output, MAIN_TOKENS + groups)


def _read_stream(file: TensorFile, layers: Mapping[str, Tensor], width: int) -> Stream:
    """Keys and values of the layers 1, 3, 5, ..., in this order."""
    what = f"{file.path.name} (its attention layers)"
    check_floating(layers, what, WANTED)
    check_finite(layers, what, WANTED)
    found: dict[str, dict[int, Tensor]] = {"k": {}, "v": {}}
    foreign = []
    for key, tensor in layers.items():
        match = _KEY_VALUE.fullmatch(key)
        if match and tensor.ndim == 2 and tensor.shape[1] == width:
            found[match[2]][int(match[1])] = tensor
        else:
            foreign.append(f"{key[:60]} {tuple(tensor.shape)}")
    keys, values = found["k"], found["v"]
    numbers = list(range(1, 2 * len(keys), 2))
    same = all(n in values and values[n].shape == keys[n].shape for n in keys)
    if foreign or not keys or not same or sorted(keys) != numbers or sorted(values) != numbers:
        raise ValueError(
            f"{what} has {len(keys)} keys and {len(values)} values that fit, and {len(foreign)} "
            f"tensors that do not ({', '.join(foreign[:3]) or 'none'}); expected as many keys as "
            f"values of (channels, {width}), numbered 1, 3, 5, ... Use the unmodified {WANTED}."
        )
    return Stream(tuple(keys[n] for n in numbers), tuple(values[n] for n in numbers))
