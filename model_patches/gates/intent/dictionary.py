"""The words that the intent parser knows, as data: built-in files and a user's file.

A dictionary file is a JSON object; every key may be absent. Phrases are separated words or Chinese
characters; `*` is one word or none; the built-in verbs and nouns are found in all their forms, and
a phrase that starts with `=` only as written.

terms           {category: {phrase: score 0..1}}; 0 says that nothing is to change
doubtful        terms that water, light or a dog can do too: they need a person as their subject
drifting        doubtful terms that hair and clothes do too: "a woman with her hair flying"
modifiers       {phrase: factor} for the nearest term: "slightly" 0.5
negations       phrases that cancel a term up to four words after them
not_negations   phrases that look like a negation and are none: "not only"
blocked         compounds that contain a term and mean something else; with "-" only so written
tails           nouns that make a compound of the term before them: running *shoes*
persons, animals, things    subjects: the person of the picture, other actors, what moves by itself
prepositions, companions    words whose noun is no subject; companions ("with") not of animals
                and not of what drifts
elsewhere       "in the background": what happens there is not done by the person
pictured        "on the wall": a style there is that of an object, not of the picture
breaks          words that end a clause
forms           {word: [irregular forms]}
characters      {character: character} read as the same
remove          phrases that are taken out of every list of the dictionaries before this one

A file is bounded in what would make every prompt slow to read: MAX_BYTES in all, MAX_HYPHENATED
blocked compounds with "-", MAX_OWNERS words with the same irregular form, and what `phrases` says
of a phrase: MAX_WORDS, MAX_WILDCARDS and MAX_PATTERNS.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

from .phrases import MAX_PATTERNS, MAX_WILDCARDS, MAX_WORDS, wildcard_places
from .words import ANY, EXACT, split

MAX_BYTES = 250_000
"""Ten times the built-in English file; such a dictionary is compiled in about a second."""
MAX_CHARACTERS = 200
"""Of a phrase: a word may be long as well."""
MAX_HYPHENATED = 64
"""Each is looked for in the whole prompt."""
MAX_OWNERS = 16

CATEGORIES = ("expression", "pose", "style", "camera")
LISTS = (
    "doubtful",
    "drifting",
    "negations",
    "not_negations",
    "blocked",
    "tails",
    "persons",
    "animals",
    "things",
    "prepositions",
    "companions",
    "elsewhere",
    "pictured",
    "breaks",
)
KEYS = ("terms", "modifiers", "forms", "characters", "remove", *LISTS)
BUILTIN = tuple(Path(__file__).with_name(name) for name in ("en.json", "zh.json"))


@dataclass(frozen=True, eq=False)
class Dictionary:
    """Large: one object is compiled once, so equality is identity."""

    terms: dict[str, tuple[str, float]] = field(default_factory=dict)
    """phrase -> (category, score)"""
    modifiers: dict[str, float] = field(default_factory=dict)
    lists: dict[str, frozenset[str]] = field(default_factory=dict)
    forms: dict[str, tuple[str, ...]] = field(default_factory=dict)
    characters: dict[str, str] = field(default_factory=dict)

    def extend(self, data: Mapping[str, Any]) -> Dictionary:
        """This one with a valid file's content on top; the later word wins."""
        gone = {phrase.lower() for phrase in data.get("remove", ())}
        terms = {p: t for p, t in self.terms.items() if p.lstrip("=") not in gone}
        for category, scores in data.get("terms", {}).items():
            terms |= {phrase.lower(): (category, score) for phrase, score in scores.items()}
        modifiers = {p: f for p, f in self.modifiers.items() if p not in gone}
        lists = {
            name: (self.lists.get(name, frozenset()) - gone).union(
                phrase.lower() for phrase in data.get(name, ())
            )
            for name in LISTS
        }
        return Dictionary(
            terms,
            {**modifiers, **{p.lower(): f for p, f in data.get("modifiers", {}).items()}},
            lists,
            {**self.forms, **{w.lower(): tuple(f) for w, f in data.get("forms", {}).items()}},
            {**self.characters, **data.get("characters", {})},
        )


@lru_cache(maxsize=1)
def builtin_dictionary() -> Dictionary:
    """English and Chinese together, so that a prompt may mix them."""
    dictionary = Dictionary()
    for path in BUILTIN:
        dictionary = dictionary.extend(read_file(path))
    return dictionary


def load_dictionary(path: Path | None) -> Dictionary:
    """The built-in dictionary, with a user's file on top. Raises what read_file raises."""
    builtin = builtin_dictionary()
    return builtin if path is None else builtin.extend(read_file(path))


