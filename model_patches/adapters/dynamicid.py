"""Open DynamicID's SAA file for SD 1.5: what makes face tokens, the keys and values with which
every cross-attention reads them, and a LoRA on all attention layers.

Source: DynamicID (arXiv 2503.06505). The face encoder is that of IP-Adapter FaceID-plus v1, and a
file of the trainer holds the same tensors under that layout's names, so these are read as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import comfy.model_management
import comfy.model_patcher
import torch
from torch import Tensor

from ..files.checks import (
    MAX_LAYERS,
    Shapes,
    check_finite,
    check_floating,
    check_shapes,
    shape_of,
    shapes_of,
)
from ..files.kinds import require, select_part
from ..files.modules import build
from ..files.tensor_file import TensorFile, digest, read_weights, tensors_digest
from .flexip import Stream
from .ip_tokens import FacePlusTokens, Features, Variant, find_variant

FAMILY = "dynamicid"
KINDS = ("dynamicid_saa", "ip_adapter_faceid")
NAME = "a DynamicID adapter"
WANTED = (
    "SAA.bin from https://huggingface.co/meteorite2023/DynamicID, or what Convert DynamicID made "
    "of it, in models/dynamicid"
)

TOKENS = ("proj_module.", "image_proj.")
LAYERS = ("SAA_module.", "adapter_modules.", "ip_adapter.")
_PARTS = ("q", "k", "v", "out")


@dataclass(frozen=True, eq=False)
class DynamicIDAdapter:
    """A loaded SAA file. ComfyUI owns the face encoder's weights through `encoder`."""

    name: str
    """File name."""
    digest: str
    """Content digest of the file, see `tensor_file.digest`."""
    encoder_digest: str
    """Digest of the face encoder's tensors alone: identities are bound to it."""
    encoder: comfy.model_patcher.ModelPatcher
    """Holds a FacePlusTokens without its shortcut."""
    stream: Stream
    """Keys and values, in the order of diffusers' attention layers."""
    lora: Mapping[str, Tensor]
    """Weight patches by the keys "0.to_q_lora.down.weight" ..., as FaceID files name them."""
    tokens: int
    """Face tokens of one person: 4."""
    width: int
    """Channels of a token: the model's text width."""
    face: int
    """Values of the recogniser's embedding."""
    clip: int
    """Channels of CLIP's last layer but one."""

    family = FAMILY

    @property
    def patcher(self) -> comfy.model_patcher.ModelPatcher:
        """Where ComfyUI's caches look for a model's patcher."""
        return self.encoder

    def describe(self) -> str:
        """What the file is, in one line."""
        rank = next(iter(self.lora.values())).shape[0]
        return (
            f"DynamicID SAA: {len(self.stream.keys)} blocks, text of {self.width} channels, "
            f"{self.tokens} face tokens, LoRA of rank {rank} on {2 * len(self.stream.keys)} "
            "attention layers"
        )


def load_dynamicid(path: str | Path) -> DynamicIDAdapter:
    """Open SAA.bin, or a safetensors of the same keys. Raises FileNotFoundError or ValueError.

    Sizes are read from the tensors. Every other kind of file is refused with what it is; missing,
    extra and misshapen tensors are counted and named.
    """
    file = _open_file(path)
    variant = _find_variant(file)
    layers = select_part(file, LAYERS, NAME, WANTED)
    what = f"{file.path.name} (its attention layers)"
    check_floating(layers, what, WANTED)
    count = _check_layers(shapes_of(layers), variant.width, what)
    check_finite(layers, what, WANTED)
    numbers = range(1, 2 * count, 2)
    tokens = select_part(file, TOKENS, NAME, WANTED)
    return DynamicIDAdapter(
        name=file.path.name,
        digest=digest(file.path),
        encoder_digest=tensors_digest(tokens),
        encoder=_build_encoder(file, variant, False),
        stream=Stream(
            tuple(layers[f"{number}.to_k_ip.weight"] for number in numbers),
            tuple(layers[f"{number}.to_v_ip.weight"] for number in numbers),
        ),
        lora=MappingProxyType({key: value for key, value in layers.items() if "_lora." in key}),
        tokens=variant.tokens,
        width=variant.width,
        face=variant.reads["face"],
        clip=variant.reads["patches"],
    )


