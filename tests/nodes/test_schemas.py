"""What saved workflows and readers rely on: ids, orders and defaults, texts, help pages."""

import inspect
import re

import pytest
import schemas
from pack import ROOT
from schemas import FILE_COMBOS, LOCALES, SNAPSHOT, english_texts, nodes, read, schema_of, snapshot

pytestmark = pytest.mark.comfy

NODES = nodes()
VERBS = set(
    "Align Apply Balance Choose Combine Compare Compute Convert Detect Edit Encode Fetch Load "
    "Make Merge Sample Save Search Sweep".split()
) | {"Who"}
DOCS = ROOT / "web" / "docs"
CHINESE = re.compile(r"[\u4e00-\u9fff]")
NOT_TRANSLATED = {"t5", "clip_l", "CLIP"}
_REQUIRED = inspect.Parameter.empty
each_node = pytest.mark.parametrize("node", NODES, ids=lambda node: node.__name__)


@pytest.fixture(scope="module")
def recorded():
    return read(SNAPSHOT)


def test_no_node_appeared_or_went_unrecorded(recorded):
    assert [node.define_schema().node_id for node in NODES] == list(recorded)


@each_node
def test_saved_workflows_still_open(node, recorded):
    """An intended addition: run tests/schemas.py. A change or removal breaks users' graphs."""
    assert schemas.contract(node) == recorded[node.__name__]


def test_the_snapshot_notices_a_rename(recorded):
    """The guard itself: the snapshot must hold what a rename, a move or a new default changes."""
    assert snapshot() == recorded
    apply = recorded["FlexIDApplyVFA"]
    ids = [one["id"] for one in apply["inputs"]]
    assert ids[:4] == ["model", "adapter", "identity", "weight"]
    assert apply["inputs"][3]["default"] == 1.0 and apply["inputs"][3]["type"] == "FLOAT"
    assert apply["outputs"] == [{"id": "model_out", "type": "MODEL"}]


@each_node
def test_ids_and_names(node):
    schema = schema_of(node)
    assert schema.node_id == node.__name__ and schema.node_id.startswith("FlexID")
    assert schema.display_name.split()[0] in VERBS
    assert schema.display_name.count("FlexID") <= 1
    assert re.fullmatch(r"FlexID/[a-z]+", schema.category)
    assert schema.description and schema.search_aliases
    ids = [one.id for one in schema.inputs] + [out.id for out in schema.outputs if out.id]
    assert len(ids) == len(set(ids)), "ComfyUI wants ids unique within a node"


def test_node_ids_are_unique():
    ids = [node.define_schema().node_id for node in NODES]
    assert len(ids) == len(set(ids))


@each_node
def test_every_input_has_a_tooltip_and_numbers_say_what_0_means(node):
    for one in schema_of(node).inputs:
        assert one.tooltip, one.id
        if one.get_io_type() in ("FLOAT", "INT"):
            assert re.search(r"(?<![.\d])0(?![.\d]*\d)", one.tooltip), one.tooltip


@each_node
def test_schema_ids_are_execute_arguments(node):
    inputs = schema_of(node).inputs
    signature = inspect.signature(node.execute)
    named, rest = _name_arguments(signature)
    order = _order(inputs)
    assert named == order[: len(named)]
    assert rest or named == order
    for one in inputs:
        has_default = one.id in named and signature.parameters[one.id].default is not _REQUIRED
        assert has_default == bool(one.optional), one.id
    if "fingerprint_inputs" in vars(node):
        assert set(_name_arguments(inspect.signature(node.fingerprint_inputs))[0]) <= set(order)


def _name_arguments(signature):
    """Arguments by name, and whether there is a **rest."""
    kinds = {name: one.kind for name, one in signature.parameters.items()}
    named = [name for name, kind in kinds.items() if kind is not inspect.Parameter.VAR_KEYWORD]
    return named, len(named) < len(kinds)


