import pytest
from flexid.model_patches.gates.intent.words import ANY, noun_forms, split, verb_forms

pytestmark = pytest.mark.pure


@pytest.mark.parametrize(
    ("word", "forms"),
    [
        ("smile", {"smile", "smiles", "smiled", "smiling"}),
        ("cry", {"cry", "cries", "cried", "crying"}),
        ("grin", {"grin", "grins", "grinned", "grinning"}),
        ("laugh", {"laugh", "laughs", "laughed", "laughing"}),
        ("kiss", {"kiss", "kisses", "kissed", "kissing"}),
        ("lie", {"lie", "lies", "lied", "lying"}),
        ("weep", {"weep", "weeps", "weeping", "wept"}),
    ],
)
def test_verbs(word, forms):
    assert forms <= verb_forms(word, {"weep": ["wept"]})


def test_nouns():
    assert {"dog", "dogs", "dog's"} <= noun_forms("dog", {})
    assert {"man", "men"} <= noun_forms("man", {"man": ["men"]})
    assert "doging" not in noun_forms("dog", {})


def test_short_words_and_characters_have_no_forms():
    assert verb_forms("笑", {}) == {"笑"}
    assert verb_forms("in", {}) == {"in"}


def test_phrases_split_into_words_and_characters():
    assert split("roll * eye") == ["roll", ANY, "eye"]
    assert split("bird's-eye view") == ["bird's", "eye", "view"]
    assert split("3D渲染") == ["3d", "渲", "染"]
