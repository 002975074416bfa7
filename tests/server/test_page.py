"""The real page in a headless browser: graphs open, convert, run; texts, help and search appear."""

import json
from urllib.parse import quote

import numpy as np
import pytest
import real_names
from browser_page import EMPTY, SECOND
from pack import ROOT
from PIL import Image
from server_results import forget
from templates import APIS, PAGES, TITLES

pytestmark = pytest.mark.server


@pytest.fixture(scope="module", autouse=True)
def models_in_place(server, models):
    real_names.place(models, server.base / "models")


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def colours(path):
    """How many colours a picture has, coarsely: an empty canvas has few."""
    pixels = np.asarray(Image.open(path).convert("RGB")) // 16
    return len(np.unique(pixels.reshape(-1, 3), axis=0))


@pytest.mark.parametrize("name", PAGES)
def test_a_workflow_opens_without_red_nodes_and_is_its_api_twin(name, page, tmp_path):
    page.load(read(PAGES[name]), name)
    assert page.errors() == ""
    wrong = page.tab.evaluate(
        """() => app.graph._nodes.filter(node => node.has_errors
            || !(node.type in LiteGraph.registered_node_types)).map(node => node.type)"""
    )
    assert wrong == []
    prompt, twin = page.prompt(), read(APIS[name])
    assert prompt.keys() == twin.keys()
    for number, node in twin.items():
        assert prompt[number]["class_type"] == node["class_type"]
        assert prompt[number]["inputs"] == node["inputs"], node["_meta"]["title"]
    assert page.cut() == [], "widgets stick out of these nodes"
    page.show_all()
    assert page.crossed() == []
    page.tab.screenshot(path=tmp_path / f"{name}.png")
    assert colours(tmp_path / f"{name}.png") > 200
    assert page.problems == []


def test_the_missing_model_dialog_offers_the_published_files(open_page):
    page = open_page(fresh=True)
    graph = read(PAGES["vfa"])
    node = next(node for node in graph["nodes"] if node["type"] == "FlexIDLoadIdentityAdapter")
    model = node["properties"]["models"][0]
    model["name"] = node["widgets_values"][0] = "pulid_flux_not_here.safetensors"
    page.load(graph)
    said = page.errors()
    assert "Missing Models" in said and "pulid_flux_not_here.safetensors" in said
    assert "\npulid\n" in said
    assert said.splitlines().count("Download") == 1, "the others are there"


def test_the_demo_runs_by_the_button_and_shows_what_it_did(page, client, tmp_path):
    forget(client)  # a node whose result is cached shows nothing
    graph = read(PAGES["demo"])
    for node in graph["nodes"]:
        if node["type"] == "EmptySD3LatentImage":
            node["widgets_values"] = [128, 128, 1]
        if node["type"] == "KSampler":
            node["widgets_values"][2] = 3
    page.load(graph, "demo")
    page.show_all()  # the page fetches the pictures of nodes that it draws
    page.run()
    expected = {"Photo", "Detect Faces", "Encode Identity", "Save with the person", "Save without"}
    page.tab.wait_for_function(  # every picture loads on its own, in any order
        "titles => titles.every(t => app.graph._nodes.find(n => n.title == t)?.imgs?.length)",
        arg=sorted(expected),
        timeout=60 * SECOND,
    )
    shown = page.tab.evaluate(
        "() => app.graph._nodes.filter(n => n.imgs?.length).map(n => n.title)"
    )
    assert set(shown) == expected
    report = page.tab.evaluate(
        """() => app.graph._nodes.find(n => n.type == 'FlexIDDetectFaces').widgets
            .map(w => w.element?.textContent ?? '').join('')"""
    )
    assert "Photo 1 (128x128): 1 found, 1 chosen" in report
    assert page.prompt().keys() == read(APIS["demo"]).keys(), "the report is not an input"
    page.tab.screenshot(path=tmp_path / "ran.png")
    assert colours(tmp_path / "ran.png") > 200
    assert page.problems == []


