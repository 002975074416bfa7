"""Prompt -> plain text of the same length, and how strongly each place is emphasised.

Every step keeps the length, so a position in the clean text is a position in the prompt.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass

PARENTHESIS, BRACKET = 1.1, 1 / 1.1

_TAG = re.compile(r"<\w+:[^<>]*>")
_EMBEDDING = re.compile(r"embedding:[^\s,()\[\]:<>]*", re.IGNORECASE)
_BREAK = re.compile(r"\bBREAK\b")
# In brackets, so that split() gives what is between the marks and the marks in turn.
_MARK = re.compile(r"(\\[()\[\]]|[()\[\]])")
# After a number there is one way to read each sign: with two, long digits take quadratic time.
_NUMBER = re.compile(r"\s*([-+]?(?:\d+(?:\.\d*)?|\.\d+))\s*")
_OPENS = frozenset("([")
_PAIRS = {")": "(", "]": "["}
_BLANKS = {mark: " " * len(mark) for mark in ("(", ")", "[", "]", "\\(", "\\)", "\\[", "\\]")}
_PLAIN_FACTORS = {")": (False, PARENTHESIS), "]": (False, BRACKET)}
_ENDS = (False, None)
"""In place of a factor: a pair ends here."""

_NARROW = {0xFF01 + i: 0x21 + i for i in range(94)}
_SIGNS = {"\u3000": " ", "\u2018": "'", "\u2019": "'", "_": " ", "\u3002": ".", "\u3001": ","}
_PLAIN = {**_NARROW, **{ord(sign): plain for sign, plain in _SIGNS.items()}}


@dataclass(frozen=True)
class CleanText:
    text: str
    """Lower case, half-width, without weights, tags and embeddings; as long as the prompt."""
    places: tuple[int, ...] = ()
    weights: tuple[float, ...] = ()
    """From places[i] on, the emphasis is weights[i]; 1 before the first."""

    def emphasis(self, position: int) -> float:
        after = bisect_right(self.places, position)
        return self.weights[after - 1] if after else 1.0


def clean_text(prompt: str, characters: Mapping[int, str]) -> CleanText:
    """`characters`: more one-to-one replacements, such as traditional to simplified Chinese.

    Emphasis as ComfyUI reads it: (a) is 1.1, (a:1.3) is 1.3, nested ones multiply, \\( is a plain
    parenthesis. [a] is 1 / 1.1 and [a:b:0.5] leaves the weight alone, as other programs read them.
    """
    text = _TAG.sub(_blank, prompt) if "<" in prompt else prompt
    text = _EMBEDDING.sub(_blank, text) if ":" in text else text
    text = _BREAK.sub(_stop, text) if "BREAK" in text else text
    places, weights = (), ()
    if "(" in text or "[" in text:
        text, places, weights = _take_emphasis(text)
    if not text.isascii():
        text = text.translate(_PLAIN).translate(characters)
        return CleanText(_lower(text), places, weights)
    return CleanText(text.replace("_", " ").lower(), places, weights)


def _blank(found: re.Match) -> str:
    return " " * len(found[0])


def _stop(found: re.Match) -> str:
    return "." * len(found[0])


def _lower(text: str) -> str:
    """lower() may lengthen a letter of some alphabets; such a letter stays as it is."""
    lowered = text.lower()
    if len(lowered) == len(text):
        return lowered
    return "".join(c.lower() if len(c.lower()) == 1 else c for c in text)


def _take_emphasis(text: str) -> tuple[str, tuple[int, ...], tuple[float, ...]]:
    """Blank the marks; an unmatched one has no meaning. Returns text, places, weights."""
    cut = _MARK.split(text)
    marks = cut[1::2]
    opened, signs, places, factors = [], [], [], []
    colon, here, number = -1, 0, 0
    for mark in marks:
        between = cut[number]
        if between:
            if ":" in between:
                colon = here + between.rindex(":")
            here += len(between)
        if mark in _OPENS:
            opened.append(len(signs))
            signs.append(mark)
            places.append(here)
            factors.append(None)
        elif opened and _PAIRS.get(mark) == signs[opened[-1]]:
            start = opened.pop()
            cut[number], factors[start] = _factor(mark, between, colon > places[start])
            signs.append(mark)
            places.append(here)
            factors.append(_ENDS)
        here += len(mark)
        number += 2
    cut[1::2] = map(_BLANKS.__getitem__, marks)
    return "".join(cut), *_timeline(places, factors)


def _factor(mark: str, end: str, has_colon: bool) -> tuple[str, tuple[bool, float]]:
    """The end of a pair with its weight blanked, and (is absolute, value) of the pair.

    A weight contains no mark and no second colon, so only what follows the last mark and the last
    colon can be one.
    """
    if not has_colon:
        return end, _PLAIN_FACTORS[mark]
    text, colon, last = end.rpartition(":")
    found = _NUMBER.fullmatch(last) if colon else None
    if found:
        end = text + " " * (len(end) - len(text))
    if mark == "]":
        return end, (False, 1.0)
    return end, (True, float(found[1])) if found else _PLAIN_FACTORS[mark]


def _timeline(places: list[int], factors: list) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """The weight from each end of a pair on; a factor of None belongs to an unmatched mark."""
    outer, weight, kept, weights = [], 1.0, [], []
    for place, factor in zip(places, factors, strict=True):
        if factor is None:
            continue
        absolute, value = factor
        if value is None:
            weight = outer.pop()
        else:
            outer.append(weight)
            weight = value if absolute else weight * value
        kept.append(place)
        weights.append(weight)
    return tuple(kept), tuple(weights)
