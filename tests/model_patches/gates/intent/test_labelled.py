"""The parser against labelled prompts, scored on the half that was held out while tuning.

Labels: `intent` is how much of a plain photo of the person is to change, 0 none, 0.25 a hint, 0.5
mild, 0.75 strong, 1 very strong; `categories` are those that the person or the picture undergoes.
A prompt is held out when the first byte of its SHA-256 is odd. `pytest -s` prints the figures.
"""

import hashlib
import json
import statistics
import sys
from pathlib import Path

import pytest
from flexid.model_patches.gates.intent.dictionary import CATEGORIES
from flexid.model_patches.gates.intent.intent import as_binary, read_intent

pytestmark = pytest.mark.pure

DATA = Path(__file__).resolve().parents[3] / "data"
FLOOR = 0.85


def load(language: str) -> list[dict]:
    return json.loads((DATA / f"intent_{language}.json").read_text(encoding="utf-8"))


def held_out(prompts: list[dict]) -> list[dict]:
    return [p for p in prompts if hashlib.sha256(p["text"].encode()).digest()[0] % 2]


def f1(pairs: list[tuple[bool, bool]]) -> float:
    """pairs: (labelled, found)"""
    both = sum(labelled and found for labelled, found in pairs)
    return 2 * both / sum(labelled + found for labelled, found in pairs)


def ranks(values: list[float]) -> list[float]:
    """Equal values share the mean of their ranks."""
    ordered = sorted(values)
    first = {v: ordered.index(v) for v in set(values)}
    return [first[v] + (ordered.count(v) - 1) / 2 for v in values]


def spearman(one: list[float], other: list[float]) -> float:
    return statistics.correlation(ranks(one), ranks(other))


def figures(prompts: list[dict]) -> dict[str, float]:
    """Binary accuracy, F1 per category and over all of them, graded rank correlation."""
    read = [read_intent(p["text"]) for p in prompts]
    pairs = {
        category: [
            (category in p["categories"], as_binary(intent.categories[category]) == 1)
            for p, intent in zip(prompts, read, strict=True)
        ]
        for category in CATEGORIES
    }
    right = [(p["intent"] > 0) == bool(i.binary) for p, i in zip(prompts, read, strict=True)]
    return {
        "accuracy": statistics.mean(right),
        **{f"F1 {category}": f1(found) for category, found in pairs.items()},
        "F1 all": f1([pair for found in pairs.values() for pair in found]),
        "rank correlation": spearman([p["intent"] for p in prompts], [i.score for i in read]),
    }


@pytest.mark.parametrize(("language", "least"), [("en", 150), ("zh", 60)])
def test_the_set_is_large_and_varied(language, least):
    prompts = load(language)
    assert len(prompts) >= least
    assert len({p["text"] for p in prompts}) == len(prompts)
    assert all((p["intent"] > 0) == bool(p["categories"]) for p in prompts)
    assert {p["intent"] for p in prompts} == {0.0, 0.25, 0.5, 0.75, 1.0}
    held = held_out(prompts)
    assert 0.4 < len(held) / len(prompts) < 0.6
    for half in (held, [p for p in prompts if p not in held]):
        assert {c for p in half for c in p["categories"]} == set(CATEGORIES)


@pytest.mark.parametrize("language", ["en", "zh"])
def test_held_out_figures(language):
    prompts = held_out(load(language))
    found = figures(prompts)
    shown = ", ".join(f"{name} {value:.3f}" for name, value in found.items())
    sys.stdout.write(f"\n{language}, {len(prompts)} held-out prompts: {shown}\n")
    assert {name: value for name, value in found.items() if value < FLOOR} == {}


def test_the_measures_can_fail():
    assert f1([(True, False), (True, True), (False, True)]) == 0.5
    assert ranks([0.5, 0.1, 0.5]) == [1.5, 0, 1.5]
    assert spearman([0, 1, 2], [5, 3, 1]) == -1
    blind = [{**p, "text": "a woman in a coat"} for p in held_out(load("en"))]
    assert figures([*blind, {"text": "laugh", "intent": 1, "categories": []}])["F1 all"] < 0.1