def _order(inputs):
    """Python wants arguments with defaults last; schemas list optional sockets last, too."""
    return [one.id for one in sorted(inputs, key=lambda one: bool(one.optional))]


# Texts


def test_english_locale_is_the_schema():
    """Otherwise: run tests/schemas.py, and translate what changed in locales/zh."""
    assert read(LOCALES / "en" / "nodeDefs.json") == english_texts()


@each_node
def test_chinese_covers_every_text(node):
    english = english_texts()[node.__name__]
    chinese = read(LOCALES / "zh" / "nodeDefs.json")[node.__name__]
    assert _shape(chinese) == _shape(english)
    for text in _leaves(chinese):
        assert CHINESE.search(text) or text in NOT_TRANSLATED, text


@each_node
def test_chinese_names_the_same_options_and_files(node):
    """Options and file names are not translated; a new one must be explained in both languages."""
    english = english_texts()[node.__name__]["inputs"]
    chinese = read(LOCALES / "zh" / "nodeDefs.json")[node.__name__]["inputs"]
    for one in schema_of(node).inputs:
        words = set(re.findall(r"[\w-]+\.(?:pth?|safetensors)|models/[\w/]+", one.tooltip))
        if one.id not in FILE_COMBOS:
            options = one.as_dict().get("options", [])
            words |= {word for word in options if f"{word}:" in english[one.id]["tooltip"]}
        for word in words:
            assert word in chinese[one.id]["tooltip"], (one.id, word)


def _shape(texts):
    return {key: _shape(value) for key, value in texts.items()} if isinstance(texts, dict) else None


def _leaves(texts):
    if isinstance(texts, str):
        return [texts]
    return [text for value in texts.values() for text in _leaves(value)]


@pytest.mark.parametrize("path", sorted(LOCALES.glob("*/*.json")), ids=lambda p: p.parent.name)
def test_texts_hold_nothing_that_the_page_would_interpret(path):
    """The page's translation library reads { } | and @ as its own language."""
    for text in _leaves(read(path)):
        assert not set("{}|@") & set(text), text


def test_categories_are_translated():
    """Each part of a category by itself; "loaders" is a word that ComfyUI translates itself."""
    parts = {node.define_schema().category.split("/")[1] for node in NODES} - {"loaders"}
    for language in ("en", "zh"):
        words = read(LOCALES / language / "main.json")["nodeCategories"]
        assert words.keys() == parts


# Help pages


@each_node
@pytest.mark.parametrize("language", ["en", "zh"])
def test_help_page_explains_every_input(node, language):
    page = _page(node, language).read_text(encoding="utf-8")
    for one in schema_of(node).inputs:
        assert f"`{one.id}`" in page, one.id
    title = read(LOCALES / language / "nodeDefs.json")[node.__name__]["display_name"]
    assert page.splitlines()[0] == f"# {title}"
    headings = [line for line in page.splitlines() if line.startswith("## ")]
    assert [heading for heading in HEADINGS[language] if heading not in headings] == []


@each_node
def test_help_pages_have_the_same_parts(node):
    english, chinese = (_page(node, language).read_text("utf-8") for language in ("en", "zh"))
    for mark in ("\n## ", "\n|", "\n- ", "](http"):
        assert english.count(mark) == chinese.count(mark), mark


HEADINGS = {
    "en": ["## Inputs", "## Outputs", "## When it fails"],
    "zh": ["## 输入", "## 输出", "## 出错时"],
}


def _page(node, language):
    """Where the page looks: <node>/<language>.md, and <node>.md for all other languages."""
    english = DOCS / f"{node.__name__}.md"
    return english if language == "en" else DOCS / node.__name__ / f"{language}.md"


def test_no_help_page_of_a_node_that_is_gone():
    names = {path.relative_to(DOCS).parts[0].removesuffix(".md") for path in DOCS.rglob("*.md")}
    assert names == {node.__name__ for node in NODES}
