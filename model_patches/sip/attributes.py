"""Attributes as a source of δ: CLIP reads the face, the model's text encoder turns it into text.

No extra weights. Per group of attributes CLIP ViT-L/14 compares the photo with phrases (keys), and
the base model's text encoder turns the same phrases into directions of its own text space (values):
δ = Σ_groups Σ_a (p_a − 1/n)·V_a. An undecided group adds nothing.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..encoders.whiten import head_picture
from ..face.face import Face, face_key
from ..files.cache import TensorCache, tensor_key
from .attribute_bank import VIEWS, Group, View
from .projector import Direction, Prompt

TEMPERATURE = 0.01
"""CLIP's own: it was trained with cosines divided by this."""
UNDECIDED = 0.9
"""Share of the highest possible entropy from which a group counts as undecided."""
KEY = "a photo of a person {}"
VALUE = "{}, a person"
"""The noun comes last: CLIP's text towers attend backwards only, so the phrase must precede it."""
FACE_SPAN = (0.2, 0.88)
"""Part of the FFHQ crop, both ways, that holds the face without most of the hair."""

_texts: TensorCache[tuple[Tensor]] = TensorCache(64 << 20)
_looks: TensorCache[tuple[Tensor]] = TensorCache(16 << 20)


@dataclass(frozen=True, eq=False)
class AttributeProjector:
    """A SipProjector that describes the face in words."""

    vision: Any
    """CLIP_VISION: the vision tower of CLIP ViT-L/14, with its projection."""
    reader: Any
    """CLIP that holds the text tower of CLIP ViT-L/14, with its projection."""
    writer: Any
    """CLIP of the base model: the values are made with it."""
    groups: tuple[Group, ...]
    overrides: Mapping[str, str] = field(default_factory=dict)
    """Group id -> attribute, by hand."""

    family = "clip_attributes"
    name = "attributes"

    def __post_init__(self) -> None:
        _check_vision(self.vision, text_projection(self.reader))

    @cached_property
    def digest(self) -> str:
        """Of the options, and of the text encoders by what they make of a probe."""
        options = repr((self.groups, sorted(self.overrides.items())))
        return hashlib.sha256(f"{self._reader_key}{self._writer_key}{options}".encode()).hexdigest()

    @cached_property
    def encoder_digest(self) -> str:
        """Of the vision tower's projection, which no two towers share."""
        return tensor_key(self.vision.model.visual_projection.weight)

    @cached_property
    def _reader_key(self) -> str:
        return tensor_key(_key_vector(self.reader, KEY.format("with a face")))

    @cached_property
    def _writer_key(self) -> str:
        return tensor_key(_noun_state(self.writer, VALUE.format("with a face")))

    def encode(self, faces: Sequence[Face]) -> Tensor:
        """(1, 2·F, C): per face the head's and the face's picture, unit length."""
        rows = []
        for face in faces:
            key = (self.encoder_digest, face_key(face))
            entry = _looks.get(key)
            if entry is None:
                looks = [self._look(_cut_view(head_picture(face), view)) for view in VIEWS]
                entry = _looks.put(key, (torch.cat(looks)[None],))
            rows.append(entry[0])
        return torch.cat(rows, dim=1)

    def nobody(self) -> Tensor:
        width = self.vision.model.visual_projection.weight.shape[0]
        return torch.zeros(1, len(VIEWS), width)

    def _look(self, picture: Tensor) -> Tensor:
        seen = self.vision.encode_image(picture, crop=True)["image_embeds"]
        return F.normalize(seen.detach().float().cpu(), dim=-1)

    def read(self, tokens: Tensor) -> dict[str, Tensor]:
        """Group id -> probability of each attribute (n,), the overrides certain."""
        views = tokens[0].unflatten(0, (-1, len(VIEWS))).mean(0)
        looks = dict(zip(VIEWS, F.normalize(views, dim=-1), strict=True))
        found = {}
        for group in self.groups:
            if group.id in self.overrides:
                chosen = group.names.index(self.overrides[group.id])
                found[group.id] = F.one_hot(torch.tensor(chosen), len(group.names)).float()
                continue
            keys = torch.stack([self._key(phrase) for phrase in group.phrases])
            found[group.id] = ((keys @ looks[group.view]) / TEMPERATURE).softmax(-1)
        return found

    def _key(self, phrase: str) -> Tensor:
        text = KEY.format(phrase)
        name = (self._reader_key, text)
        return (_texts.get(name) or _texts.put(name, (_key_vector(self.reader, text),)))[0]

    def _value(self, phrase: str) -> Tensor:
        text = VALUE.format(phrase)
        name = (self._writer_key, text)
        return (_texts.get(name) or _texts.put(name, (_noun_state(self.writer, text),)))[0]

    def direction(self, tokens: Tensor, prompt: Prompt) -> Direction:
        """The same δ on every token; the scope decides which of them it touches."""
        total, notes = torch.zeros(prompt.states.shape[-1]), []
        found = self.read(tokens)
        for group in self.groups:
            shares = found[group.id]
            certain = _entropy(shares) < UNDECIDED
            best = int(shares.argmax())
            words = f"{group.names[best]} {shares[best]:.0%}" if certain else "undecided"
            by_hand = " (by hand)" if group.id in self.overrides else ""
            notes.append(f"{group.name}: {words}{by_hand}")
            if certain:
                total = total + self._sum_values(group, shares, prompt)
        return Direction(total.expand_as(prompt.states).clone(), tuple(notes))

    def _sum_values(self, group: Group, shares: Tensor, prompt: Prompt) -> Tensor:
        values = [self._value(phrase) for phrase in group.phrases]
        width = prompt.states.shape[-1]
        if values[0].shape[0] != width:
            raise ValueError(
                f"The CLIP connected as text_encoder writes text {values[0].shape[0]} wide, the "
                f"prompt is {width} wide. Connect the CLIP that made the conditioning."
            )
        return (shares - 1 / len(shares)) @ torch.stack(values)