def test_every_node_can_be_added_and_sends_what_its_schema_says(page, client):
    known = {k: v for k, v in client.object_info().items() if k.startswith("FlexID")}
    page.load(EMPTY)
    for kind in known:
        page.tab.evaluate("k => app.graph.add(LiteGraph.createNode(k))", kind)
    sent = {node["class_type"]: node["inputs"].keys() for node in page.prompt().values()}
    assert sent.keys() == known.keys()
    for kind, info in known.items():
        inputs = {**info["input"]["required"], **info["input"].get("optional", {})}
        assert sent[kind] <= inputs.keys(), kind
        widgets = {name for name, spec in inputs.items() if _is_widget(spec)}
        assert sent[kind] == widgets, kind
    assert page.problems == []


def _is_widget(spec):
    kind = "COMBO" if isinstance(spec[0], list) else spec[0]
    socket = len(spec) > 1 and spec[1].get("forceInput", False)
    return kind in ("COMBO", "INT", "FLOAT", "STRING", "BOOLEAN") and not socket


def test_search_finds_a_node_by_name_and_by_alias(page):
    for words in ("Apply VFA", "pulid"):
        page.load(EMPTY)
        page.search(words)
        page.tab.get_by_text("Visual Feature Anchor").first.wait_for(timeout=60 * SECOND)
        page.tab.keyboard.press("Escape")


def test_templates_list_our_workflows_with_thumbnails(page, client):
    listed = client.get("/workflow_templates")["flexid"]
    assert set(TITLES.values()) <= set(listed)
    for path in PAGES.values():
        assert client.read(f"/api/workflow_templates/flexid/{quote(path.stem)}.jpg") == (
            path.with_suffix(".jpg").read_bytes()
        )
    page.load(EMPTY)
    page.tab.evaluate("app.extensionManager.command.execute('Comfy.BrowseTemplates')")
    page.tab.get_by_text("flexid", exact=True).first.click(timeout=120 * SECOND)
    page.tab.get_by_text(TITLES["vfa"], exact=True).first.click(timeout=120 * SECOND)
    count = len(read(PAGES["vfa"])["nodes"])
    page.tab.wait_for_function(f"app.graph._nodes.length == {count}", timeout=30 * SECOND)


@pytest.mark.parametrize(
    ("language", "tab", "heading", "text"),
    [
        ("en", "Info", "When it fails", "Visual Feature Anchor"),
        ("zh", "信息", "出错时", "视觉特征锚"),
        ("fr", "Infos", "When it fails", "Visual Feature Anchor"),
    ],
)
def test_the_help_page_opens_in_the_page(open_page, language, tab, heading, text):
    """Languages without a page of their own get the English one."""
    page = open_page(language, fresh=True, **{"Comfy.RightSidePanel.IsOpen": True})
    page.load(EMPTY)
    page.add("FlexIDApplyVFA")
    page.tab.get_by_role("tab", name=tab).click(timeout=30 * SECOND)
    page.tab.get_by_role("heading", name=heading).wait_for(timeout=60 * SECOND)
    assert text in page.tab.inner_text("body")


def test_chinese_page_shows_chinese_names(open_page, client):
    page = open_page("zh")
    schemas = client.object_info()
    page.load(EMPTY)
    texts = read(ROOT / "locales" / "zh" / "nodeDefs.json")
    for kind, expected in texts.items():
        page.tab.evaluate("k => app.graph.add(LiteGraph.createNode(k))", kind)
        title, inputs, outputs = page.tab.evaluate(
            """() => { const n = app.graph._nodes.at(-1); const name = s => s.label
                || s.localized_name; return [n.title, n.inputs.map(s => [s.name, name(s)]),
                n.outputs.map(name)] }"""
        )
        assert title == expected["display_name"]
        assert outputs == [out["name"] for out in expected["outputs"].values()]
        for name, label in inputs:
            # Growing sockets are named by the page, renamed ones by the schema in any language.
            if "." not in name and not renamed(schemas[kind], name):
                assert label == expected["inputs"][name]["name"], (kind, name)
    category = page.tab.evaluate("LiteGraph.registered_node_types.FlexIDApplyVFA.category")
    assert category == "FlexID/注入"
    page.load(read(PAGES["vfa"]))
    assert page.prompt()["10"]["inputs"] == read(APIS["vfa"])["10"]["inputs"]


