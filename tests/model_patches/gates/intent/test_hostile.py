"""Prompts and dictionaries that are made to be slow: reading takes linear time."""

import gc
import json
import time

import pytest
from flexid.model_patches.gates.intent.dictionary import (
    MAX_BYTES,
    MAX_HYPHENATED,
    MAX_OWNERS,
    load_dictionary,
    read_file,
)
from flexid.model_patches.gates.intent.intent import read_intent
from flexid.model_patches.gates.intent.phrases import MAX_PATTERNS, MAX_WILDCARDS, MAX_WORDS

pytestmark = pytest.mark.pure

SHORT, LONG = 10_000, 80_000
GROWTH = 24
"""LONG takes 8 times as long as SHORT in linear time, 64 times in quadratic."""
SECONDS = 1.5
"""For LONG: ten times what it takes."""


def repeat(unit: str, size: int) -> str:
    return unit * (size // len(unit.encode()))


def nested(opening: str, inside: str, closing: str, size: int) -> str:
    depth = size // len(opening + closing)
    return opening * depth + inside + closing * depth


PROMPTS = {
    "digits of a weight": lambda size: f"(smile:{'1' * size}x)",
    "nested parentheses": lambda size: nested("(", "smile", ")", size),
    "nested square brackets": lambda size: nested("[", "smile:x", "]", size),
    "nested weights": lambda size: nested("(a ", "smile", ":1.0)", size),
    "one term": lambda size: repeat("smile ", size),
    "one Chinese term": lambda size: repeat("微笑", size),
    "doubtful terms": lambda size: repeat("run ", size),
    "terms with objects": lambda size: "a man " + repeat("on a dog run ", size),
    "objects, then terms": lambda size: (
        "a man " + repeat("on a dog ", size // 2) + repeat("run ", size // 2)
    ),
    "terms of a person and of things": lambda size: repeat("hair dance smile ", size),
    "modifiers without a term": lambda size: repeat("very ", size) + "cat smile",
    "a term in each clause": lambda size: repeat("the smile, ", size),
}


def seconds(read, attempts: int) -> float:
    """The least of some attempts, without the garbage collector: it visits all that the whole
    test process holds.
    """
    found = []
    gc.disable()
    try:
        for _ in range(attempts):
            start = time.process_time()
            read()
            found.append(time.process_time() - start)
    finally:
        gc.enable()
    return min(found)


@pytest.mark.parametrize("case", PROMPTS)
def test_a_prompt_of_any_shape_takes_linear_time(case):
    short, long = PROMPTS[case](SHORT), PROMPTS[case](LONG)
    assert read_intent(short).matches
    once = seconds(lambda: read_intent(short), 3)
    much = seconds(lambda: read_intent(long), 2)
    assert much < SECONDS
    assert much < GROWTH * once + 0.05


def test_numbers_that_overflow_are_no_edit_of_a_neutral_face():
    assert read_intent(f"(neutral expression:{'9' * 400})").score == 0.0
    assert read_intent(nested("(", "neutral expression", ")", 20_000)).score == 0.0
    assert read_intent("neutral expression" + " very" * 6000).score == 0.0
    assert read_intent(f"(smile:{'9' * 400})").score == 1.0


@pytest.fixture
def write(tmp_path):
    def write(data):
        path = tmp_path / "mine.json"
        path.write_text(data if isinstance(data, str) else json.dumps(data), encoding="utf-8")
        return path

    return write


def poses(*phrases: str) -> dict:
    return {"terms": {"pose": dict.fromkeys(phrases, 1)}}


WILD = "a" + " * a" * MAX_WILDCARDS + " b"
DICTIONARIES = {
    "wildcards": (poses(WILD), "a "),
    "wildcards in a row": (poses("a " + "* " * MAX_WILDCARDS + "b"), "a "),
    "a long phrase": (poses("a " * (MAX_WORDS - 1) + "b"), "a "),
    "phrases that begin alike": (poses(*(f"a b c{i}" for i in range(10_000))), "a b "),
    "a word and many second ones": (poses(*(f"a c{i}" for i in range(10_000))), "a "),
    "second words and wildcards": (
        poses(*(f"a c{i}" for i in range(5_000)), *(f"a * d{i}" for i in range(5_000))),
        "a ",
    ),
    "a word of many forms": (
        {
            **poses(*(f"hop c{i}" for i in range(5_000))),
            "forms": {"hop": [f"s{i}" for i in range(10_000)]},
        },
        "s1 ",
    ),
}


@pytest.mark.parametrize("case", DICTIONARIES)
def test_an_allowed_dictionary_is_ready_soon_and_takes_linear_time(write, case):
    data, unit = DICTIONARIES[case]
    path, text = write(data), repeat(unit, 20_000) + "smile"
    start = time.process_time()
    dictionary = load_dictionary(path)
    assert len(read_intent(text, dictionary).matches) == 1
    assert time.process_time() - start < 5
    assert seconds(lambda: read_intent(text, dictionary), 2) < 0.8


@pytest.mark.parametrize(
    ("data", "facts"),
    [
        (poses("a" + " *" * 18 + " b"), ["terms.pose is 18", f"at most {MAX_WILDCARDS}"]),
        (poses("a " * 90), ["terms.pose is 90", f"at most {MAX_WORDS}"]),
        (poses("a" * 5000), ["terms.pose is 5000", "at most 200"]),
        (
            poses(*("a " * i + "* " + "b " * j + "* c" for i in range(1, 9) for j in range(1, 9))),
            ["to place * is 64", f"at most {MAX_PATTERNS}"],
        ),
        (
            {"blocked": [f"a-{i}" for i in range(1000)]},
            ["blocked is 1000", f"at most {MAX_HYPHENATED}"],
        ),
        (
            {"forms": {f"w{i}": ["x"] for i in range(99)}},
            ["form 'x' is 99", f"at most {MAX_OWNERS}"],
        ),
        ("[" * 100_000, ["cannot be read", "recursion"]),
        ('{"modifiers": {"a": ' + "1" * 5000 + "}}", ["4300", "5000"]),
        ('{"modifiers": {"a": 1' + "0" * 400 + "}}", ["modifiers.a is 1000", "0 to 10"]),
        (" " * (MAX_BYTES + 1), [f"has {MAX_BYTES + 1} bytes", f"at most {MAX_BYTES}"]),
    ],
    ids=range(10),
)
def test_a_hostile_dictionary_is_refused_at_once(write, data, facts):
    path = write(data)
    start = time.process_time()
    with pytest.raises(ValueError) as error:
        read_file(path)
    assert time.process_time() - start < 2
    for fact in ("mine.json", *facts):
        assert fact in str(error.value), str(error.value)


def test_what_reaches_the_bounds_is_read(write):
    dictionary = load_dictionary(write(poses(WILD)))
    assert read_intent("a" + " x a" * MAX_WILDCARDS + " b", dictionary).score == 1.0
    assert read_intent("a" + " a" * MAX_WILDCARDS + " b", dictionary).score == 1.0
    assert read_intent("a" + " x x a" * MAX_WILDCARDS + " b", dictionary).score == 0.0
