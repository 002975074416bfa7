"""Marks -> matches: how much a term counts in its context.

A term counts fully when it is neither negated nor part of a compound and the person does it. All
rules are local to a clause and look at a few words, so a long prompt weighs no more than a short.
What they ask of more than a few words is found in one pass over all marks, so the time is linear.
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
        self._subjects: dict[tuple[bool, bool], list[Mark | None]] = {}
        kinds = {mark.entry.kind for mark in marks}
        self.has_terms = "term" in kinds
        self.has_animals = "animals" in kinds
        self.rules = [rule for rule, looks_for in _RULES if not kinds.isdisjoint(looks_for)]

    def verdicts(self) -> Iterator[Verdict]:
        return (self._verdict(i) for i, mark in enumerate(self.marks) if mark.entry.kind == "term")

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

    def before(self, i: int) -> Iterator[Mark]:
        """Marks of the same clause, the nearest first."""
        for j in range(i - 1, self.marks[i].clause - 1, -1):
            yield self.marks[j]

    def next(self, i: int) -> Mark | None:
        """The next mark of the same clause."""
        if i + 1 < len(self.marks):
            mark = self.marks[i + 1]
            if mark.clause == self.marks[i].clause:
                return mark
        return None

    def after(self, i: int) -> Iterator[Mark]:
        clause = self.marks[i].clause
        while i + 1 < len(self.marks) and self.marks[i + 1].clause == clause:
            i += 1
            yield self.marks[i]

    @cached_property
    def modifiers(self) -> dict[int, list[Mark]]:
        """Position of a term among the marks -> its modifiers. Each belongs to one term: the next
        one of the clause if it is near enough, else the term right before.
        """
        owners: dict[int, list[Mark]] = {}
        right_before, end = None, 0
        for i, mark in enumerate(self.marks):
            if mark.start != end:
                right_before = None
            end = mark.end
            if mark.entry.kind == "term":
                right_before = i
            elif mark.entry.kind == "modifier":
                owner = self._next_term(i)
                owner = right_before if owner is None else owner
                if owner is not None:
                    owners.setdefault(owner, []).append(mark)
        return owners

    def _next_term(self, i: int) -> int | None:
        here = self.marks[i]
        for j, mark in enumerate(self.after(i), i + 1):
            if _gap(here, mark) > MODIFIER_REACH:
                break
            if mark.entry.kind == "term":
                return j
        return None

    @cached_property
    def first_person(self) -> int:
        """Number of the first mark that is a person; that of all marks when there is none."""
        return self._first(("persons",))

    @cached_property
    def first_subject(self) -> int:
        return self._first(SUBJECTS)

    def _first(self, kinds: Sequence[str]) -> int:
        found = (i for i, mark in enumerate(self.marks) if mark.entry.kind in kinds)
        return next(found, len(self.marks))

    def subject(self, i: int) -> Mark | None:
        """The noun before a term that does what the term says, if its clause has one."""
        if self.first_subject >= i:
            return None
        entry = self.marks[i].entry
        sort = entry.doubtful, entry.drifting
        if sort not in self._subjects:
            self._subjects[sort] = self._find_subjects(*sort)
        return self._subjects[sort][i]

    def _find_subjects(self, doubtful: bool, drifting: bool) -> list[Mark | None]:
        """Before each mark: the nearest noun of its clause that can do what a term of this sort
        says; one behind a preposition only if no person comes before it.
        """
        found, clause, nearest, person = [], -1, None, False
        for i, mark in enumerate(self.marks):
            if mark.clause != clause:
                clause, nearest, person = mark.clause, None, False
            found.append(nearest)
            if not _acts(mark, doubtful):
                continue
            kind = mark.entry.kind
            own = drifting or (doubtful and kind == "animals")
            person = person or kind == "persons"
            if kind == "persons" or not (person and self._is_object(i, own)):
                nearest = mark
        return found

    def _is_object(self, i: int, own: bool) -> bool:
        """Whether a preposition stands up to three words before a noun.

        "with" hardly tells: with a dog running, with her hair flying, but with long hair jumping.
        own: whether what is said is something that such a noun does.
        """
        kinds = ("prepositions",) if own else ("prepositions", "companions")
        noun = self.marks[i]
        for mark in self.before(i):
            if noun.start - mark.end > 2:
                break
            if mark.entry.kind in kinds:
                return True
        return False


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


def _judge_place(reading: Reading, i: int) -> Ruling:
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
    """Judge who acts: doubtful terms need a person, others must only not belong to an animal."""
    entry = reading.marks[i].entry
    if entry.category not in _OF_A_PERSON or not (entry.doubtful or reading.has_animals):
        return NOTHING
    share, who = _who(reading, i)
    if share == PERHAPS and not entry.doubtful:
        return NOTHING
    return (share, who) if share < 1 else NOTHING


def _who(reading: Reading, i: int) -> Ruling:
    followed = _find_noun_behind(reading, i)
    if followed and not _is_right_behind_subject(reading, i):
        return _judge_subject(followed)
    subject = reading.subject(i)
    return _judge_subject(subject) if subject else _judge_without_subject(reading, i)


def _acts(mark: Mark, doubtful: bool) -> bool:
    """Whether this noun can do it: hair and water can do only what doubtful terms say."""
    kind = mark.entry.kind
    return kind in ("persons", "animals") or (doubtful and kind == "things")


def _judge_subject(subject: Mark) -> Ruling:
    if subject.entry.kind == "persons":
        return SURELY, ""
    return SOMEBODY_ELSE, f"done by {subject.entry.phrase}"


def _find_noun_behind(reading: Reading, i: int) -> Mark | None:
    """The noun of dancing flames, of a laughing crowd, of 奔跑的狗."""
    here = reading.marks[i]
    mark = reading.next(i)
    if mark is None or not _acts(mark, here.entry.doubtful):
        return None
    gap = _gap(here, mark)
    near = gap == 0 or (gap == 1 and reading.tokens[here.end] in _PARTICLES)
    return mark if near else None


def _is_right_behind_subject(reading: Reading, i: int) -> bool:
    here = reading.marks[i]
    if i == here.clause:
        return False
    mark = reading.marks[i - 1]
    return mark.end == here.start and _acts(mark, here.entry.doubtful)


def _judge_without_subject(reading: Reading, i: int) -> Ruling:
    """A clause without a subject: "a woman, running" continues the sentence; a tag stands alone."""
    here = reading.marks[i]
    if _is_near_clause_start(reading.tokens, here.start):
        if reading.first_person < i or reading.first_subject >= i:
            return SURELY, ""
    return PERHAPS, "no person in its clause"


def _is_near_clause_start(tokens: Sequence[str], start: int) -> bool:
    return start <= 1 or tokens[start - 1] in BREAKS or tokens[start - 2] in BREAKS


_RULES: tuple[tuple[Callable[[Reading, int], Ruling], tuple[str, ...]], ...] = (
    (_compound, ("term",)),
    (_negation, ("negations",)),
    (_modifier, ("modifier",)),
    (_judge_place, ("elsewhere", "pictured")),
    (_subject, ("term",)),
)
"""Each rule with the kinds of marks that it needs; without those it is not asked."""
