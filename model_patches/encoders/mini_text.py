"""The small T5 and CLIP-L of the embedded model, as the CLIP that ComfyUI builds for FLUX."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import comfy.sd
from safetensors import SafetensorError, safe_open

KEY = "flexid_text_encoder"
"""Metadata entry of a small text encoder file: JSON of its family and config, and for a T5 perhaps
"min_length": the number of tokens that shorter prompts were padded to in training."""


def read_config(path: str | Path, family: str) -> dict[str, int]:
    """The size that a small text encoder file states in its metadata.

    Raises ValueError when the file is no safetensors file, states no size (as all full-size files
    do) or holds the other encoder.
    """
    return _stated(path, family)["config"]


def _stated(path: str | Path, family: str) -> dict:
    metadata = _metadata(path)
    if KEY not in metadata:
        raise ValueError(
            f"{Path(path).name} states no size in its metadata (found: "
            f"{', '.join(metadata) or 'none'}; expected: {KEY}), so it is not one of the "
            "small text encoders. Load full-size files with DualCLIPLoader, type flux."
        )
    stated = json.loads(metadata[KEY])
    if stated["family"] != family:
        raise ValueError(
            f"{Path(path).name} holds {stated['family']!r}, expected {family!r}. "
            "Choose the T5 file under t5 and the CLIP-L file under clip_l."
        )
    return stated


def _metadata(path: str | Path) -> Mapping[str, str]:
    try:
        with safe_open(path, framework="pt") as file:
            return file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(
            f"{Path(path).name} is not a readable safetensors file ({error}). Build the small "
            "models again with `python3 start.py demo`, or load full-size files with "
            "DualCLIPLoader."
        ) from error


def load_mini_clip(t5: str | Path, clip_l: str | Path) -> comfy.sd.CLIP:
    """Both encoders as the CLIP that ComfyUI builds for FLUX, at the sizes the files state.

    Prompts are padded as the T5 file states, or to FLUX's own 256 tokens.
    """
    stated = _stated(t5, "t5xxl")
    options = {
        "t5xxl_model_config": stated["config"],
        # Not "clip_l_model_config": ComfyUI overwrites that one for files with position embeddings.
        "model_config": read_config(clip_l, "clip_l"),
    }
    clip = comfy.sd.load_clip(
        [str(clip_l), str(t5)], clip_type=comfy.sd.CLIPType.FLUX, model_options=options
    )
    if "min_length" in stated:
        clip.set_tokenizer_option("t5xxl_min_length", stated["min_length"])
    return clip
