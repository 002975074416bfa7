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
_MARK = re.compile(r"\\[()\[\]]|[()\[\]]")
_NUMBER = re.compile(r":\s*([-+]?(?:\d+\.?\d*|\.\d+))\s*$")
_PAIRS = {")": "(", "]": "["}

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
    letters, opened, events = list(text), [], []
    for found in _MARK.finditer(text):
        letters[found.start() : found.end()] = " " * len(found[0])
        mark, here = found[0], found.start()
        if mark in "([":
            opened.append((mark, here))
        elif mark in _PAIRS and opened and opened[-1][0] == _PAIRS[mark]:
            _, start = opened.pop()
            events += [(start, _factor(letters, text, mark, start, here)), (here, None)]
    return "".join(letters), *_timeline(events)


def _factor(letters: list[str], text: str, mark: str, start: int, end: int) -> tuple[bool, float]:
    """(is absolute, value) of one pair; blanks its number."""
    number = _NUMBER.search(text, start, end)
    if number:
        letters[number.start() : end] = " " * (end - number.start())
    if mark == "]":
        return False, 1.0 if ":" in text[start:end] else BRACKET
    return (True, float(number[1])) if number else (False, PARENTHESIS)


def _timeline(events: list) -> tuple[tuple[int, ...], tuple[float, ...]]:
    stack, places, weights = [1.0], [], []
    for place, factor in sorted(events, key=lambda event: event[0]):
        if factor is None:
            stack.pop()
        else:
            absolute, value = factor
            stack.append(value if absolute else stack[-1] * value)
        places.append(place)
        weights.append(stack[-1])
    return tuple(places), tuple(weights)
