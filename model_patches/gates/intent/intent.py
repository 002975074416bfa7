"""Prompt -> Intent: how much a prompt wants changed against a plain photo of the face."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

from .dictionary import CATEGORIES, Dictionary, builtin_dictionary
from .judge import Reading, Verdict
from .lexicon import Lexicon, compile_lexicon
from .text import CleanText, clean_text
from .words import HAN, pieces

THRESHOLD = 0.2
"""Binary intent is 1 from this score on: a slight smile counts, a dog that runs does not."""

_TOLERANCE = 1e-9


class Match(NamedTuple):
    """A term found in a prompt."""

    term: str
    category: str
    text: str
    """As the prompt writes it: prompt[start:end]."""
    start: int
    end: int
    score: float
    """In [0, 1], after every rule; 0 when negated, blocked or neutral."""
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class Intent:
    score: float = 0.0
    """Graded, in [0, 1]."""
    categories: Mapping[str, float] = field(default_factory=lambda: dict.fromkeys(CATEGORIES, 0.0))
    matches: tuple[Match, ...] = ()

    @property
    def binary(self) -> float:
        """The paper's indicator: 1 when the prompt asks for an edit."""
        return as_binary(self.score)


def as_binary(score: float) -> float:
    return float(score >= THRESHOLD - _TOLERANCE)


def has_chinese(prompt: str) -> bool:
    return HAN.search(prompt) is not None


def read_intent(
    prompt: str,
    dictionary: Dictionary | None = None,
    factors: Mapping[str, float] | None = None,
) -> Intent:
    """The editing intent of a prompt, in any mix of English and Chinese.

    A category scores as its strongest term, times its factor (1 when absent); the whole is
    1 - Π(1 - category). More words of a category or more sentences without any add nothing, so a
    long prompt does not saturate. dictionary: the built-in one when None. Raises ValueError on an
    unknown category or a negative factor.
    """
    for category, factor in (factors or {}).items():
        if category not in CATEGORIES or not 0.0 <= factor < math.inf:
            raise ValueError(
                f"The factor of category {category!r} is {factor:g}; categories are "
                f"{', '.join(CATEGORIES)} and a factor is finite and not below 0. Correct it."
            )
    lexicon = compile_lexicon(dictionary or builtin_dictionary())
    clean = clean_text(prompt, lexicon.characters)
    clean = lexicon.without_hyphenated(clean)
    cut = pieces(clean.text)
    if lexicon.openers.isdisjoint(cut):
        return Intent()
    matches = _matches(prompt, clean, cut, lexicon)
    categories = _category_scores(matches, factors or {})
    return Intent(1 - math.prod(1 - score for score in categories.values()), categories, matches)


def _category_scores(matches: tuple[Match, ...], factors: Mapping[str, float]) -> dict[str, float]:
    strongest: dict[str, float] = dict.fromkeys(CATEGORIES, 0.0)
    for match in matches:
        if match.score > strongest[match.category]:
            strongest[match.category] = match.score
    return {c: min(1.0, score * factors.get(c, 1.0)) for c, score in strongest.items()}


def _matches(prompt: str, clean: CleanText, cut: list[str], lexicon: Lexicon) -> tuple[Match, ...]:
    tokens = cut[1::2]
    reading = Reading(tokens, lexicon.marks(tokens), lexicon)
    if not reading.has_terms:
        return ()
    ends = list(accumulate(map(len, cut)))
    return tuple([_match(prompt, clean, ends, verdict) for verdict in reading.verdicts()])


def _match(prompt: str, clean: CleanText, ends: list[int], verdict: Verdict) -> Match:
    """ends: of every piece; token number n is piece 2n + 1."""
    mark, factor, reasons = verdict
    entry, start, end = mark.entry, ends[2 * mark.start], ends[2 * mark.end - 1]
    emphasis = max(0.0, clean.emphasis(start)) if clean.places else 1.0
    if emphasis != 1.0:
        reasons = (*reasons, f"emphasis ×{emphasis:.3g}")
    score = _limit(entry.score * factor * emphasis)
    if clean.text.startswith("-free", end):
        score, reasons = 0.0, (*reasons, "negated by -free")
    return Match(entry.phrase, entry.category, prompt[start:end], start, end, score, reasons)


def _limit(strength: float) -> float:
    """At most 1. Infinitely much of nothing is nothing: a long row of brackets or of modifiers
    overflows, and a neutral term has the score 0.
    """
    if strength < 1.0:
        return strength
    return 0.0 if math.isnan(strength) else 1.0
