"""What a FlexIP file states in its metadata, because its tensors cannot tell.

`format=flexid.flexip`, `version=1`, and the fields of FlexIPSettings by their own names.
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
VERSION = 1

CHOICES = {
    "fusion": ("outputs", "joint", "tokens"),
    "law": LAWS,
    "personal_path": ("attention", "text"),
    "personal_keys": ("cls_and_text",),
    "context": ("dinov2-large", "clip-h-penultimate"),
    "cls": ("projected", "hidden"),
    "null": ("zeros", "pixels"),
}
"""What a field may say. The first is what it says when it is absent."""


@dataclass(frozen=True)
class FlexIPSettings:
    """How a file was trained, and what it wants to be fed with."""

    base: str = ""
    """Kind of model, for messages: "sd15", "sdxl", ..."""
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
    """Which class token of CLIP: after its projection, or of its last layer but one."""
    text_tokens: int = 77
    null: str = "zeros"
    """What nobody is: features of zeros, or of a picture of zeros."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """alpha, beta, spread, steps, data, licence, parent and whatever else a trainer writes."""

    @property
    def needs_personal_layers(self) -> bool:
        """Whether the personalisation stream has keys and values of its own."""
        return self.personal_path == "attention" and self.fusion != "tokens"


_NUMBERS = ("head_dim", "context_size", "context_tokens", "text_tokens")


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
    if version.split(".")[0] != str(VERSION):
        raise ValueError(
            f"{file.path.name} has FlexIP format {version[:20] or 'unknown'}, this FlexID reads "
            f"{VERSION}. Update FlexID, or export the adapter again with this version."
        )
    known = {one.name for one in fields(FlexIPSettings)} - {"notes"}
    values: dict[str, Any] = {}
    for name in known & stated.keys():
        text = stated.pop(name)
        values[name] = _read_number(file, name, text) if name in _NUMBERS else text
    for name, choices in CHOICES.items():
        _check(file, name, values.get(name, choices[0]), choices)
    settings = FlexIPSettings(**values, notes=MappingProxyType(stated))
    _check(file, "text_tokens", settings.text_tokens, (77,))
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
    return {**settings.notes, **own, "format": FORMAT, "version": str(VERSION)}


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