def test_chinese_page_draws_the_chart_in_chinese(open_page):
    page = open_page("zh")
    page.load(EMPTY)
    page.tab.evaluate(GATE, "a person laughing out loud")
    page.run("运行")
    curve = page.tab.locator("svg[aria-label='采样过程中的门控权重']").first
    curve.wait_for(state="visible", timeout=30 * SECOND)
    said = page.tab.inner_text("body")
    for words in ("噪声", "× 基础权重", "语义", "意图", "(表情 "):
        assert words in said, words
    assert page.problems == []


@pytest.mark.parametrize("vue", [False, True], ids=["classic", "Nodes 2.0"])
def test_chinese_page_shows_chinese_values_and_sends_english_ones(open_page, vue):
    page = open_page("zh", **{"Comfy.VueNodes.Enabled": vue})
    page.load(EMPTY)
    page.add("FlexIDDetectFaces")
    label, value = page.tab.evaluate(
        """() => { const widget = app.graph._nodes[0].widgets.find(w => w.name == 'order');
            return [widget.options.getOptionLabel(widget.value), widget.value] }"""
    )
    assert (label, value) == ("largest（最大）", "largest")
    if vue:
        page.tab.get_by_text(label).first.wait_for(timeout=30 * SECOND)
    [sent] = page.prompt().values()
    assert sent["inputs"]["order"] == "largest"
    assert page.problems == []


def renamed(schema, name):
    parts = {**schema["input"]["required"], **schema["input"].get("optional", {})}
    return "display_name" in parts[name][1]


def test_nodes_2_0_draws_every_node(open_page, tmp_path):
    page = open_page(**{"Comfy.VueNodes.Enabled": True})
    graph = read(PAGES["demo"])
    page.load(graph)
    page.tab.evaluate("app.canvas.ds.scale = 0.5; app.canvas.ds.offset = [150, 150]")
    page.tab.evaluate("app.canvas.setDirty(true, true)")
    page.tab.wait_for_timeout(2 * SECOND)
    assert page.prompt().keys() == read(APIS["demo"]).keys()
    drawn = page.tab.evaluate(
        "() => [...document.querySelectorAll('[data-node-id]')].map(e => Number(e.dataset.nodeId))"
    )
    assert {node["id"] for node in graph["nodes"]} <= set(drawn)
    page.tab.screenshot(path=tmp_path / "nodes2.png")
    assert page.problems == []


GATE = """words => { const add = kind => { const n = LiteGraph.createNode(kind); app.graph.add(n);
    return n }; const gate = add('FlexIDContextAwareGate'); const shown = add('PreviewAny');
    gate.pos = [50, 150]; shown.pos = [750, 150]; gate.connect(3, shown, 0);
    gate.widgets.find(w => w.name == 'prompt').value = words; return gate.id }"""


@pytest.mark.parametrize("vue", [False, True], ids=["classic", "Nodes 2.0"])
def test_the_gate_shows_its_curves_and_the_words_it_found(open_page, client, vue, tmp_path):
    page = open_page(**{"Comfy.VueNodes.Enabled": vue})
    page.load(EMPTY)
    number = page.tab.evaluate(GATE, "a woman laughing out loud, oil painting")
    page.run()
    page.tab.wait_for_timeout(2 * SECOND)
    page.tab.screenshot(path=tmp_path / "gate.png")  # widgets are placed when a frame is drawn
    curve = page.tab.locator("svg[aria-label='Gate weights over the run']").first
    curve.wait_for(state="visible", timeout=30 * SECOND)
    for stream in ("semantic", "visual"):
        points = curve.locator(f".flexid-{stream}").get_attribute("points").split()
        heights = {float(point.split(",")[1]) for point in points}
        assert len(points) == 51 and len(heights) > 10, "a curve, not a flat line"
    said = page.tab.evaluate(
        """id => app.graph.getNodeById(id).widgets.find(w => w.name == 'flexid_gate_curve')
            .element.innerText""",
        number,
    )
    assert "laughing" in said and "(expression " in said and "(style " in said
    entry = next(iter(client.get("/history?max_items=1").values()))
    summary = entry["outputs"][str(number)]["flexid_gate"][0]
    assert f"intent {summary['intent']:.2f}" in said
    assert page.prompt().keys() == {str(number), str(int(number) + 1)}
    assert page.problems == []
