"""What the parser reads: every rule in both languages, graded and by category."""

import pytest
from flexid.model_patches.gates.intent.intent import Intent, as_binary, read_intent

pytestmark = pytest.mark.pure


def scores(prompt: str) -> dict[str, float]:
    return {c: round(s, 3) for c, s in read_intent(prompt).categories.items() if s}


def terms(prompt: str) -> list[str]:
    return [match.term for match in read_intent(prompt).matches if match.score]


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a woman in a red coat", {}),
        ("", {}),
        ("?!", {}),
        ("a woman smiling", {"expression": 0.5}),
        ("a man laughing", {"expression": 0.9}),
        ("a man sitting", {"pose": 0.4}),
        ("a man looking back", {"pose": 0.8}),
        ("watercolor of a man", {"style": 0.7}),
        ("a man, fisheye", {"camera": 0.7}),
        ("a woman smiling, oil painting", {"expression": 0.5, "style": 0.7}),
        ("穿红色大衣的女人", {}),
        ("微笑的女人", {"expression": 0.5}),
        ("大笑的男人", {"expression": 0.9}),
        ("女人坐着", {"pose": 0.4}),
        ("女人回头", {"pose": 0.8}),
        ("水彩画，男人", {"style": 0.7}),
        ("鱼眼镜头，男人", {"camera": 0.7}),
    ],
)
def test_categories_and_strength(prompt, expected):
    assert scores(prompt) == expected


def test_the_whole_is_the_union_of_categories():
    intent = read_intent("a woman smiling, oil painting")
    assert intent.score == pytest.approx(1 - 0.5 * 0.3)
    assert intent.binary == 1.0
    assert Intent().score == Intent().binary == 0.0
    assert [as_binary(s) for s in (0.0, 0.19, 0.2, 1.0)] == [0, 0, 1, 1]


@pytest.mark.parametrize(
    "word", ["smile", "smiles", "smiled", "smiling", "SMILING", "Ｓｍｉｌｉｎｇ"]
)
def test_inflections_case_and_width(word):
    assert scores(f"a woman, {word}!") == {"expression": 0.5}


@pytest.mark.parametrize("word", ["wept", "ran", "grinning", "cried", "sat", "threw", "knelt"])
def test_irregular_forms(word):
    assert terms(f"the man {word} there")


@pytest.mark.parametrize(
    "prompt",
    [
        "a woman not smiling",
        "a woman without a smile",
        "a woman who isn't smiling",
        "a woman who doesn’t smile",
        "no smile, a woman",
        "she never laughs",
        "neither laughing nor crying",
        "instead of smiling she waits",
        "a smile-free portrait",
        "a man who refuses to dance",
        "not an oil painting",
        "女人不笑",
        "没有微笑的女人",
        "她并未大笑",
        "不要动漫风格",
        "沒有微笑的女人",
    ],
)
def test_negation(prompt):
    assert read_intent(prompt).score == 0.0
    assert read_intent(prompt).matches, "the negated term is still reported"


@pytest.mark.parametrize(
    ("prompt", "term"),
    [
        ("not tall, smiling woman", "smile"),
        ("not smiling but laughing", "laugh"),
        ("not only smiling", "smile"),
        ("she can't stop laughing", "laugh"),
        ("a man without glasses smiling", "smile"),
        ("no one of the five old friends is here. She smiles", "smile"),
        ("他不仅微笑", "微笑"),
        ("忍不住大笑", "大笑"),
        ("非常开心的女人", "开心"),
        ("特别夸张的笑容", "笑容"),
        ("没有帽子，微笑", "微笑"),
        ("不远处的女人微笑", "微笑"),
    ],
)
def test_what_is_no_negation(prompt, term):
    assert terms(prompt) == [term]


@pytest.mark.parametrize(
    ("prompt", "score"),
    [
        ("a (smile:1.3) of a woman", 0.65),
        ("a ((smile)) of a woman", 0.605),
        ("a [smile] of a woman", 0.5 / 1.1),
        ("a (smile:0) of a woman", 0.0),
        ("a (smile:-1) of a woman", 0.0),
        ("a (smile:9) of a woman", 1.0),
        (r"a \(smile\) of a woman", 0.5),
        ("(微笑:1.2)的女人", 0.6),
    ],
)
def test_emphasis_scales(prompt, score):
    assert read_intent(prompt).score == pytest.approx(score)


@pytest.mark.parametrize(
    "prompt",
    ["<lora:laughing:1> a man", "embedding:smile_v2 a man", "(embedding:cry:1.2), a man"],
)
def test_tags_and_embeddings_are_no_words(prompt):
    assert read_intent(prompt).matches == ()


