"""The small T5 and CLIP-L: their size, their tokens, and their first weights.

Captions are cut into tokens by ComfyUI's own tokenisers, once. T5's are padded to LENGTH, which
the finished file states, so that the loader node pads prompts alike: the padding is attended to.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import comfy.clip_model
import comfy.ops
import comfy.text_encoders.flux
import comfy.text_encoders.t5
import numpy as np
import torch
from torch import Tensor, nn

from ...model_patches.files.atomic import replacing
from ...model_patches.training.export import write_safetensors
from ..random_text import CLIP_CONFIG, CLIP_LENGTH, KEY, T5_VOCABULARY
from ..seeded import Seeded

LENGTH = 40
TOO_LONG = 0.05
"""Share of captions that may lose their end to LENGTH."""
T5_CONFIG = {"d_model": 64, "d_ff": 256, "d_kv": 32, "num_heads": 2, "num_layers": 3}
CLIP_WORDS = 49406
"""CLIP's vocabulary without its start and end."""
WORD = 0.3
"""Standard deviation of a seen word's first embedding."""


@dataclass(frozen=True)
class Tokens:
    """Token numbers of N captions: t5 int32 (N, LENGTH), clip_l int32 (N, 77)."""

    t5: np.ndarray
    clip_l: np.ndarray


@dataclass(frozen=True)
class Words:
    """Which tokens occur in training, and the one of each family that stands for all others."""

    t5: np.ndarray
    clip_l: np.ndarray
    unknown_t5: int
    unknown_clip_l: int


def tokens(captions: Sequence[str], cache: Path) -> Tokens:
    """Tokens of `captions`, from `cache` (.npz) if it was made of the same ones."""
    text = "\n".join([str(LENGTH), *captions])
    digest = hashlib.sha256(text.encode()).hexdigest()
    if cache.exists():
        with np.load(cache) as stored:
            if str(stored["digest"]) == digest:
                return Tokens(stored["t5"], stored["clip_l"])
    made = tokenise(captions)
    with replacing(cache) as temporary, temporary.open("wb") as file:
        np.savez(file, digest=digest, t5=made.t5, clip_l=made.clip_l)
    return made


def tokenise(captions: Sequence[str]) -> Tokens:
    """Raises ValueError when too many captions are longer than what the model is trained on."""
    tokeniser = comfy.text_encoders.flux.FluxTokenizer()
    t5 = np.zeros((len(captions), LENGTH), np.int32)
    clip_l = np.zeros((len(captions), CLIP_LENGTH), np.int32)
    longer = 0
    for index, caption in enumerate(captions):
        options = {"t5xxl_min_length": LENGTH}
        made = tokeniser.tokenize_with_weights(caption, tokenizer_options=options)
        numbers = [token for token, *_ in made["t5xxl"][0]]
        longer += len(numbers) > LENGTH
        t5[index] = numbers[:LENGTH]
        clip_l[index] = [token for token, *_ in made["l"][0]]
    if longer > TOO_LONG * len(captions):
        raise ValueError(
            f"{longer} of {len(captions)} captions have more than {LENGTH} T5 tokens. Raise "
            "LENGTH in mini/training/text_model.py or shorten the captions."
        )
    return Tokens(t5, clip_l)


def words(*sets: Tokens) -> Words:
    """What the sets and the empty prompt contain."""
    sets = (*sets, tokenise([""]))
    t5 = np.unique(np.concatenate([s.t5.ravel() for s in sets]))
    clip_l = np.unique(np.concatenate([s.clip_l.ravel() for s in sets]))
    return Words(t5, clip_l, _last_unseen(t5, T5_VOCABULARY), _last_unseen(clip_l, CLIP_WORDS))


def _last_unseen(seen: np.ndarray, vocabulary: int) -> int:
    return int(np.setdiff1d(np.arange(vocabulary), seen)[-1])


def _config(name: str, own: dict[str, int]) -> dict:
    """ComfyUI's configuration file, below its `comfy` package, changed by `own`."""
    return json.loads(files("comfy").joinpath(name).read_text(encoding="utf-8")) | own


def build_t5(draw: Seeded, seen: Words) -> nn.Module:
    config = _config("text_encoders/t5_config_xxl.json", T5_CONFIG)
    module = _build(comfy.text_encoders.t5.T5, config)
    _fill(module, draw, _t5_spread)
    _fill_words(module.shared.weight, draw, seen.t5, seen.unknown_t5)
    return module


def build_clip_l(draw: Seeded, seen: Words) -> nn.Module:
    config = _config("sd1_clip_config.json", CLIP_CONFIG)
    module = _build(comfy.clip_model.CLIPTextModel, config)
    _fill(module, draw, _clip_spread)
    embedding = module.text_model.embeddings.token_embedding.weight
    _fill_words(embedding, draw, seen.clip_l, seen.unknown_clip_l)
    with torch.no_grad():
        nn.init.eye_(module.text_projection.weight)
    module.text_projection.requires_grad_(False)  # FLUX takes the pooled vector before it
    return module


def _build(kind: Callable[..., nn.Module], config: dict) -> nn.Module:
    return kind(config, torch.float32, "cpu", comfy.ops.disable_weight_init)


def _fill(module: nn.Module, draw: Seeded, spread: Callable[[str, Tensor], float]) -> None:
    """Norms 1, biases 0, matrices at random: the modules come with uninitialised memory."""
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if parameter.ndim > 1:
                shape = parameter.shape
                parameter.copy_(draw.normal(name, *shape, std=spread(name, parameter)))
            else:
                parameter.fill_(float(name.endswith("weight")))
            parameter.requires_grad_(True)


def _t5_spread(name: str, matrix: Tensor) -> float:
    if "relative_attention_bias" in name:
        return 0.1
    # T5 does not divide by the root of the head's width; its queries are that much smaller.
    narrow = T5_CONFIG["d_kv"] ** -0.5 if name.endswith("SelfAttention.q.weight") else 1.0
    return narrow * matrix.shape[1] ** -0.5


def _clip_spread(name: str, matrix: Tensor) -> float:
    return 0.1 if "embedding" in name else matrix.shape[1] ** -0.5


def _fill_words(embedding: nn.Parameter, draw: Seeded, seen: np.ndarray, unknown: int) -> None:
    """Words that never occur are zero, and stay so: without gradient, decay leaves them there."""
    rows = np.append(seen, unknown)
    with torch.no_grad():
        embedding.zero_()
        embedding[rows] = draw.normal("words", len(rows), embedding.shape[1], std=WORD)


def write_t5(module: nn.Module, seen: Words, path: Path) -> None:
    state = dict(module.state_dict())
    state["shared.weight"] = _spread_unknown(state["shared.weight"], seen.t5, seen.unknown_t5)
    _save(state, path, {"family": "t5xxl", "config": T5_CONFIG, "min_length": LENGTH})


def write_clip_l(module: nn.Module, seen: Words, path: Path) -> None:
    state, key = dict(module.state_dict()), "text_model.embeddings.token_embedding.weight"
    state[key] = _spread_unknown(state[key], seen.clip_l, seen.unknown_clip_l)
    _save(state, path, {"family": "clip_l", "config": CLIP_CONFIG})


def _spread_unknown(embedding: Tensor, seen: np.ndarray, unknown: int) -> Tensor:
    """Every word that training did not show gets what it learned for an unknown word."""
    spread = embedding[unknown].expand_as(embedding).clone()
    spread[seen] = embedding[seen]
    return spread


def _save(state: dict[str, Tensor], path: Path, stated: dict) -> None:
    write_safetensors(path, state, torch.float16, {KEY: json.dumps(stated)})
