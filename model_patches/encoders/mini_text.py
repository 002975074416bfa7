"""The small T5 and CLIP-L of the embedded model, as the CLIP that ComfyUI builds for FLUX.

ComfyUI's loaders know these families in one size only, so each small file states its size in its
metadata. A statement that differs from the file's tensors is refused: ComfyUI would only log it,
and leave uninitialised memory in the model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import comfy.sd

from ..files.checks import (
    MAX_HEAD,
    MIN_HEAD,
    Shapes,
    check_finite,
    check_floating,
    count_layers,
    shape_of,
)
from ..files.tensor_file import TensorFile, read_weights

KEY = "flexid_text_encoder"
"""Metadata entry of a small text encoder file: JSON of its family and config, and for a T5 perhaps
"min_length": the number of tokens that shorter prompts were padded to in training."""
MAX_LENGTH = 512
"""Tokens: FLUX's T5 was trained with at most so many."""
WANTED = (
    "the small text encoders that `python3 start.py demo` builds; full-size files open with "
    "DualCLIPLoader, type flux"
)


@dataclass(frozen=True)
class StatedSize:
    """What a small text encoder file states about itself."""

    config: dict[str, int]
    """In the keys of ComfyUI's own configuration files."""
    min_length: int | None
    """Tokens that shorter prompts are padded to; None: FLUX's own number."""


def load_mini_clip(t5: str | Path, clip_l: str | Path) -> comfy.sd.CLIP:
    """Both encoders as the CLIP that ComfyUI builds for FLUX, at the sizes the files state.

    Prompts are padded as the T5 file states, or to FLUX's own 256 tokens. Raises like `read_size`.
    """
    size = read_size(t5, "t5xxl")
    options = {
        "t5xxl_model_config": size.config,
        # Not "clip_l_model_config": ComfyUI overwrites that one for files with position embeddings.
        "model_config": read_size(clip_l, "clip_l").config,
    }
    clip = comfy.sd.load_clip(
        [str(clip_l), str(t5)], clip_type=comfy.sd.CLIPType.FLUX, model_options=options
    )
    if size.min_length is not None:
        clip.set_tokenizer_option("t5xxl_min_length", size.min_length)
    return clip


def read_size(path: str | Path, family: str) -> StatedSize:
    """The size that a small text encoder file states, checked against its tensors.

    `family` is t5xxl or clip_l. Raises FileNotFoundError, or ValueError when the file is damaged,
    states no size (as all full-size files do), states another one than it has, or holds the other
    encoder.
    """
    file = read_weights(path, WANTED)
    stated = _read_statement(file)
    if stated.get("family") != family:
        raise ValueError(
            f"{file.path.name} holds {_quote(stated.get('family'))}, expected {family!r}. "
            "Choose the T5 file under t5 and the CLIP-L file under clip_l."
        )
    config, name = stated.get("config"), file.path.name
    if not isinstance(config, dict):
        raise ValueError(
            f"{name} states the config {_quote(config)}, expected numbers by name. Use {WANTED}."
        )
    measure = _measure_t5 if family == "t5xxl" else _measure_clip_l
    check_floating(file.tensors, name, WANTED)
    _check_config(config, measure(file.shapes, name, config), name)
    check_finite(file.tensors, name, WANTED)
    return StatedSize(config, _check_length(stated.get("min_length"), name))


def stated_family(metadata: Mapping[str, str]) -> str:
    """The family that a file's metadata states, as `load_mini_clip` needs it; "" when none."""
    try:
        stated = json.loads(metadata.get(KEY, ""))
    except (ValueError, RecursionError):
        return ""
    return str(stated.get("family", "")) if isinstance(stated, dict) else ""


def _read_statement(file: TensorFile) -> dict:
    if KEY not in file.metadata:
        raise ValueError(
            f"{file.path.name} states no size in its metadata (found: "
            f"{', '.join(file.metadata) or 'none'}; expected: {KEY}), so it is not one of the "
            f"small text encoders. Use {WANTED}."
        )
    text = file.metadata[KEY]
    try:
        stated = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{file.path.name} states its size as {_quote(text)}, expected JSON. Use {WANTED}."
        ) from error
    if not isinstance(stated, dict):
        raise ValueError(
            f"{file.path.name} states its size as {_quote(text)}, expected a JSON object with "
            f"family and config. Use {WANTED}."
        )
    return stated


def _quote(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}..."


def _measure_t5(shapes: Shapes, what: str, _: dict) -> dict[str, int]:
    block = "encoder.block.0.layer"
    bias = f"{block}.0.SelfAttention.relative_attention_bias.weight"
    heads = shape_of(shapes, bias, 2, what, WANTED)[1]
    inner, width = shape_of(shapes, f"{block}.0.SelfAttention.q.weight", 2, what, WANTED)
    return {
        "d_model": width,
        "d_ff": shape_of(shapes, f"{block}.1.DenseReluDense.wi_0.weight", 2, what, WANTED)[0],
        "d_kv": inner // heads,
        "num_heads": heads,
        "num_layers": count_layers(shapes, "encoder.block.", what, WANTED),
    }


def _measure_clip_l(shapes: Shapes, what: str, config: dict) -> dict[str, int]:
    """The tensors do not tell the number of heads: the stated one counts when it is plausible."""
    layers = "text_model.encoder.layers."
    hidden, width = shape_of(shapes, f"{layers}0.mlp.fc1.weight", 2, what, WANTED)
    heads = config.get("num_attention_heads")
    plausible = range(max(1, width // MAX_HEAD), width // MIN_HEAD + 1)
    if type(heads) is not int or heads not in plausible or width % heads:
        raise ValueError(
            f"{what} states num_attention_heads {_quote(heads)} for {width} channels, expected a "
            f"number that divides them into heads of {MIN_HEAD} to {MAX_HEAD}. Use {WANTED}."
        )
    return {
        "hidden_size": width,
        "intermediate_size": hidden,
        "num_attention_heads": heads,
        "num_hidden_layers": count_layers(shapes, layers, what, WANTED),
        "projection_dim": shape_of(shapes, "text_projection.weight", 2, what, WANTED)[0],
    }


def _check_config(stated: dict, measured: dict[str, int], name: str) -> None:
    wrong = [
        f"{key} is {_quote(stated.get(key))}, expected {value}"
        for key, value in measured.items()
        if type(stated.get(key)) is not int or stated[key] != value
    ]
    wrong += [f"{_quote(key)} is not known" for key in stated if key not in measured]
    if wrong:
        raise ValueError(
            f"{name} states another size than its tensors have: {'; '.join(wrong[:3])}. "
            f"Use {WANTED}."
        )


def _check_length(length: object, name: str) -> int | None:
    if length is not None and (type(length) is not int or not 1 <= length <= MAX_LENGTH):
        raise ValueError(
            f"{name} states min_length {_quote(length)}, expected 1 to {MAX_LENGTH} tokens. "
            f"Use {WANTED}."
        )
    return length