@pytest.mark.parametrize(
    "prompt",
    [
        "the turning point of a battle",
        "a boy who cried wolf, crying wolf again",
        "a run-down house and a man",
        "a woman with a smiley face sticker",
        "a man in running shoes",
        "a woman in the dance studio",
        "a man under light from above",
        "a woman in a joyful atmosphere",
        "红色跑车和男人",
        "飞行员的肖像",
        "一位骑士",
        "女人在舞台上",
        "讲笑话的男人",
    ],
)
def test_compounds(prompt):
    assert read_intent(prompt).score == 0.0


def test_hyphens_matter_only_where_the_dictionary_writes_one():
    assert read_intent("a low-angle photo").score == read_intent("a low angle photo").score == 0.5
    assert read_intent("a man runs down the hill").score == pytest.approx(0.8)


@pytest.mark.parametrize(
    ("full", "not_full"),
    [
        ("a man running", "a dog running behind a man"),
        ("a woman dancing", "a woman, flames dancing in the fire"),
        ("a man flying", "a man, birds flying over him"),
        ("a woman laughing", "a woman, a laughing crowd"),
        ("a woman laughing", "a woman. In front of her stands a laughing statue"),
        ("a man running", "a man while others are running in the background"),
        ("a boy jumping", "a lake with a jumping fish, a boy"),
        ("a woman flying", "a woman with her hair flying"),
        ("男人奔跑", "男人身后有一只狗在奔跑"),
        ("女孩跳舞", "女孩，跳舞的火焰"),
    ],
)
def test_subject_gate(full, not_full):
    assert read_intent(full).score >= 0.7
    assert 0.0 < read_intent(not_full).score < 0.2


@pytest.mark.parametrize(
    "prompt",
    [
        "running",
        "1boy, running, city",
        "a woman in a blue dress dancing",
        "a woman on a bridge over the river, quickly running home",
        "a man with a dog, running",
        "a running man",
        "a girl with curly black hair jumping off a wall",
        "a woman in the snow running",
    ],
)
def test_the_person_keeps_what_is_hers(prompt):
    assert read_intent(prompt).categories["pose"] == pytest.approx(0.8)


def test_a_clause_without_a_person_counts_half():
    assert scores("a woman in a coat, the old machine is running") == {"pose": 0.4}


@pytest.mark.parametrize(
    ("prompt", "score"),
    [
        ("a woman with a slight smile", 0.25),
        ("a woman smiling slightly", 0.25),
        ("a woman with a hint of a smile", 0.25),
        ("a woman with a big smile", 0.65),
        ("a man laughing hysterically", 1.0),
        ("slight smile, a man laughing", 0.9),
        ("微微一笑的女人", 0.25),
    ],
)
def test_modifiers_belong_to_the_nearest_term(prompt, score):
    assert read_intent(prompt).score == pytest.approx(score)


@pytest.mark.parametrize(
    "prompt", ["neutral expression", "an expressionless man", "面无表情的男人"]
)
def test_neutral_expressions_are_no_edit_but_reported(prompt):
    intent = read_intent(prompt)
    assert intent.score == 0.0 and len(intent.matches) == 1


@pytest.mark.parametrize("prompt", ["cartoon on the wall, a man", "a man holding a watercolor"])
def test_a_style_of_an_object_is_none_of_the_picture(prompt):
    assert read_intent(prompt).score == 0.0


def test_languages_mix():
    assert scores("a girl in Tokyo, 大笑, oil painting") == {"expression": 0.9, "style": 0.7}


def test_traditional_characters():
    assert scores("女人回頭") == {"pose": 0.8}


def test_matches_point_into_the_prompt():
    prompt = "Portrait — a (SMILING:1.2) woman，Ｏｉｌ painting <lora:x:1>, looking  back"
    found = read_intent(prompt).matches
    assert [(m.text, m.category) for m in found] == [
        ("SMILING", "expression"),
        ("Ｏｉｌ painting", "style"),
        ("looking  back", "pose"),
    ]
    assert all(prompt[m.start : m.end] == m.text for m in found)
    assert "emphasis ×1.2" in found[0].reasons[0]


LONG = (
    "The photo shows a market hall in the morning with crates of fruit, brass scales and white "
    "tiles. Old posters cover the columns and the roof is made of iron and glass. "
)


def test_long_prompts_do_not_saturate():
    short = read_intent("A woman smiles.")
    assert read_intent(LONG * 8).score == 0.0
    assert read_intent(LONG * 4 + "A woman smiles. " + LONG * 4).score == short.score
    assert read_intent("A woman smiles. She grins, happy and amused. " * 20).score == short.score


@pytest.mark.parametrize(
    "prompt", ["(((", ")))", "[a:b", "((smile:))", "smile:1.2)", "*", "\\", "-"]
)
def test_odd_text_is_read(prompt):
    assert 0.0 <= read_intent(prompt).score <= 1.0
