"""Dictionary files: what the built-in ones hold, what a user's adds, what is refused."""

import json

import pytest
from flexid.model_patches.gates.intent.dictionary import (
    BUILTIN,
    CATEGORIES,
    LISTS,
    builtin_dictionary,
    load_dictionary,
    read_file,
)
from flexid.model_patches.gates.intent.intent import read_intent

pytestmark = pytest.mark.pure


@pytest.fixture
def extended(tmp_path):
    def extend(data):
        path = tmp_path / "mine.json"
        path.write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
        return load_dictionary(path)

    return extend


def test_built_in_files_are_valid_and_fill_every_category():
    for path in BUILTIN:
        data = read_file(path)
        assert set(data["terms"]) == set(CATEGORIES)
        assert all(len(data["terms"][category]) >= 20 for category in CATEGORIES)
    assert all(builtin_dictionary().lists[name] for name in LISTS)


def test_no_phrase_is_written_twice():
    def check(pairs):
        names = [name for name, _ in pairs]
        assert len(names) == len(set(names)), {n for n in names if names.count(n) > 1}
        return dict(pairs)

    for path in BUILTIN:
        json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=check)


def test_a_file_adds_terms_of_both_languages(extended):
    mine = extended({"terms": {"pose": {"parkour": 0.6, "跑酷": 0.7}}})
    assert read_intent("a man doing parkour", mine).score == pytest.approx(0.6)
    assert read_intent("男人跑酷", mine).score == pytest.approx(0.7)
    assert read_intent("a man smiling", mine).score == pytest.approx(0.5)
    assert read_intent("a man doing parkour").score == 0.0


def test_a_file_changes_and_removes_terms(extended):
    mine = extended({"terms": {"expression": {"smile": 0.2}}})
    assert read_intent("a smile", mine).score == pytest.approx(0.2)
    mine = extended({"remove": ["Smile", "not"]})
    assert read_intent("a woman smiling", mine).score == 0.0
    assert read_intent("a woman not laughing", mine).score == pytest.approx(0.9)


def test_every_other_key_works(extended):
    prompt = "a gizmo jumping"
    assert read_intent(prompt, extended({"persons": ["gizmo"]})).score == pytest.approx(0.8)
    assert read_intent(prompt, extended({"animals": ["gizmo"]})).score == pytest.approx(0.16)
    assert read_intent(prompt, extended({"blocked": ["gizmo jumping"]})).score == 0.0
    assert read_intent(prompt, extended({"negations": ["gizmo"]})).score == 0.0
    assert read_intent("jumping gizmo", extended({"tails": ["gizmo"]})).score == 0.0
    mine = extended({"modifiers": {"gizmo": 0.4}})
    assert read_intent("gizmo smile", mine).score == pytest.approx(0.2)
    forms = extended({"forms": {"smile": ["smole"]}})
    assert read_intent("she smole", forms).score == 0.5
    same = extended({"characters": {"咲": "笑"}})
    assert read_intent("女人咲", same).score == 0.5


def test_exact_and_wildcard_phrases(extended):
    mine = extended({"terms": {"pose": {"=flop": 0.6, "grab * hat": 0.7}}})
    assert read_intent("a man, flop", mine).score == pytest.approx(0.6)
    assert read_intent("a man flopping", mine).score == 0.0
    for prompt in ("he grabs his hat", "he grabbed hat"):
        assert read_intent(prompt, mine).score == pytest.approx(0.7)
    assert read_intent("he grabs, hat on", mine).score == 0.0


def test_the_byte_order_mark_of_windows_is_fine(tmp_path):
    path = tmp_path / "bom.json"
    path.write_bytes(b"\xef\xbb\xbf{}")
    assert read_file(path) == {}


BAD = {
    "json": ("{", ["bad.json", "line 1", "column 2"]),
    "list": ("[]", ["bad.json", "the file is []", "a JSON object"]),
    "key": ('{"word": []}', ['the key is "word"', "terms, modifiers"]),
    "terms": ('{"terms": []}', ["terms is []", "{category: {phrase: score}}"]),
    "category": ('{"terms": {"mood": {}}}', ['"mood"', "expression, pose, style, camera"]),
    "score": ('{"terms": {"pose": {"a": 1.5}}}', ["terms.pose.a is 1.5", "0 to 1"]),
    "score text": ('{"terms": {"pose": {"a": "x"}}}', ['terms.pose.a is "x"', "a number"]),
    "score true": ('{"terms": {"pose": {"a": true}}}', ["terms.pose.a is true", "a number"]),
    "score nan": ('{"terms": {"pose": {"a": NaN}}}', ["terms.pose.a is NaN", "a number"]),
    "phrase": ('{"terms": {"pose": {" ": 1}}}', ['a phrase in terms.pose is " "', "words"]),
    "wildcard": ('{"blocked": ["* x"]}', ['a phrase in blocked is "* x"', "not *"]),
    "phrases": ('{"negations": "not"}', ['negations is "not"', "a list of phrases"]),
    "number": ('{"negations": [1]}', ["a phrase in negations is 1", "words"]),
    "modifier": ('{"modifiers": {"a": -1}}', ["modifiers.a is -1", "0 to 10"]),
    "forms": ('{"forms": {"a": "b"}}', ['forms.a is "b"', "a list"]),
    "forms kind": ('{"forms": []}', ["forms is []", "{word: [forms]}"]),
    "characters": ('{"characters": {"ab": "c"}}', ["characters.ab", "one character"]),
    "characters kind": ('{"characters": 3}', ["characters is 3", "an object"]),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_says_where_and_what_is_expected(tmp_path, case):
    text, facts = BAD[case]
    path = tmp_path / "bad.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError) as error:
        read_file(path)
    for fact in ("bad.json", *facts):
        assert fact in str(error.value), str(error.value)


def test_other_encodings_and_missing_files_are_named(tmp_path):
    path = tmp_path / "gbk.json"
    path.write_bytes('{"blocked": ["哭"]}'.encode("gbk"))
    with pytest.raises(ValueError, match="gbk.json is not UTF-8.*Save it again as UTF-8"):
        read_file(path)
    with pytest.raises(FileNotFoundError, match="none.json; put it into models/flexid"):
        read_file(tmp_path / "none.json")