def _cut_view(picture: Tensor, view: View) -> Tensor:
    """The part of a head's picture (1, H, W, 3) that shows `view`."""
    if view == "head":
        return picture
    first, last = (round(share * picture.shape[1]) for share in FACE_SPAN)
    return picture[:, first:last, first:last]


def text_projection(reader: Any) -> Tensor:
    """The matrix from CLIP ViT-L/14's text states to its common space with pictures.

    Raises ValueError when this CLIP has none: many files leave it out, and ComfyUI then leaves
    whatever the memory held.
    """
    tower = getattr(getattr(reader, "cond_stage_model", None), "clip_l", None)
    if tower is None:
        raise ValueError(
            "The CLIP connected as clip_l has no CLIP-L in it. Load the text encoder of CLIP "
            "ViT-L/14 (clip_l.safetensors) with the Load CLIP node, type stable_diffusion."
        )
    weight = tower.transformer.text_projection.weight.detach().float().cpu()
    size = weight.square().mean().sqrt().item()
    usable = weight.isfinite().all() and 1e-4 < size < 10 and weight.abs().max() < 1e3 * size
    if not usable or torch.equal(weight, torch.eye(len(weight))):
        raise ValueError(
            f"The CLIP connected as clip_l has no usable text projection (size {size:.3g}, "
            "expected between 0.0001 and 10, not the identity): checkpoints of SD 1.5 leave it "
            "out. Load model.safetensors of openai/clip-vit-large-patch14, or a clip_l.safetensors "
            "that contains text_projection.weight."
        )
    return weight


def _check_vision(vision: Any, projection: Tensor) -> None:
    seen = getattr(getattr(vision.model, "visual_projection", None), "weight", None)
    if seen is None or seen.shape[0] != projection.shape[0]:
        width = "nothing" if seen is None else f"vectors of {seen.shape[0]}"
        raise ValueError(
            f"The CLIP vision projects to {width}, the text tower to {projection.shape[0]}: they "
            "are not from one model. Load CLIP ViT-L/14 (clip_vision_vit_l or "
            "openai/clip-vit-large-patch14) with the Load CLIP Vision node."
        )


def _entropy(shares: Tensor) -> float:
    """Share of the highest possible entropy, in [0, 1]."""
    return (-(shares * shares.clamp_min(1e-12).log()).sum() / math.log(len(shares))).item()


def _key_vector(reader: Any, text: str) -> Tensor:
    """(C,) unit length, in CLIP's common space."""
    tokens = {"l": reader.tokenize(text)["l"]}
    _, pooled = _clip_l_states(reader, tokens)
    return F.normalize(pooled @ text_projection(reader).T, dim=-1)


def _clip_l_states(reader: Any, tokens: dict) -> tuple[Tensor, Tensor]:
    """States and unprojected pooled vector (C,) of CLIP-L alone, whatever stands next to it."""
    model = reader.cond_stage_model
    reader.load_model(tokens)
    model.reset_clip_options()
    options = {"execution_device": reader.patcher.load_device, "projected_pooled": False}
    model.clip_l.set_clip_options(options)
    states, pooled = model.clip_l.encode_token_weights(tokens["l"])[:2]
    model.reset_clip_options()
    return states.detach().float().cpu(), pooled.detach().float().cpu()[0]


def _noun_state(writer: Any, text: str) -> Tensor:
    """(D,): what the base model's text encoder makes of the noun that ends `text`."""
    plain = writer.tokenize(text, return_word_ids=True)
    stream = next(name for name in ("t5xxl", "g", "l", *plain) if name in plain)
    places = [i for i, token in enumerate(plain[stream][0]) if token[2] != 0]
    states = writer.encode_from_tokens(writer.tokenize(text))
    return states[0, places[-1]].detach().float().cpu()