def load_face_encoder(
    path: str | Path, disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    """The face encoder alone, for ComfyUI to rebuild it from the file (second device, hooks)."""
    file = _open_file(path)
    return _build_encoder(file, _find_variant(file), disable_dynamic)


def make_face_tokens(adapter: DynamicIDAdapter, face: Tensor, clip: Tensor) -> Tensor:
    """face (B, 512), clip (B, T, 1280) -> face tokens (B, 4, width), float32 on the CPU.

    face: the recogniser's embedding, of any length; zeros stand for nobody.
    """
    patcher = adapter.encoder
    comfy.model_management.load_models_gpu([patcher])
    features: Features = {"face": face, "patches": clip}
    moved = {name: x.to(patcher.load_device, torch.float32) for name, x in features.items()}
    with torch.no_grad():
        return patcher.model(moved).to("cpu", torch.float32)


def _open_file(path: str | Path) -> TensorFile:
    file = read_weights(path, WANTED)
    require(file, KINDS, WANTED)
    known = next(iter(LAYERS)), next(iter(TOKENS))
    prefixes = {
        prefix for group in (TOKENS, LAYERS) for prefix in group if _begins(file.tensors, prefix)
    }
    if len(prefixes) > 2:
        names = ", ".join(sorted(prefixes))
        raise ValueError(
            f"{file.path.name} has tensors under {len(prefixes)} prefixes ({names}), expected one "
            f"of each kind, such as {' and '.join(known)}. Use the unmodified {WANTED}."
        )
    foreign = [key for key in file.tensors if not key.startswith(tuple(prefixes))]
    if foreign:
        raise ValueError(
            f"{file.path.name} is {NAME} with {len(foreign)} tensors that do not belong to it "
            f"({', '.join(foreign[:3])}). Use the unmodified {WANTED}."
        )
    return file


def _begins(tensors: Mapping[str, Tensor], prefix: str) -> bool:
    return any(key.startswith(prefix) for key in tensors)


def _find_variant(file: TensorFile) -> Variant:
    shapes = shapes_of(select_part(file, TOKENS, NAME, WANTED))
    what = f"{file.path.name} (its face encoder)"
    variant = find_variant(shapes, True, 1, what, WANTED)
    if set(variant.reads) != {"face", "patches"}:
        reads = " and ".join(variant.reads)
        raise ValueError(
            f"{what} is that of IP-Adapter {variant.name}, which reads {reads}; DynamicID's reads "
            f"face and patches. Open it with Load FlexIP Adapter, or use {WANTED}."
        )
    return variant


def _check_layers(shapes: Shapes, width: int, what: str) -> int:
    """The number of cross-attentions. Raises ValueError unless all their tensors are there.

    Numbers are even for self-attention, odd for the cross-attention of the same block.
    """
    count = sum(key.endswith(".to_k_ip.weight") for key in shapes)
    if not 0 < count <= MAX_LAYERS:
        raise ValueError(
            f"{what} have keys for {count} blocks, expected 1 to {MAX_LAYERS}. Use the unmodified "
            f"{WANTED}."
        )
    rank = shape_of(shapes, "0.to_q_lora.down.weight", 2, what, WANTED)[0]
    expected: dict[str, tuple[int, ...]] = {}
    for block in range(count):
        cross = 2 * block + 1
        inner = shape_of(shapes, f"{cross}.to_k_ip.weight", 2, what, WANTED)[0]
        expected |= {f"{cross}.to_{part}_ip.weight": (inner, width) for part in "kv"}
        for number, text in ((cross - 1, inner), (cross, width)):
            for part in _PARTS:
                entry = text if part in "kv" else inner
                expected[f"{number}.to_{part}_lora.down.weight"] = (rank, entry)
                expected[f"{number}.to_{part}_lora.up.weight"] = (inner, rank)
    check_shapes(shapes, expected, what, WANTED)
    return count


def _build_encoder(
    file: TensorFile, variant: Variant, disable_dynamic: bool
) -> comfy.model_patcher.ModelPatcher:
    what = f"{file.path.name} (its face encoder)"
    rebuild = (load_face_encoder, (file.path,))
    tensors = select_part(file, TOKENS, NAME, WANTED)
    patcher = build(variant.make, tensors, what, WANTED, rebuild, disable_dynamic)
    assert isinstance(patcher.model, FacePlusTokens)
    return patcher
