"""What a FlexIP file states in its metadata, because its tensors cannot tell.

`format=flexid.flexip`, `version=1` for Stable Diffusion or `version=2` for a Flux, and the fields
of FlexIPSettings by their own names.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import Any

from ..files.tensor_file import TensorFile
from ..gates.balance import LAWS

FORMAT = "flexid.flexip"
VERSION, FLUX_VERSION = 1, 2
FLUX = "flux"
"""The base that a file of version 2 states."""
EVA = "eva-clip"
"""The context of files that read what PuLID-FLUX reads."""

CHOICES = {
    "fusion": ("outputs", "joint", "tokens"),
    "law": LAWS,
    "personal_path": ("attention", "text"),
    "personal_keys": ("cls_and_text",),
    "context": ("dinov2-large", "clip-h-penultimate", EVA),
    "cls": ("projected", "hidden", "face_and_pooled"),
    "null": ("zeros", "pixels"),
}
"""What a field may say. The first is what it says when it is absent."""


@dataclass(frozen=True)
class FlexIPSettings:
    """How a file was trained, and what it wants to be fed with."""

    base: str = ""
    """Kind of model: "flux", which has its own layers, or "sd15", "sdxl", ..., for messages."""
    fusion: str = "outputs"
    """How the two streams meet. outputs: two attentions are added. joint: one softmax over both
    token sets. tokens: the token sets are mixed and read by one attention."""
    law: str = "linear"
    """The balance law that the streams were trained with, see gates/balance.py."""
    personal_path: str = "attention"
    """attention: personalisation tokens have keys and values of their own. text: their difference
    from those of nobody is added to the text."""
    personal_keys: str = "cls_and_text"
    """What the text asks: the class token next to the text itself."""
    head_dim: int = 64
    context: str = "dinov2-large"
    """Which encoder the detail tokens read."""
    context_size: int = 224
    """Pixels a side of the picture that this encoder sees."""
    context_tokens: int = 0
    """Tokens that it then makes; 0: not stated."""
    cls: str = "projected"
    """Which class token. projected, hidden: CLIP's, after its projection, or of its last layer but
    one. face_and_pooled: the recogniser's unit embedding before EVA-CLIP's pooled features."""
    text_tokens: int = 77
    """Text tokens that are personalised at a time; 0: the whole prompt."""
    heads: int = 0
    """Attention heads after a Flux's blocks; a UNet has its own."""
    null: str = "zeros"
    """What nobody is: features of zeros, or of a picture of zeros."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """alpha, beta, spread, steps, data, licence, parent and whatever else a trainer writes."""

    @property
    def on_flux(self) -> bool:
        """Whether the streams work after the blocks of a Flux."""
        return self.base == FLUX

    @property
    def needs_personal_layers(self) -> bool:
        """Whether the personalisation stream has keys and values of its own."""
        return self.personal_path == "attention" and self.fusion != "tokens"


_NUMBERS = ("head_dim", "context_size", "context_tokens", "text_tokens", "heads")


def read_settings(file: TensorFile) -> FlexIPSettings:
    """The settings of a FlexIP file. Raises ValueError, which names the value and what is
    expected."""
    stated = dict(file.metadata)
    kind, version = stated.pop("format", ""), stated.pop("version", "")
    if kind != FORMAT:
        raise ValueError(
            f"{file.path.name} has the tensors of a FlexIP file, but its metadata say format="
            f"{kind[:40] or 'nothing'}, expected {FORMAT}; another program rewrote it. Use the "
            "file as the trainer exported it."
        )
    if version.split(".")[0] not in (str(VERSION), str(FLUX_VERSION)):
        raise ValueError(
            f"{file.path.name} has FlexIP format {version[:20] or 'unknown'}, this FlexID reads "
            f"{VERSION} and {FLUX_VERSION}. Update FlexID, or export the adapter again with this "
            "version."
        )
    known = {one.name for one in fields(FlexIPSettings)} - {"notes"}
    values: dict[str, Any] = {}
    for name in known & stated.keys():
        text = stated.pop(name)
        values[name] = _read_number(file, name, text) if name in _NUMBERS else text
    for name, choices in CHOICES.items():
        _check(file, name, values.get(name, choices[0]), choices)
    settings = FlexIPSettings(**values, notes=MappingProxyType(stated))
    _check_version(file, settings, version.split(".")[0])
    _check_encoder(file, settings)
    if settings.personal_path == "text":
        _check(file, "fusion of personal_path=text", settings.fusion, ("outputs",))
    return settings


def settings_of(settings: FlexIPSettings) -> dict[str, str]:
    """The metadata of a file with these settings."""
    own = {
        one.name: str(getattr(settings, one.name))
        for one in fields(FlexIPSettings)
        if one.name != "notes"
    }
    version = FLUX_VERSION if settings.on_flux else VERSION
    return {**settings.notes, **own, "format": FORMAT, "version": str(version)}


def _check_version(file: TensorFile, settings: FlexIPSettings, version: str) -> None:
    """Version 2 is for a Flux, and version 1 for everything else."""
    on_flux = version == str(FLUX_VERSION)
    if on_flux != settings.on_flux:
        expected = FLUX if on_flux else "another model"
        raise ValueError(
            f"{file.path.name} has FlexIP format {version} and says base={settings.base[:40]}, "
            f"expected {expected}. Use the file as the trainer exported it."
        )
    _check(file, "text_tokens", settings.text_tokens, (0,) if on_flux else (77,))
    if on_flux:
        _check(file, "fusion", settings.fusion, ("outputs",))
        _check(file, "personal_path", settings.personal_path, ("attention",))
    if on_flux and not settings.heads:
        raise ValueError(
            f"{file.path.name} says heads=0, expected the attention heads of its layers. Use the "
            "file as the trainer exported it."
        )


def _check_encoder(file: TensorFile, settings: FlexIPSettings) -> None:
    """EVA-CLIP has one class token of its own."""
    eva = settings.context == EVA
    _check(file, "cls", settings.cls, ("face_and_pooled",) if eva else CHOICES["cls"][:2])
    if eva:
        _check(file, "null", settings.null, ("zeros",))


def _read_number(file: TensorFile, name: str, text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,6}", text):
        raise ValueError(
            f"{file.path.name} says {name}={text[:40]!r}, expected a whole number. Use the file as "
            "the trainer exported it."
        )
    return int(text)


def _check(file: TensorFile, name: str, value: object, choices: tuple) -> None:
    if value not in choices:
        expected = " or ".join(map(str, choices))
        raise ValueError(
            f"{file.path.name} says {name}={str(value)[:40]}, expected {expected}. Update FlexID, "
            "or export the adapter again with this version."
        )
