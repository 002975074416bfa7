"""Words as a prompt may write them: tokens of a text, and the forms of a dictionary word."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

# A Chinese character is a token of its own, so that a phrase of characters is found in a text
# without spaces by the same comparison that finds a phrase of words.
_HAN = "\u3400-\u9fff"
TOKEN = re.compile(rf"[{_HAN}]|[^\W_{_HAN}]+(?:'[^\W_{_HAN}]+)*|[,.;:!?|\n]")
# In brackets, so that split() gives the tokens and what is between them in turn. The second one
# finds the same in lower-case ASCII, in two thirds of the time.
_PIECES = re.compile(f"({TOKEN.pattern})")
_ASCII_PIECES = re.compile(r"([a-z0-9]+(?:'[a-z0-9]+)*|[,.;:!?|\n])")
HAN = re.compile(rf"[{_HAN}]")
BREAKS = frozenset(",.;:!?|\n")

ANY = "*"
EXACT = "="

Forms = Mapping[str, Iterable[str]]


def pieces(text: str) -> list[str]:
    """A lower-case text cut at its tokens; those are the pieces 1, 3, 5, ..."""
    return (_ASCII_PIECES if text.isascii() else _PIECES).split(text)


def split(phrase: str) -> list[str]:
    """Tokens of a dictionary phrase; `*` stands for one word or none."""
    return [
        token
        for piece in phrase.lower().split()
        for token in ([ANY] if piece == ANY else TOKEN.findall(piece))
    ]


def verb_forms(word: str, irregular: Forms) -> frozenset[str]:
    """smile, smiles, smiled, smiling. Impossible forms are harmless: nobody writes them."""
    forms = {word, *irregular.get(word, ()), *_plurals(word)}
    if not word.isascii() or not word.isalpha() or len(word) < 3:
        return frozenset(forms)
    if word.endswith("ie"):
        return frozenset({*forms, word + "d", word[:-2] + "ying"})
    if word.endswith("e"):
        return frozenset({*forms, word + "d", word + "ing", word[:-1] + "ing"})
    if word.endswith("y") and word[-2] not in "aeiou":
        return frozenset({*forms, word[:-1] + "ied", word + "ing"})
    stems = [word]
    if word[-1] not in "aeiouwxy" and word[-2] in "aeiou" and word[-3] not in "aeiou":
        stems.append(word + word[-1])
    return frozenset(forms.union(stem + end for stem in stems for end in ("ed", "ing")))


def noun_forms(word: str, irregular: Forms) -> frozenset[str]:
    """dog, dogs, dog's, dogs'."""
    plurals = _plurals(word)
    return frozenset({word, *irregular.get(word, ()), *plurals, word + "'s"})


def _plurals(word: str) -> set[str]:
    if not word.isascii() or not word.isalpha() or len(word) < 3:
        return set()
    if word.endswith("y") and word[-2] not in "aeiou":
        return {word[:-1] + "ies"}
    if word.endswith(("s", "x", "z", "ch", "sh")):
        return {word + "es"}
    return {word + "s"}