def read_file(path: Path) -> dict[str, Any]:
    """The checked content of a dictionary file.

    Raises FileNotFoundError, or ValueError that names the file, the key and what is expected.
    """
    if not path.is_file():
        raise FileNotFoundError(
            f"There is no dictionary file {path.name}; put it into models/flexid/dictionaries or "
            "into ComfyUI's input folder, or choose built-in."
        )
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise ValueError(
            f"Dictionary {path.name} has {size} bytes; expected at most {MAX_BYTES}. Remove "
            "phrases that you do not use."
        )
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except json.JSONDecodeError as error:
        raise ValueError(
            f"{path.name} is not valid JSON: {error.msg} in line {error.lineno}, column "
            f"{error.colno}. Correct that line."
        ) from None
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path.name} is not UTF-8 text ({error.reason} at byte {error.start}). Save it again "
            "as UTF-8."
        ) from None
    except (RecursionError, ValueError) as error:  # too deep, or a number of too many digits
        raise ValueError(
            f"Dictionary {path.name} cannot be read: {error}. Correct the file."
        ) from None
    _check(data, path.name)
    return data


def _check(data: Any, file: str) -> None:
    _expect(isinstance(data, dict), file, "the file", data, "a JSON object")
    for key, value in data.items():
        _expect(key in KEYS, file, "the key", key, f"one of {', '.join(KEYS)}")
        _CHECKS.get(key, _check_phrases)(value, file, key)
    hyphenated = sum("-" in phrase for phrase in data.get("blocked", ()))
    _expect_at_most(MAX_HYPHENATED, hyphenated, file, "the number of phrases with - in blocked")
    wild = filter(lambda phrase: ANY in phrase, _phrases(data))
    patterns = {wildcard_places(_words(phrase), ANY) for phrase in wild}
    _expect_at_most(MAX_PATTERNS, len(patterns), file, f"the number of ways to place {ANY}")


def _phrases(data: Mapping[str, Any]) -> Iterator[str]:
    for scores in data.get("terms", {}).values():
        yield from scores
    for key in ("modifiers", *LISTS):
        yield from data.get(key, ())


def _words(phrase: str) -> list[str]:
    return split(phrase.removeprefix(EXACT))


def _expect(good: bool, file: str, where: str, got: Any, expected: str) -> None:
    if not good:
        shown = json.dumps(got, ensure_ascii=False)
        shown = shown if len(shown) <= 60 else shown[:57] + "..."
        raise ValueError(
            f"Dictionary {file}: {where} is {shown}; expected {expected}. Correct the file."
        )


def _expect_at_most(most: int, got: int, file: str, where: str) -> None:
    _expect(got <= most, file, where, got, f"at most {most}")


def _check_terms(value: Any, file: str, key: str) -> None:
    _expect(isinstance(value, dict), file, key, value, "an object {category: {phrase: score}}")
    for category, scores in value.items():
        known = f"one of {', '.join(CATEGORIES)}"
        _expect(category in CATEGORIES, file, f"a category in {key}", category, known)
        _check_numbers(scores, file, f"{key}.{category}", 1.0)


def _check_modifiers(value: Any, file: str, key: str) -> None:
    _check_numbers(value, file, key, 10.0)


def _check_numbers(value: Any, file: str, key: str, highest: float) -> None:
    _expect(isinstance(value, dict), file, key, value, "an object {phrase: number}")
    for phrase, number in value.items():
        _check_phrase(phrase, file, key)
        real = isinstance(number, int | float) and not isinstance(number, bool)
        good = real and 0 <= number <= highest
        _expect(good, file, f"{key}.{phrase}", number, f"a number from 0 to {highest:g}")


def _check_phrases(value: Any, file: str, key: str) -> None:
    _expect(isinstance(value, list), file, key, value, "a list of phrases")
    for phrase in value:
        _check_phrase(phrase, file, key)


def _check_phrase(phrase: Any, file: str, key: str) -> None:
    words = _words(phrase) if isinstance(phrase, str) else []
    good = bool(words) and words[0] != ANY
    _expect(good, file, f"a phrase in {key}", phrase, "words, the first of them not *")
    limits = {
        ANY: (words.count(ANY), MAX_WILDCARDS),
        "characters": (len(phrase), MAX_CHARACTERS),
        "words": (len(words), MAX_WORDS),
    }
    for what, (got, most) in limits.items():
        if got > most:
            _expect_at_most(most, got, file, f"the number of {what} in {phrase[:40]!r} of {key}")


def _check_forms(value: Any, file: str, key: str) -> None:
    _expect(isinstance(value, dict), file, key, value, "an object {word: [forms]}")
    for word, forms in value.items():
        _check_phrases(forms, file, f"{key}.{word}")
    owners = Counter(form for forms in value.values() for form in set(forms))
    for form, count in owners.most_common(1):
        _expect_at_most(MAX_OWNERS, count, file, f"the number of words with the form {form!r}")


def _check_characters(value: Any, file: str, key: str) -> None:
    _expect(isinstance(value, dict), file, key, value, "an object {character: character}")
    for one, other in value.items():
        good = isinstance(other, str) and len(one) == len(other) == 1
        _expect(good, file, f"{key}.{one}", other, "one character for one character")


_CHECKS = {
    "terms": _check_terms,
    "modifiers": _check_modifiers,
    "forms": _check_forms,
    "characters": _check_characters,
}
