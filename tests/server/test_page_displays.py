"""What FlexID nodes show on themselves in the real page: it stays, it fits, it can be read."""

import json

import pytest
import templates
from browser_page import EMPTY, SECOND

pytestmark = pytest.mark.server

PAGES = pytest.mark.parametrize("vue", [False, True], ids=["classic", "Nodes 2.0"], scope="module")
"""By scope, so that pytest runs all tests in one kind of page before it goes to the other."""
GATE, SIP, DETECT, ENCODE = 14, 15, 6, 10
SHOWN = """() => Object.fromEntries(app.graph._nodes.filter(n => n.comfyClass?.startsWith('FlexID'))
    .map(n => [n.id, n.widgets?.filter(w => w.name.startsWith('flexid_'))
        .map(w => w.element.innerText).join('\\n') ?? '']).filter(([, text]) => text))"""
PICTURES = """() => app.graph._nodes.filter(n => n.comfyClass?.startsWith('FlexID')
    && app.nodeOutputs[n.id]?.images?.length).map(n => Number(n.id))"""
UNDO = "() => app.extensionManager.command.execute('Comfy.Undo')"
CHANGE = """([id, name, value]) => {
    app.graph.getNodeById(id).widgets.find(w => w.name == name).value = value;
    app.extensionManager.workflow.activeWorkflow.changeTracker.checkState() }"""


@pytest.fixture(scope="module")
def graph():
    """The three nodes with the demo's models, quick to sample."""
    read = json.loads(templates.PAGES["flexid_nodes_demo"].read_text(encoding="utf-8"))
    for node in read["nodes"]:
        if node["type"] == "EmptySD3LatentImage":
            node["widgets_values"] = [64, 64, 1]
        if node["type"] == "KSampler":
            node["widgets_values"][2] = 1
    return read


def overlapping(page):
    """Pairs of nodes of which one lies on the other, as they are after a run."""
    return page.tab.evaluate(
        """() => { const box = n => [n.pos[0], n.pos[1] - 30, n.pos[0] + n.size[0],
            n.pos[1] + n.size[1]]; const all = app.graph._nodes.map(n => [n.title, box(n)]);
        return all.flatMap(([one, a], i) => all.slice(i + 1).filter(([, b]) => a[0] < b[2]
            && b[0] < a[2] && a[1] < b[3] && b[1] < a[3]).map(([other]) => [one, other])) }"""
    )


def stacked(page, number):
    """Names of what a node shows, from top to bottom."""
    return page.tab.evaluate(
        """id => app.graph.getNodeById(id).widgets.map(w => w.name)
            .filter(name => name.startsWith('flexid_') || name.startsWith('$$'))""",
        number,
    )


def run(open_page, graph, vue, point, fresh=False):
    """A page in which the graph has just run, and what its nodes show."""
    page = open_page(fresh=fresh, **{"Comfy.VueNodes.Enabled": vue})
    page.load(graph)
    page.tab.evaluate(CHANGE, [DETECT, "point_x", point])  # so that ComfyUI has not cached it
    page.run()
    page.tab.wait_for_timeout(2 * SECOND)
    first = page.tab.evaluate(SHOWN)
    assert {str(n) for n in (DETECT, ENCODE, GATE, SIP)} <= first.keys()
    assert set(page.tab.evaluate(PICTURES)) == {DETECT, ENCODE}
    return page, first


def reload(page):
    """Load the page again and wait for what the gate shows."""
    page.tab.wait_for_timeout(2 * SECOND)  # the page saves its draft with a delay
    page.tab.reload()
    page.tab.wait_for_function(
        """id => window.app?.graph?.getNodeById?.(id)?.widgets
            ?.some(w => w.name == 'flexid_report')""",
        arg=GATE,
        timeout=300 * SECOND,
    )
    page.tab.wait_for_timeout(2 * SECOND)


@PAGES
def test_what_nodes_show_survives_a_reload(open_page, graph, vue):
    page, first = run(open_page, graph, vue, 0.3 if vue else 0.7, fresh=True)
    reload(page)
    assert page.tab.evaluate(SHOWN) == first
    assert set(page.tab.evaluate(PICTURES)) == {DETECT, ENCODE}
    assert page.problems == []


@PAGES
def test_a_changed_graph_does_not_show_what_is_no_longer_true(open_page, graph, vue):
    page, _ = run(open_page, graph, vue, 0.2 if vue else 0.8, fresh=True)
    page.tab.evaluate(CHANGE, [DETECT, "point_x", 0.9])
    reload(page)
    shown = (
        f"window.app?.graph?.getNodeById?.({GATE})?.widgets?.some(w => w.name == 'flexid_report')"
    )
    page.tab.wait_for_function(shown, timeout=300 * SECOND)
    page.tab.wait_for_timeout(2 * SECOND)
    shown = page.tab.evaluate(SHOWN).keys()
    assert str(GATE) in shown, "it does not depend on the photo"
    assert not {str(DETECT), str(ENCODE), str(SIP)} & shown


@PAGES
def test_what_nodes_show_survives_undo_and_keeps_its_order(open_page, graph, vue):
    page, first = run(open_page, graph, vue, 0.4 if vue else 0.6)
    assert first[str(DETECT)].startswith("Photo 1 (128x128): 1 found, 1 chosen")
    assert "α 0.1 times the gate: 0." in first[str(SIP)]
    order = {number: stacked(page, number) for number in (DETECT, ENCODE, GATE)}
    assert order[GATE] == ["flexid_gate_curve", "flexid_report"]
    assert order[DETECT][0] == "flexid_report", "the text above the picture"
    if not vue:  # the other page draws some of core's own nodes taller than their graphs say
        assert overlapping(page) == []

    page.tab.evaluate(CHANGE, [GATE, "w_max", 1.25])
    page.tab.evaluate(UNDO)
    page.tab.wait_for_timeout(2 * SECOND)
    limit = "id => app.graph.getNodeById(id).widgets.find(w => w.name == 'w_max').value"
    assert page.tab.evaluate(limit, GATE) == 1.5
    assert page.tab.evaluate(SHOWN) == first
    assert set(page.tab.evaluate(PICTURES)) == {DETECT, ENCODE}

    page.run()
    page.tab.wait_for_timeout(2 * SECOND)
    assert {number: stacked(page, number) for number in order} == order
    assert page.tab.evaluate(SHOWN) == first
    assert page.problems == []


