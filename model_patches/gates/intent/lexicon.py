"""A dictionary compiled for reading: which phrases of it stand where in a list of tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import NamedTuple

from .dictionary import Dictionary
from .text import CleanText
from .words import ANY, BREAKS, EXACT, noun_forms, split, verb_forms

# Of two phrases with the same words the earlier kind wins: a user's term beats a built-in noun.
KINDS = (
    "blocked",
    "term",
    "not_negations",
    "negations",
    "modifier",
    "elsewhere",
    "pictured",
    "breaks",
    "persons",
    "animals",
    "things",
    "prepositions",
    "companions",
)


@dataclass(frozen=True)
class Entry:
    """One phrase of the dictionary."""

    phrase: str
    kind: str
    words: tuple[frozenset[str] | None, ...]
    """The spellings of each word; None is one word or none."""
    category: str = ""
    score: float = 0.0
    """Of a term; of a modifier its factor."""
    doubtful: bool = False
    drifting: bool = False

    def end(self, tokens: Sequence[str], start: int, word: int = 0) -> int:
        """Where the phrase ends whose words from `word` on start at `start`; 0 when absent."""
        for number in range(word, len(self.words)):
            spellings = self.words[number]
            if spellings is None:
                end = self.end(tokens, start, number + 1)
                if end or start >= len(tokens) or tokens[start] in BREAKS:
                    return end
                return self.end(tokens, start + 1, number + 1)
            if start >= len(tokens) or tokens[start] not in spellings:
                return 0
            start += 1
        return start


class Mark(NamedTuple):
    """An entry found at tokens[start:end]."""

    entry: Entry
    start: int
    end: int
    clause: int
    """Number of the first mark of its clause."""


Branches = dict[str, tuple[tuple[Entry, int], ...]]
"""By second token, under "" for any other: the entries to try, the longest first, each with its
length where the first two tokens are all of it; 0: the rest has to be compared."""


@dataclass(frozen=True)
class Lexicon:
    entries: dict[str, Entry | Branches]
    """By first token; an Entry where nothing longer begins with that token."""
    tails: frozenset[str]
    hyphenated: re.Pattern[str] | None
    hyphens: tuple[str, ...]
    """What `hyphenated` finds: looking for each is quicker than one search for all."""
    characters: dict[int, str]
    openers: frozenset[str]
    """First tokens of terms: a prompt without any has no intent."""

    def marks(self, tokens: Sequence[str]) -> list[Mark]:
        """Longest match from left to right; no two marks overlap."""
        found, clause, free = [], 0, 0
        following = [*tokens[1:], ""]
        for here, known in enumerate(map(self.entries.get, tokens)):
            if known is None or here < free:
                continue
            if known.__class__ is Entry:
                entry, free = known, here + 1
            else:
                for entry, length in known.get(following[here]) or known[""]:
                    end = here + length if length else entry.end(tokens, here + 1, 1)
                    if end:
                        free = end
                        break
                else:
                    continue
            if entry.kind == "breaks":
                clause = len(found)
            found.append(Mark(entry, here, free, clause))
        return found

    def without_hyphenated(self, clean: CleanText) -> CleanText:
        if self.hyphenated is None or not any(phrase in clean.text for phrase in self.hyphens):
            return clean
        crossed = self.hyphenated.sub(lambda found: "x" * len(found[0]), clean.text)
        return CleanText(crossed, clean.places, clean.weights)


@lru_cache(maxsize=8)
def compile_lexicon(dictionary: Dictionary) -> Lexicon:
    """Takes some ten milliseconds; once per dictionary object."""
    entries = sorted(_entries(dictionary), key=lambda e: (-len(e.words), KINDS.index(e.kind)))
    by_first: dict[str, list[Entry]] = {}
    for entry in entries:
        for spelling in entry.words[0] or ():
            by_first.setdefault(spelling, []).append(entry)
    hyphenated = sorted(filter(_is_hyphenated, dictionary.lists["blocked"]))
    pattern = rf"\b(?:{'|'.join(map(re.escape, hyphenated))})\b" if hyphenated else None
    tails = (noun_forms(word, dictionary.forms) for word in dictionary.lists["tails"])
    return Lexicon(
        {token: _branches(found) for token, found in by_first.items()},
        frozenset().union(*tails),
        re.compile(pattern) if pattern else None,
        tuple(hyphenated),
        {ord(one): other for one, other in dictionary.characters.items()},
        frozenset(s for one in entries if one.kind == "term" for s in one.words[0] or ()),
    )


def _branches(entries: list[Entry]) -> Entry | Branches:
    """Entries with the same first token and the same order, told apart by their second one."""
    if len(entries[0].words) == 1:
        return entries[0]
    seconds = {s for entry in entries for s in (entry.words[1:2] or [None])[0] or ()}
    return {
        second: tuple(
            (entry, _known_length(entry)) for entry in entries if _may_continue(entry, second)
        )
        for second in ("", *seconds)
    }


def _known_length(entry: Entry) -> int:
    words = entry.words
    return 0 if len(words) > 2 or None in words else len(words)


def _may_continue(entry: Entry, second: str) -> bool:
    spellings = entry.words[1] if len(entry.words) > 1 else None
    return spellings is None or second in spellings


def _is_hyphenated(phrase: str) -> bool:
    return "-" in phrase


def _entries(dictionary: Dictionary) -> list[Entry]:
    verbs = partial(verb_forms, irregular=dictionary.forms)
    nouns = partial(noun_forms, irregular=dictionary.forms)
    doubtful, drifting = (_openings(dictionary.lists[key]) for key in ("doubtful", "drifting"))
    forms = {"persons": nouns, "animals": nouns, "things": nouns, "blocked": verbs}
    found = [Entry(sign, "breaks", (frozenset({sign}),)) for sign in BREAKS]
    for phrase, (category, score) in dictionary.terms.items():
        entry = _entry(phrase, "term", verbs, category, score)
        flags = {"doubtful": doubtful(phrase), "drifting": drifting(phrase)}
        found.append(replace(entry, **flags))
    for phrase, factor in dictionary.modifiers.items():
        found.append(_entry(phrase, "modifier", _keep_spelling, score=factor))
    for kind in set(KINDS).intersection(dictionary.lists):
        for phrase in dictionary.lists[kind]:
            if kind != "blocked" or not _is_hyphenated(phrase):
                found.append(_entry(phrase, kind, forms.get(kind, _keep_spelling)))
    return found


def _openings(phrases: Iterable[str]) -> Callable[[str], bool]:
    """Whether a phrase begins with one of these."""
    openings = {tuple(split(phrase)) for phrase in phrases}

    def opens(phrase: str) -> bool:
        words = tuple(split(phrase))
        return any(words[:length] in openings for length in range(1, len(words) + 1))

    return opens


def _entry(
    phrase: str,
    kind: str,
    forms: Callable[[str], frozenset[str]],
    category: str = "",
    score: float = 0.0,
) -> Entry:
    words = split(phrase.removeprefix(EXACT))
    forms = _keep_spelling if phrase.startswith(EXACT) else forms
    return Entry(
        phrase.removeprefix(EXACT),
        kind,
        tuple(None if word == ANY else forms(word) for word in words),
        category,
        score,
    )


def _keep_spelling(word: str) -> frozenset[str]:
    return frozenset({word})
