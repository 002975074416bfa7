"""What a benchmark is made of: people, prompts, and which are painted together."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field, replace
from pathlib import Path

MALE, FEMALE, UNKNOWN = GENDERS = ("male", "female", "unknown")
WORDS = {MALE: "man", FEMALE: "woman", UNKNOWN: "person"}
"""What a placeholder of a prompt becomes."""
EXPRESSIONS = ("angry", "disgust", "fear", "happy", "sad", "surprise", "neutral")
"""Names of model_patches.evaluate.expression.CLASSES."""
VIEWS = ("front", "side", "up", "down")
"""Names of model_patches.evaluate.pose.VIEWS."""
PLACEHOLDER = re.compile(r"\{person\}|<class word>")
PREFIX = re.compile(r"\[([^\[\]]*)\]\s*")
"""IBench's optional beginning, such as `[portrait,]`: kept, without its brackets."""


@dataclass(frozen=True)
class Person:
    """Whom the pictures should show."""

    name: str
    photos: tuple[Path, ...]
    """The first is the reference; the others are never shown to an encoder."""
    gender: str = UNKNOWN


@dataclass(frozen=True)
class Prompt:
    """What the pictures should show."""

    text: str
    attributes: tuple[str, ...] = ()
    """IBench's prompt_attr, such as "long"."""
    styles: tuple[str, ...] = ()
    """IBench's prompt_style."""
    seed: int | None = None
    """None: one is made from person and prompt."""
    expression: str | None = None
    """One of EXPRESSIONS that the text asks for; None: it asks for none."""
    view: str | None = None
    """One of VIEWS that the text asks for."""
    yaw: float | None = None
    """Degrees that the text asks for, positive to the picture's right."""
    pitch: float | None = None
    """Degrees that the text asks for, positive up."""

    @property
    def wishes(self) -> dict[str, str | float | None]:
        """What can be measured of what it asks for, by the names in prompts.json."""
        names = ("expression", "view", "yaw_deg", "pitch_deg")
        return dict(zip(names, (self.expression, self.view, self.yaw, self.pitch), strict=True))

    def fill(self, gender: str) -> str:
        """The text for a person of this gender."""
        plain = PREFIX.sub(lambda found: f"{found[1].strip()} ", self.text)
        return PLACEHOLDER.sub(WORDS[gender], plain).strip()


@dataclass(frozen=True)
class Pair:
    """One person with one prompt: a picture of every row."""

    person: Person
    prompt: Prompt
    given: Path | None = None
    """The finished picture of an evaluation file."""
    plain: Path | None = None
    """Its twin without the person."""

    @property
    def text(self) -> str:
        return self.prompt.fill(self.person.gender)

    @property
    def seed(self) -> int:
        """Of the noise: the same in every row, so that only the way to paint differs."""
        if self.prompt.seed is not None:
            return self.prompt.seed
        digest = hashlib.sha256(f"{self.person.name}\0{self.prompt.text}".encode()).digest()
        return int.from_bytes(digest[:6], "big")


@dataclass(frozen=True)
class Data:
    """All pairs, in their order."""

    source: str
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...] = field(default=())
    """What a reader of the figures should know, such as files that were found elsewhere."""

    @property
    def people(self) -> tuple[Person, ...]:
        return tuple(dict.fromkeys(pair.person for pair in self.pairs))

    @property
    def is_painted(self) -> bool:
        """Whether it brings finished pictures."""
        return any(pair.given for pair in self.pairs)

    def with_seeds(self, count: int) -> Data:
        """Every pair by `count` seeds, the first of which is its own.

        Raises DataError for finished pictures: there is one of each.
        """
        if count == 1:
            return self
        if self.is_painted:
            raise DataError(
                f"--seeds {count}: the finished pictures of {self.source} have 1 seed each; leave "
                "--seeds out."
            )
        pairs = tuple(
            replace(pair, prompt=replace(pair.prompt, seed=(pair.seed + step) % 2**64))
            for pair in self.pairs
            for step in range(count)
        )
        return Data(self.source, pairs, self.notes)


class DataError(ValueError):
    """What is wrong with a benchmark's data, and what to do."""
