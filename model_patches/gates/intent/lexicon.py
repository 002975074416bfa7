"""A dictionary compiled for reading: it finds its phrases in a list of tokens."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import NamedTuple

from .dictionary import Dictionary
from .phrases import END, Branch, Words
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
    words: Words
    category: str = ""
    score: float = 0.0
    """Of a term; of a modifier its factor."""
    doubtful: bool = False
    drifting: bool = False


class Mark(NamedTuple):
    """An entry found at tokens[start:end]."""

    entry: Entry
    start: int
    end: int
    clause: int
    """Number of the first mark of its clause."""


Opening = tuple[Branch, frozenset[str] | None, Entry | None]
"""Phrases with the same first token, what their branch says is soon to come (see `Branch.soon`),
and the entry that is that token alone."""


@dataclass(frozen=True)
class Lexicon:
    ordered: list[Entry]
    """Where several match, the first one wins."""
    entries: dict[str, Entry | Opening]
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
        ended = [*tokens, END, END]
        for here, known in enumerate(map(self.entries.get, tokens)):
            if known is None or here < free:
                continue
            end = here + 1
            if isinstance(known, Entry):
                entry = known
            else:
                branch, soon, entry = known
                if soon is None or ended[end] in soon or ended[end + 1] in soon:
                    number, end = branch.find(ended, end)
                    entry = self.ordered[number] if end else None
                if entry is None:
                    continue
            free = end
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
    hyphenated = sorted(filter(_is_hyphenated, dictionary.lists["blocked"]))
    pattern = rf"\b(?:{'|'.join(map(re.escape, hyphenated))})\b" if hyphenated else None
    tails = (noun_forms(word, dictionary.forms) for word in dictionary.lists["tails"])
    return Lexicon(
        entries,
        _by_first_token(entries),
        frozenset().union(*tails),
        re.compile(pattern) if pattern else None,
        tuple(hyphenated),
        {ord(one): other for one, other in dictionary.characters.items()},
        frozenset().union(*{one.words[0] or frozenset() for one in entries if one.kind == "term"}),
    )


def _by_first_token(entries: list[Entry]) -> dict[str, Entry | Opening]:
    phrases = [entry.words for entry in entries]
    following = Branch(phrases, list(range(len(phrases))), 0).grow()
    openings = {branch: _opening(branch, entries) for branch in set(following.values())}
    return {token: openings[branch] for token, branch in following.items()}


def _opening(branch: Branch, entries: list[Entry]) -> Entry | Opening:
    soon = branch.soon()
    alone = entries[branch.phrase] if branch.phrase < len(entries) else None
    if alone is not None and soon is not None and not soon:
        return alone
    return branch, soon, alone


def _is_hyphenated(phrase: str) -> bool:
    return "-" in phrase


def _entries(dictionary: Dictionary) -> list[Entry]:
    verbs = lru_cache(None)(partial(verb_forms, irregular=dictionary.forms))
    nouns = lru_cache(None)(partial(noun_forms, irregular=dictionary.forms))
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
