"""What the suite of DynamicID compares. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass

from .prompts import Prompt
from .rows import ALONE, Row


@dataclass(frozen=True)
class Way:
    """How people are drawn from the tokens of the adapter that was trained with SAA."""

    activated: bool
    """By Apply SAA; else by Apply VFA with the same file, which is plain cross-attention."""
    placed: bool = False
    """Whether each of two people has a region: a box in their half of the picture."""
    edited: bool = False
    """Whether IMR puts the motion that a prompt asks for into the tokens."""
    unsaid: bool = False
    """Whether the base reads the prompt without its words for expression and pose: what is obeyed
    then comes from the tokens alone."""


def _row(key: str, title: str) -> Row:
    return Row(key, title, "people", weight=1.0)


PLAIN = _row("plain", "plain cross-attention")
SAA = _row("saa", "SAA")
SAA_IMR = _row("saa-imr", "SAA + IMR")
PLAIN_UNSAID = _row("plain-unsaid", "plain, motion unsaid")
SAA_UNSAID = _row("saa-imr-unsaid", "SAA + IMR, motion unsaid")
ONE = (PLAIN, SAA, SAA_IMR, PLAIN_UNSAID, SAA_UNSAID)
"""Of one person."""

PLACES = ((0.05, 0.1, 0.95, 0.4), (0.05, 0.6, 0.95, 0.9))
"""Boxes of two people, from left to right: y_min, x_min, y_max, x_max as shares of the picture."""
BETA = 0.5
"""Apply SAA's beta, chosen on five pairs of the tuning split. Its default of 2 is published for
SD 1.5; here it costs likeness and changes more of the background."""

COUPLE = "couple-"
COUPLE_PLAIN = _row(f"{COUPLE}plain", "plain, no masks")
COUPLE_MASKS = _row(f"{COUPLE}plain-masks", "plain, masks")
COUPLE_SAA = _row(f"{COUPLE}saa", "SAA, boxes")
COUPLE_IMR = _row(f"{COUPLE}saa-imr", "SAA, boxes + IMR")
TWO = (ALONE, COUPLE_PLAIN, COUPLE_MASKS, COUPLE_SAA, COUPLE_IMR)
"""Of two people side by side; the first is what the background is compared with."""

_WAYS = {
    PLAIN: Way(activated=False),
    SAA: Way(activated=True),
    SAA_IMR: Way(activated=True, edited=True),
    PLAIN_UNSAID: Way(activated=False, unsaid=True),
    SAA_UNSAID: Way(activated=True, edited=True, unsaid=True),
    COUPLE_PLAIN: Way(activated=False),
    COUPLE_MASKS: Way(activated=False, placed=True),
    COUPLE_SAA: Way(activated=True, placed=True),
    COUPLE_IMR: Way(activated=True, placed=True, edited=True),
}


def way_of(row: Row) -> Way:
    """Of a row with the anchor "people"."""
    return _WAYS[row]


PROMPTS = ("laughing", "sad", "right", "left", "oil")
"""Of prompts.json, for one person: expressions, turns of the head, a style."""


@dataclass(frozen=True)
class Scene:
    """Two people side by side, each half of the picture by a prompt of its own: from one prompt the
    small Flux paints two people coarsely, and none on a picture so wide."""

    left: Prompt
    right: Prompt

    @property
    def halves(self) -> tuple[Prompt, Prompt]:
        return self.left, self.right

    @property
    def whole(self) -> Prompt:
        """What a picture is kept under."""
        names, texts = zip(*((half.id, half.text) for half in self.halves), strict=True)
        return Prompt("+".join(names), " | ".join(texts))


_LAUGHING = Prompt("laughing", "portrait of a laughing person in a park", expression="happy")
_SAD = Prompt("sad", "portrait of a sad person in a park", expression="sad")
SCENES = (Scene(_LAUGHING, _SAD), Scene(_SAD, _LAUGHING))
"""Opposite moods, and the same with the moods changed over."""

_MOODS = {
    "neutral": "portrait of a person with a calm expression in a park",
    "happy": "portrait of a laughing person in a park",
    "sad": "portrait of a sad person in a park",
    "surprised": "portrait of a surprised person in a park",
    "angry": "portrait of an angry person in a park",
    "disgusted": "portrait of a disgusted person in a park",
    "fearful": "portrait of a frightened person in a park",
}
_TURNS = {
    "far left": (-45.0, "portrait of a person turned to the left, in three-quarter view"),
    "left": (-25.0, "portrait of a person looking to the left"),
    "front": (0.0, "portrait of a person looking at the camera"),
    "right": (25.0, "portrait of a person looking to the right"),
    "far right": (45.0, "portrait of a person turned to the right, in three-quarter view"),
}
SHEET_MOODS = tuple(Prompt(mood, text, expression=mood) for mood, text in _MOODS.items())
SHEET_TURNS = tuple(Prompt(name, text, yaw=yaw) for name, (yaw, text) in _TURNS.items())
"""What the contact sheet shows of one person."""
SHEET_SCENE = SCENES[0]
"""And of two people, in both orders."""
