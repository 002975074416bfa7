"""Open a public IP-Adapter file for Stable Diffusion: a FlexIP adapter without personalisation.

Both layouts are read: safetensors with `image_proj.*` and `ip_adapter.*`, and the pickle of two
dictionaries. `adapter_modules.*` is another name of `ip_adapter.*`. The variant is told by the
tensors alone, but for the version of FaceID-plus.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import comfy.lora
import comfy.model_patcher
from torch import Tensor

from ..files.checks import MAX_LAYERS, check_finite, check_floating, shapes_of
from ..files.kinds import check_prefixes, find_kind, require, select_part
from ..files.modules import build
from ..files.tensor_file import TensorFile, digest, read_weights, tensors_digest
from .flexip import FAMILY, FlexIPAdapter, Stream
from .flexip_file import load_flexip
from .flexip_settings import FlexIPSettings
from .ip_tokens import Variant, find_variant

Version = Literal["auto", "v1", "v2"]
VERSIONS: tuple[Version, ...] = ("auto", "v1", "v2")

KINDS = ("ip_adapter", "ip_adapter_faceid")
NAME = "an IP-Adapter"
WANTED = (
    "IP-Adapter file for SD 1.5 or SDXL from https://huggingface.co/h94/IP-Adapter or "
    "h94/IP-Adapter-FaceID, in models/ipadapter"
)

_TOKENS, _LAYERS, _ALIAS = "image_proj.", "ip_adapter.", "adapter_modules."
_KEY_VALUE = re.compile(r"(\d{1,4})\.to_([kv])_ip\.weight")
_LORA = re.compile(r"(\d{1,4})\.to_(q|k|v|out)_lora\.(down|up)\.weight")
_PARTS = {"q": "to_q", "k": "to_k", "v": "to_v", "out": "to_out.0"}


def load_reference_adapter(path: str | Path, faceid_version: Version = "auto") -> FlexIPAdapter:
    """Open a FlexIP file, or a public IP-Adapter file as one, told by its tensors.

    Raises FileNotFoundError or ValueError, as the two loaders do.
    """
    kind = find_kind(read_weights(path, WANTED).shapes)
    if kind is not None and kind.key == FAMILY:
        return load_flexip(path)
    return load_ip_adapter(path, faceid_version)


def load_ip_adapter(path: str | Path, faceid_version: Version = "auto") -> FlexIPAdapter:
    """Open an IP-Adapter file of any size. Raises FileNotFoundError or ValueError.

    faceid_version: of FaceID-plus, whose two versions hold the same tensors; auto takes v2 when the
    file's name contains "plusv2", else v1. Other kinds of files are refused with what they are.
    """
    file = _open_file(path)
    variant = _find_variant(file, faceid_version)
    layers = _select(file, _LAYERS)
    stream = _read_stream(file, layers, variant.width)
    lora = {key: tensor for key, tensor in layers.items() if _LORA.fullmatch(key)}
    _check_lora(file, lora, len(stream.keys))
    tokens = _select(file, _TOKENS)
    context = "clip-h-penultimate" if "patches" in variant.reads else ""
    return FlexIPAdapter(
        name=file.path.name,
        digest=digest(file.path),
        encoder_digest=f"{tensors_digest(tokens)} {variant.name}",
        variant=f"IP-Adapter {variant.name}",
        settings=FlexIPSettings(context=context, null="pixels"),
        encoder=_build_tokens(file, variant, False, faceid_version),
        reads=MappingProxyType(variant.reads),
        tokens=variant.tokens,
        width=variant.width,
        preserve=stream,
        lora=MappingProxyType(lora),
    )


def load_token_maker(
    path: str | Path, faceid_version: Version, disable_dynamic: bool = False
) -> comfy.model_patcher.ModelPatcher:
    """What makes the tokens alone, for ComfyUI to rebuild it from the file."""
    file = _open_file(path)
    variant = _find_variant(file, faceid_version)
    return _build_tokens(file, variant, disable_dynamic, faceid_version)


def lora_patches(lora: Mapping[str, Tensor], attention: list[str]) -> dict[str, Any]:
    """FaceID's weight patches as `ModelPatcher.add_patches` takes them.

    attention: names in the model of all attention layers, "…attn1" and "…attn2" in turn, in the
    order of diffusers (down, up, middle). Raises ValueError when the numbers differ.
    """
    numbers = {int(key.split(".")[0]) for key in lora}
    if max(numbers) >= len(attention):
        raise ValueError(
            f"The file's LoRA patches attention layer {max(numbers)}; this model has "
            f"{len(attention)}, numbered from 0. Load the base model that the file was made for."
        )
    targets, weights = {}, {}
    for key, tensor in lora.items():
        number, part, side = _split_key(key)
        name = f"{number}.{part}"
        targets[name] = f"{attention[int(number)]}.{_PARTS[part]}.weight"
        weights[f"{name}.lora_{side}.weight"] = tensor
    return comfy.lora.load_lora(weights, targets)


def _split_key(key: str) -> tuple[str, str, str]:
    """Number, projection and side of a LoRA tensor, such as ("0", "q", "down")."""
    found = _LORA.fullmatch(key)
    if found is None:
        raise ValueError(f"{key!r} is no LoRA tensor of FaceID. Use the unmodified file.")
    number, part, side = found.groups()
    return number, part, side


def _open_file(path: str | Path) -> TensorFile:
    file = read_weights(path, WANTED)
    tensors = {
        _LAYERS + key.removeprefix(_ALIAS) if key.startswith(_ALIAS) else key: tensor
        for key, tensor in file.tensors.items()
    }
    file = TensorFile(file.path, tensors, file.metadata)
    require(file, KINDS, WANTED)
    check_prefixes(file, (_TOKENS, _LAYERS), NAME, WANTED)
    return file


def _select(file: TensorFile, prefix: str) -> dict[str, Tensor]:
    return select_part(file, (prefix,), NAME, WANTED)


def _find_variant(file: TensorFile, faceid_version: Version) -> Variant:
    shapes = shapes_of(_select(file, _TOKENS))
    has_lora = any(_LORA.fullmatch(key) for key in _select(file, _LAYERS))
    named = "plusv2" in file.path.name.lower().replace("_", "").replace("-", "")
    version = {"v1": 1, "v2": 2}.get(faceid_version, 2 if named else 1)
    variant = find_variant(shapes, has_lora, version, f"{file.path.name} ({_TOKENS}*)", WANTED)
    if faceid_version == "auto" and variant.name.startswith("FaceID-plus"):
        logging.info(f"{file.path.name} is taken for {variant.name}, by its name.")
    return variant


def _build_tokens(
    file: TensorFile, variant: Variant, disable_dynamic: bool, faceid_version: Version
) -> comfy.model_patcher.ModelPatcher:
    what = f"{file.path.name} ({_TOKENS}*)"
    rebuild = (load_token_maker, (file.path, faceid_version))
    tensors = _select(file, _TOKENS)
    return build(variant.make, tensors, what, WANTED, rebuild, disable_dynamic)


def _read_stream(file: TensorFile, layers: Mapping[str, Tensor], width: int) -> Stream:
    """Keys and values of `ip_adapter.1`, `.3`, ... in this order."""
    what = f"{file.path.name} ({_LAYERS}*)"
    check_floating(layers, what, WANTED)
    check_finite(layers, what, WANTED)
    found: dict[str, dict[int, Tensor]] = {"k": {}, "v": {}}
    for key, tensor in layers.items():
        match = _KEY_VALUE.fullmatch(key)
        if match:
            found[match[2]][int(match[1])] = tensor
        elif not _LORA.fullmatch(key):
            raise ValueError(
                f"{what} has a tensor {key[:60]}, which no IP-Adapter for Stable Diffusion has. "
                f"Use the unmodified {WANTED}."
            )
    keys, values = found["k"], found["v"]
    numbers = list(range(1, 2 * len(keys), 2))
    if not 0 < len(keys) <= MAX_LAYERS or sorted(keys) != numbers or sorted(values) != numbers:
        raise ValueError(
            f"{what} has {len(keys)} keys and {len(values)} values, expected the same number of "
            f"both, numbered 1, 3, 5, ... without gaps. Use the unmodified {WANTED}."
        )
    for number in numbers:
        shapes = tuple(keys[number].shape), tuple(values[number].shape)
        if shapes[0] != shapes[1] or len(shapes[0]) != 2 or shapes[0][1] != width:
            raise ValueError(
                f"{what}: layer {number} has keys of shape {shapes[0]} and values of {shapes[1]}, "
                f"expected the same (channels, {width}). Use the unmodified {WANTED}."
            )
    return Stream(tuple(keys[n] for n in numbers), tuple(values[n] for n in numbers))


def _check_lora(file: TensorFile, lora: Mapping[str, Tensor], count: int) -> None:
    """Every patch has both sides, of one rank, and belongs to one of the attention layers."""
    what = f"{file.path.name} ({_LAYERS}*_lora.*)"
    for key, down in lora.items():
        if ".down." not in key:
            continue
        up = lora.get(key.replace(".down.", ".up."))
        if up is None or down.ndim != 2 or up.ndim != 2 or up.shape[1] != down.shape[0]:
            shape = "missing" if up is None else tuple(up.shape)
            raise ValueError(
                f"{what}: {key} is {tuple(down.shape)} and its other half {shape}, expected "
                f"(rank, channels) and (channels, rank). Use the unmodified {WANTED}."
            )
    halves = sum(".down." in key for key in lora)
    numbers = {int(key.split(".")[0]) for key in lora}
    if 2 * halves != len(lora) or (numbers and max(numbers) >= 2 * count):
        raise ValueError(
            f"{what} has {len(lora)} tensors on layers 0 to {max(numbers)}, expected pairs on "
            f"layers 0 to {2 * count - 1}. Use the unmodified {WANTED}."
        )
