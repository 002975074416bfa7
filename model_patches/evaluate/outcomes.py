"""One value per picture or the reason why there is none, and what many of them say together."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from .statistics import MISSING, Figure, bootstrap

NO_FACE_REFERENCE = "no_face_ref"
NO_FACE_GENERATED = "no_face_gen"
LOW_CONFIDENCE = "low_confidence"
LOAD_ERROR = "load_error"
UNDEFINED = "undefined"
"""The measure has no value for this picture, such as Copy-Paste between two equal photos."""
REASONS = (NO_FACE_REFERENCE, NO_FACE_GENERATED, LOW_CONFIDENCE, LOAD_ERROR, UNDEFINED)
NAN = float("nan")


@dataclass(frozen=True)
class Outcome:
    """A value, or NaN and one of REASONS. Build it with `valid` or `failed`."""

    value: float
    reason: str = ""

    @property
    def ok(self) -> bool:
        return not self.reason


def valid(value: float) -> Outcome:
    """Of a finite value; another one becomes a failure, `undefined`."""
    return Outcome(float(value)) if math.isfinite(value) else Outcome(NAN, UNDEFINED)


def failed(reason: str) -> Outcome:
    """Raises ValueError for a reason that is not among REASONS."""
    if reason not in REASONS:
        raise ValueError(f"unknown reason {reason!r}; expected one of {', '.join(REASONS)}")
    return Outcome(NAN, reason)


@dataclass(frozen=True)
class Summary:
    """What the pictures of one run say about one measure."""

    macro: Figure
    """Mean over people of their means, over pictures with a value; its interval is NaN for one
    person, whose pictures say nothing about others. `count` is how many values."""
    flat: float
    """Mean over all values, as IBench prints it."""
    strict: Figure
    """As `macro`, but failures count 0. Only of use where 0 is the worst value."""
    total: int
    failures: dict[str, int]
    """Reason -> how many pictures."""

    @property
    def rate(self) -> float:
        """Share of pictures that have a value."""
        return self.macro.count / self.total if self.total else NAN


def summarise(outcomes: Sequence[Outcome], people: Sequence[Hashable], seed: int = 0) -> Summary:
    """people: whose picture each is. No outcome, or failures alone, give NaN and no error.

    Raises ValueError when there are not as many people as outcomes.
    """
    if len(outcomes) != len(people):
        raise ValueError(f"expected a person for each of {len(outcomes)} values, got {len(people)}")
    whole = [(one.value, who) for one, who in zip(outcomes, people, strict=True) if one.ok]
    every = [(one.value if one.ok else 0.0, who) for one, who in zip(outcomes, people, strict=True)]
    return Summary(
        _figure(whole, seed),
        float(np.mean([value for value, _ in whole])) if whole else NAN,
        _figure(every, seed),
        len(outcomes),
        dict(Counter(one.reason for one in outcomes if not one.ok)),
    )


def _figure(pairs: Sequence[tuple[float, Hashable]], seed: int) -> Figure:
    if not pairs:
        return MISSING
    found = bootstrap([value for value, _ in pairs], [who for _, who in pairs], seed)
    if len({who for _, who in pairs}) > 1:
        return found
    return Figure(found.mean, NAN, NAN, found.count)


def summarise_groups(
    outcomes: Sequence[Outcome],
    people: Sequence[Hashable],
    groups: Sequence[Hashable],
    seed: int = 0,
) -> dict[Hashable, Summary]:
    """One summary for each group of pictures, such as a prompt's style, in order of appearance."""
    if len(groups) != len(outcomes) or len(groups) != len(people):
        raise ValueError(f"expected a group for each of {len(outcomes)} values, got {len(groups)}")
    found = {}
    for group in dict.fromkeys(groups):
        mine = [index for index, one in enumerate(groups) if one == group]
        found[group] = summarise([outcomes[i] for i in mine], [people[i] for i in mine], seed)
    return found


def paired_difference(
    one: Mapping[Hashable, Outcome],
    other: Mapping[Hashable, Outcome],
    person_of: Callable[[Hashable], Hashable],
    seed: int = 0,
) -> Figure:
    """Mean of `one` minus `other` on the pictures that both runs have and could measure.

    one, other: by the picture's key, such as (person, prompt, seed). The mean and its interval are
    over people; NaN where no picture is common, and no interval for one person.
    """
    common = [key for key in one if key in other and one[key].ok and other[key].ok]
    return _figure([(one[key].value - other[key].value, person_of(key)) for key in common], seed)


def share_of_base(change: float, base: float) -> float:
    """A change as a fraction of the plain model's own: 1 edits as freely as it does.

    NaN when the plain model changes nothing.
    """
    return change / base if base > 0 else NAN