@PAGES
def test_a_bypassed_gate_leaves_a_sane_graph(open_page, graph, client, vue):
    page = open_page(**{"Comfy.VueNodes.Enabled": vue})
    page.load(graph)
    page.tab.evaluate("id => { app.graph.getNodeById(id).mode = 4 }", GATE)
    alpha = 0.1 if vue else 0.11  # not in ComfyUI's cache yet, so that the node runs
    page.tab.evaluate(CHANGE, [SIP, "alpha", alpha])
    prompt = page.prompt()
    assert str(GATE) not in prompt and "gate" not in prompt[str(SIP)]["inputs"]
    page.run()
    page.tab.wait_for_timeout(SECOND)
    assert f"α {alpha} constant" in page.tab.evaluate(SHOWN)[str(SIP)]
    assert page.problems == []


@PAGES
def test_a_saved_graph_has_no_room_for_what_is_not_shown(open_page, client, vue):
    page = open_page(**{"Comfy.VueNodes.Enabled": vue})
    page.load(EMPTY)
    page.add("FlexIDContextAwareGate")
    page.add("PreviewAny")
    page.tab.evaluate(
        """() => { const [gate, shown] = app.graph._nodes; shown.pos = [900, 300];
            gate.connect(3, shown, 0) }"""
    )
    page.tab.wait_for_timeout(SECOND)
    height = "() => app.graph.serialize().nodes.find(n => n.type.startsWith('FlexID')).size[1]"
    before, plain = page.tab.evaluate(height), page.tab.evaluate("app.graph._nodes[0].size[1]")
    page.run()
    page.tab.wait_for_timeout(2 * SECOND)
    assert page.tab.evaluate("app.graph._nodes[0].size[1]") > plain + 150, "the chart needs room"
    assert page.tab.evaluate(height) == pytest.approx(before, abs=2)


def test_an_empty_prompt_box_stays_small_in_nodes_2_0(open_page, graph):
    page = open_page(**{"Comfy.VueNodes.Enabled": True})
    page.load(graph)
    page.tab.evaluate("app.canvas.ds.scale = 0.5; app.canvas.ds.offset = [-900, 150]")
    page.tab.evaluate("app.canvas.setDirty(true, true)")
    box = page.tab.locator(f"[data-node-id='{GATE}'] textarea").first
    box.wait_for(state="visible", timeout=20 * SECOND)
    assert box.evaluate("e => e.offsetHeight") <= 150


@PAGES
@pytest.mark.parametrize("width", [320, 1100])
def test_every_letter_of_the_chart_lies_inside_of_it(open_page, vue, width, tmp_path):
    page = open_page(**{"Comfy.VueNodes.Enabled": vue})
    page.load(EMPTY)
    page.add("FlexIDContextAwareGate")
    page.add("PreviewAny")
    page.tab.evaluate(
        """width => { const [gate, shown] = app.graph._nodes; gate.pos = [60, 130];
            gate.setSize([width, gate.size[1]]); shown.pos = [1300, 130];
            gate.connect(3, shown, 0);
            gate.widgets.find(w => w.name == 'prompt').value = 'a man laughing, oil painting';
            app.canvas.ds.scale = 1; app.canvas.ds.offset = [100, 60] }""",
        width,
    )
    page.run()
    page.tab.wait_for_timeout(2 * SECOND)
    page.tab.screenshot(path=tmp_path / "chart.png")
    panel, letters = page.tab.evaluate(
        """() => {
            const panel = app.graph._nodes[0].widgets.find(w => w.name == 'flexid_gate_curve')
                .element; const box = r => [r.left, r.top, r.right, r.bottom];
            const walk = document.createTreeWalker(panel, NodeFilter.SHOW_TEXT); const found = [];
            while (walk.nextNode()) { const range = document.createRange();
                range.selectNodeContents(walk.currentNode);
                found.push([walk.currentNode.data, ...box(range.getBoundingClientRect())]) }
            return [box(panel.getBoundingClientRect()), found] }"""
    )
    texts = [text for text, *_ in letters]
    assert {"noise", "× base weight", "picture", "×0", "×1"} <= set(texts)
    for text, left, top, right, bottom in letters:
        assert panel[0] <= left and right <= panel[2] + 1, text
        assert panel[1] <= top and bottom <= panel[3] + 1, text
    courses = [text for text in texts if text.startswith(("semantic ", "visual "))]
    report = page.tab.evaluate(
        "app.graph._nodes[0].widgets.find(w => w.name == 'flexid_report').element.textContent"
    )
    for course in courses:
        assert course.split(" ", 1)[1] in report, "the chart's figures are the report's"
    assert len(courses) == 2


@pytest.mark.parametrize("words", ["instantid", "ipadapter", "faceid", "pulid"])
def test_search_for_other_methods_finds_apply_vfa_first(page, words):
    page.load(EMPTY)
    page.search(words)
    found = page.tab.get_by_role("option").first
    found.get_by_text("Visual Feature Anchor").wait_for(timeout=20 * SECOND)
    page.tab.keyboard.press("Escape")
