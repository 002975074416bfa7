"""Marks -> matches: what a term weighs where it stands.

A term counts fully when it is neither negated nor part of a compound and the person does it. All
rules are local to a clause and look at a few words, so a long prompt weighs no more than a short.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

from .lexicon import Lexicon, Mark
from .words import BREAKS

NEGATION_REACH = 4
MODIFIER_REACH = 2
PICTURED_REACH = 5
SOMEBODY_ELSE, PERHAPS, SURELY = 0.2, 0.5, 1.0

SUBJECTS = ("persons", "animals", "things")
_OF_A_PERSON = ("expression", "pose")
_PARTICLES = {"的", "着", "地"}


class Verdict(NamedTuple):
    """factor multiplies the term's score; reasons say why it is not 1."""

    mark: Mark
    factor: float
    reasons: tuple[str, ...]


class Reading:
    """All marks of one prompt, and the questions that the rules ask of them."""

    def __init__(self, tokens: Sequence[str], marks: list[Mark], lexicon: Lexicon):
        self.tokens = tokens
        self.marks = marks
        self.tails = lexicon.tails
        kinds = {mark.entry.kind for mark in marks}
        self.rules = [rule for rule, looks_for in _RULES if not kinds.isdisjoint(looks_for)]

    def verdicts(self) -> list[Verdict]:
        return [self._verdict(i) for i, mark in enumerate(self.marks) if mark.entry.kind == "term"]

    def _verdict(self, i: int) -> Verdict:
        factor, reasons = 1.0, []
        for rule in self.rules:
            share, reason = rule(self, i)
            factor *= share
            if reason:
                reasons.append(reason)
            if not factor:
                break
        return Verdict(self.marks[i], factor, tuple(reasons))

    def before(self, i: int) -> list[Mark]:
        """Marks of the same clause, the nearest first."""
        return self.marks[self.marks[i].clause : i][::-1]

    def after(self, i: int) -> Iterator[Mark]:
        clause = self.marks[i].clause
        while i + 1 < len(self.marks) and self.marks[i + 1].clause == clause:
            i += 1
            yield self.marks[i]

    @cached_property
    def modifiers(self) -> dict[int, list[Mark]]:
        """Position of a term among the marks -> its modifiers. Each belongs to one term."""
        owners: dict[int, list[Mark]] = {}
        for i, mark in enumerate(self.marks):
            if mark.entry.kind == "modifier":
                owner = self._owner(i)
                if owner is not None:
                    owners.setdefault(owner, []).append(mark)
        return owners

    def _owner(self, i: int) -> int | None:
        """The next term of the clause if it is near enough, else the term right before."""
        here = self.marks[i]
        for j in range(i + 1, len(self.marks)):
            mark = self.marks[j]
            if mark.clause != here.clause or _gap(here, mark) > MODIFIER_REACH:
                break
            if mark.entry.kind == "term":
                return j
        for j in range(i - 1, -1, -1):
            if self.marks[j].end != self.marks[j + 1].start:
                break
            if self.marks[j].entry.kind == "term":
                return j
        return None


def _gap(one: Mark, other: Mark) -> int:
    """Tokens between two marks."""
    return other.start - one.end if one.start < other.start else one.start - other.end


Ruling = tuple[float, str]
NOTHING: Ruling = (1.0, "")


def _compound(reading: Reading, i: int) -> Ruling:
    """running shoes; smile-free is a compound too."""
    end = reading.marks[i].end
    after = reading.tokens[end] if end < len(reading.tokens) else ""
    return (0.0, f"compound with {after}") if after in reading.tails else NOTHING


def _negation(reading: Reading, i: int) -> Ruling:
    here = reading.marks[i]
    for mark in reading.before(i):
        if here.start - mark.end > NEGATION_REACH:
            break
        if mark.entry.kind == "negations":
            return 0.0, f"negated by {mark.entry.phrase}"
    return NOTHING


def _modifier(reading: Reading, i: int) -> Ruling:
    factor, reasons = 1.0, []
    for mark in reading.modifiers.get(i, ()):
        factor *= mark.entry.score
        reasons.append(f"{mark.entry.phrase} ×{mark.entry.score:g}")
    return factor, ", ".join(reasons)


