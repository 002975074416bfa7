"""Cleaning keeps positions; emphasis is what ComfyUI reads."""

import pytest
from flexid.model_patches.gates.intent.text import clean_text

pytestmark = pytest.mark.pure


def emphasis_of(prompt: str, word: str) -> float:
    clean = clean_text(prompt, {})
    return clean.emphasis(clean.text.index(word))


@pytest.mark.parametrize(
    ("prompt", "weight"),
    [
        ("a smile here", 1.0),
        ("a (smile) here", 1.1),
        ("a ((smile)) here", 1.21),
        ("a (smile:1.3) here", 1.3),
        ("a (big smile : .5) here", 0.5),
        ("a ((smile:1.3)) here", 1.3),
        ("a ((smile) here:1.2)", 1.32),
        ("a [smile] here", 1 / 1.1),
        ("a [[smile]] here", 1 / 1.21),
        ("a [smile:frown:0.5] here", 1.0),
        ("(other) smile", 1.0),
        (r"a \(smile\) here", 1.0),
        ("a (smile here", 1.0),
        ("a smile) here", 1.0),
        ("(a (b:0.5) smile:1.4)", 1.4),
    ],
)
def test_emphasis(prompt, weight):
    assert emphasis_of(prompt, "smile") == pytest.approx(weight)


@pytest.mark.parametrize(
    "prompt",
    [
        "A Smile, <lora:smile:0.8> embedding:laugh.pt (x:1.2) BREAK y",
        "１ｇｉｒｌ，ＳＭＩＬＥ　微笑。（大笑）",
        "İstanbul ẞ ﬁn — “quoted” ’s",
        "[a:b:0.3] \\(c\\) <no tag> <lora:unclosed",
        "",
    ],
)
def test_length_never_changes(prompt):
    assert len(clean_text(prompt, {}).text) == len(prompt)


def test_weights_tags_and_embeddings_are_blank():
    text = clean_text("a (smile:1.3), <lora:laugh:1>, embedding:cry_v2, (Embedding:run:0.8)", {})
    assert text.text.split() == ["a", "smile", ",", ",", ",", "run"] or "laugh" not in text.text
    assert "cry" not in text.text and "1.3" not in text.text and "laugh" not in text.text


def test_break_ends_a_sentence_but_a_break_does_not():
    assert clean_text("man BREAK dance", {}).text == "man ..... dance"
    assert clean_text("break dance", {}).text == "break dance"


def test_wide_signs_and_characters_become_plain():
    assert clean_text("ＡＢ，Ｃ　looking_back", {}).text == "ab,c looking back"
    assert clean_text("回頭", {ord("頭"): "头"}).text == "回头"
