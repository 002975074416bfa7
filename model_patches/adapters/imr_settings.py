"""What a motion editor's file states in its metadata, because its tensors cannot tell.

`format=flexid.imr`, `version=1` and the fields of ImrSettings by their own names. DynamicID's
published files state nothing: the defaults are theirs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from types import MappingProxyType

from ..face.landmark_pose import POINT_COUNTS
from ..files.tensor_file import TensorFile
from .dynamicid import FAMILY

FORMAT, VERSION = "flexid.imr", 1
ADVICE = "Use the file as the trainer exported it."


@dataclass(frozen=True)
class ImrSettings:
    """Whose tokens a file edits, and what it reads of a motion."""

    family: str = FAMILY
    """Of the encodings whose tokens it edits, as in Encoding."""
    encoder: str = ""
    """Digest of the encoder that makes these tokens, as in Encoding; "": not stated."""
    adapter: str = ""
    """Name of the file with that encoder, for messages."""
    text_encoder: str = ""
    """Name of the file whose pooled text it reads; "": the base model's own CLIP-L."""
    text: int = 0
    """Channels of that text; 0: as many as a face token has."""
    points: int = POINT_COUNTS[0]
    """Landmarks in its pictures."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """steps, data and whatever else a trainer writes."""

    @property
    def published(self) -> bool:
        """Whether it is for DynamicID's own tokens."""
        return self.family == FAMILY


def read_settings(file: TensorFile) -> ImrSettings:
    """The settings of a reconfigurator's file. Raises ValueError, which names the value and what is
    expected."""
    stated = dict(file.metadata)
    if stated.pop("format", "") != FORMAT:
        return ImrSettings()
    version = stated.pop("version", "")
    if version != str(VERSION):
        raise ValueError(
            f"{file.path.name} has the motion editor's format {version[:20] or 'unknown'}, this "
            f"FlexID reads {VERSION}. Update FlexID, or export the file again with this version."
        )
    texts = {name: stated.pop(name, "") for name in ("adapter", "text_encoder")}
    family = stated.pop("family", "")
    _check(file, "family", family, r"[a-z0-9_]{1,40}", "the name of a kind of adapter")
    encoder = stated.pop("encoder", "")
    _check(file, "encoder", encoder, r"[0-9a-f]{12,128}", "the digest of the tokens' encoder")
    numbers = {name: stated.pop(name, "") for name in ("text", "points")}
    for name, number in numbers.items():
        _check(file, name, number, r"[1-9][0-9]{0,5}", "a whole number above 0")
    points = int(numbers["points"])
    if points not in POINT_COUNTS:
        raise ValueError(
            f"{file.path.name} says points={points}, expected one of "
            f"{', '.join(map(str, POINT_COUNTS))}. {ADVICE}"
        )
    return ImrSettings(
        family, encoder, **texts, text=int(numbers["text"]), points=points,
        notes=MappingProxyType(stated),
    )  # fmt: skip


def metadata_of(settings: ImrSettings) -> dict[str, str]:
    """The metadata of a file with these settings."""
    own = {
        one.name: str(getattr(settings, one.name))
        for one in fields(ImrSettings)
        if one.name != "notes"
    }
    return {**settings.notes, **own, "format": FORMAT, "version": str(VERSION)}


def _check(file: TensorFile, name: str, value: str, pattern: str, expected: str) -> None:
    if not re.fullmatch(pattern, value):
        raise ValueError(
            f"{file.path.name} says {name}={value[:40]!r}, expected {expected}. {ADVICE}"
        )