def _elsewhere(reading: Reading, i: int) -> Ruling:
    """In the background; an object on the wall. The nearest other term owns what is beyond it."""
    here = reading.marks[i]
    style = here.entry.category == "style"
    for mark in reading.after(i):
        kind, gap = mark.entry.kind, _gap(here, mark)
        if kind == "term" or gap > PICTURED_REACH:
            break
        if kind == "elsewhere" and not style and gap <= 1:
            return SOMEBODY_ELSE, mark.entry.phrase
        if kind == "pictured" and style:
            return 0.0, mark.entry.phrase
    for mark in reading.before(i):
        kind, gap = mark.entry.kind, _gap(mark, here)
        if kind == "term":
            break
        if kind == "elsewhere" and not style:
            return SOMEBODY_ELSE, mark.entry.phrase
        if kind == "pictured" and style and gap <= MODIFIER_REACH:
            return 0.0, mark.entry.phrase
    return NOTHING


def _subject(reading: Reading, i: int) -> Ruling:
    """Who does it? Doubtful terms need a person; others only must not belong to an animal."""
    entry = reading.marks[i].entry
    if entry.category not in _OF_A_PERSON:
        return NOTHING
    share, who = _who(reading, i)
    if share == PERHAPS and not entry.doubtful:
        return NOTHING
    return (share, who) if share < 1 else NOTHING


def _who(reading: Reading, i: int) -> Ruling:
    here = reading.marks[i]
    followed = _followed_by(reading, i)
    preceding = [mark for mark in reading.before(i) if _acts(mark, here)]
    if followed and not (preceding and _gap(preceding[0], here) == 0):
        return _belongs(followed)
    subject = _preceding_subject(reading, i, preceding)
    if subject:
        return _belongs(subject)
    return _unnamed(reading, i)


def _acts(mark: Mark, here: Mark) -> bool:
    """Things such as hair and water can do only what is doubtful."""
    kind = mark.entry.kind
    return kind in ("persons", "animals") or (kind == "things" and here.entry.doubtful)


def _belongs(subject: Mark) -> Ruling:
    if subject.entry.kind == "persons":
        return SURELY, ""
    return SOMEBODY_ELSE, f"done by {subject.entry.phrase}"


def _followed_by(reading: Reading, i: int) -> Mark | None:
    """The noun of dancing flames, of a laughing crowd, of 奔跑的狗."""
    here = reading.marks[i]
    for mark in reading.after(i):
        gap = _gap(here, mark)
        between = reading.tokens[here.end : mark.start]
        if gap > 1 or (gap == 1 and between[0] not in _PARTICLES):
            return None
        return mark if _acts(mark, here) else None
    return None


def _preceding_subject(reading: Reading, i: int, preceding: list[Mark]) -> Mark | None:
    """The nearest noun; one behind a preposition only if no person comes before it."""
    for number, mark in enumerate(preceding):
        if mark.entry.kind == "persons":
            return mark
        persons = any(other.entry.kind == "persons" for other in preceding[number + 1 :])
        if not (persons and _is_object(reading, i, mark)):
            return mark
    return None


def _is_object(reading: Reading, i: int, noun: Mark) -> bool:
    """Whether a preposition stands up to three words before the noun.

    "with" hardly tells: with a dog running, with her hair flying, but with long hair jumping.
    """
    entry = reading.marks[i].entry
    own = entry.drifting or (entry.doubtful and noun.entry.kind == "animals")
    kinds = ("prepositions",) if own else ("prepositions", "companions")
    return any(
        mark.entry.kind in kinds and 0 <= noun.start - mark.end <= 2 for mark in reading.before(i)
    )


def _unnamed(reading: Reading, i: int) -> Ruling:
    """No subject in the clause: "a woman, running" continues the sentence, a tag stands alone."""
    here = reading.marks[i]
    if _is_near_clause_start(reading.tokens, here.start):
        earlier = {mark.entry.kind for mark in reading.marks[:i]}
        if "persons" in earlier or not earlier.intersection(SUBJECTS):
            return SURELY, ""
    return PERHAPS, "no person in its clause"


def _is_near_clause_start(tokens: Sequence[str], start: int) -> bool:
    from_start = tokens[max(0, start - 2) : start]
    return start <= 1 or any(token in BREAKS for token in from_start)


_RULES: tuple[tuple[Callable[[Reading, int], Ruling], tuple[str, ...]], ...] = (
    (_compound, ("term",)),
    (_negation, ("negations",)),
    (_modifier, ("modifier",)),
    (_elsewhere, ("elsewhere", "pictured")),
    (_subject, ("term",)),
)
"""Each with the kinds of marks without which it has nothing to say."""
