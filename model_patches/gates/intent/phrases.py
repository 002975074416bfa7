"""Phrases as a tree of words, so that a text is compared with all of them at once.

One place of a text costs a number of steps that does not depend on the number of phrases: a step
per word, twice that for each `*`, and as much again for each other way to place the `*`. So the
bounds below make reading linear in the length of the text.
"""

from __future__ import annotations

from collections.abc import Sequence

from .words import BREAKS

MAX_WORDS = 24
"""Words or Chinese characters of a phrase, `*` included."""
MAX_WILDCARDS = 4
MAX_PATTERNS = 32
"""Different places of `*` among the phrases of one file: a * b and c * d have the same."""

Words = tuple[frozenset[str] | None, ...]
"""The spellings of each word; None is one word or none."""

END = ""
"""The token after the last one."""
_NO_PHRASE = 1 << 62
_NOT_ANY = BREAKS | {END}


class Branch:
    """The phrases that agree in their first words.

    Branches grow when a text first leads there: words that share a spelling make more branches
    than any text visits.
    """

    __slots__ = ("_depth", "_numbers", "_phrases", "any", "next", "phrase")

    def __init__(self, phrases: Sequence[Words], numbers: list[int], depth: int):
        self._phrases, self._numbers, self._depth = phrases, numbers, depth
        self.phrase = _NO_PHRASE
        """Number of the first phrase that is complete here."""
        self.next: dict[str, Branch] | None = None
        """By the next token; None before the branch has grown."""
        self.any: Branch | None = None
        """After a `*`."""

    def grow(self) -> dict[str, Branch]:
        """Sort the phrases by their next word; `next`. Phrases with the same word stay together."""
        wild: list[int] = []
        by_word: dict[frozenset[str], list[int]] = {}
        for number in self._numbers:
            words = self._phrases[number]
            if len(words) == self._depth:
                self.phrase = min(self.phrase, number)
            elif (word := words[self._depth]) is None:
                wild.append(number)
            else:
                by_word.setdefault(word, []).append(number)
        if wild:
            self.any = self._branch(wild)
        self.next = following = self._by_spelling(by_word)
        return following

    def _by_spelling(self, by_word: dict[frozenset[str], list[int]]) -> dict[str, Branch]:
        meant: dict[str, list[frozenset[str]]] = {}
        for word in by_word:
            for spelling in word:
                meant.setdefault(spelling, []).append(word)
        branches: dict[tuple[frozenset[str], ...], Branch] = {}
        following = {}
        for spelling, words in meant.items():
            key = tuple(words)
            if key not in branches:
                numbers = [number for word in words for number in by_word[word]]
                branches[key] = self._branch(numbers)
            following[spelling] = branches[key]
        return following

    def _branch(self, numbers: list[int]) -> Branch:
        return Branch(self._phrases, numbers, self._depth + 1)

    def find(self, tokens: Sequence[str], start: int) -> tuple[int, int]:
        """(number, end) of the first phrase whose other words stand at `start`; end 0: none.

        tokens end with END. Where a phrase fits in two ways, its first `*` is no word.
        """
        best, end = _NO_PHRASE, 0
        untried: list[tuple[Branch, int]] = [(self, start)]
        while untried:
            branch, here = untried.pop()
            following = branch.next
            if following is None:
                following = branch.grow()
            if branch.phrase < best:
                best, end = branch.phrase, here
            token = tokens[here]
            if branch.any is not None:
                if token not in _NOT_ANY:
                    untried.append((branch.any, here + 1))
                untried.append((branch.any, here))
            if token in following:
                untried.append((following[token], here + 1))
        return best, end

    def soon(self) -> frozenset[str] | None:
        """Without one of these among the next two tokens, no longer phrase follows.

        None: whatever follows, a longer phrase may.
        """
        following, wild = self.grow(), self.any
        if wild is None:
            return frozenset(following)
        beyond = wild.grow()
        if wild.any is not None or wild.phrase != _NO_PHRASE:
            return None
        return frozenset({*following, *beyond})


def wildcard_places(words: Sequence[object], wildcard: object) -> tuple[int, ...]:
    return tuple(place for place, word in enumerate(words) if word == wildcard)
