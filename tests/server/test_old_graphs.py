"""Graphs made for other packs, opened and replaced in the real page: both kinds, and the newest."""

import pytest
import real_names
from browser_page import SECOND
from old_graphs import fused_graph, masked_graph, sdxl_graph, twin_graph

pytestmark = pytest.mark.server

PAGES = {
    "classic": ("open_page", False),
    "Nodes 2.0": ("open_page", True),
    "newest, classic": ("open_newest_page", False),
    "newest, Nodes 2.0": ("open_newest_page", True),
}
APPLY = {
    "model": ["1", 0],
    "pulid_flux": ["2", 0],
    "eva_clip": ["3", 0],
    "face_analysis": ["4", 0],
    "image": ["5", 0],
    "weight": 0.9,
    "start": 0.1,
    "end": 0.8,
    "axis": "percent",
    "negative": "same",
    "method": "fidelity",
}
ANALYSER = {"pack": "antelopev2", "detector": "auto", "provider": "auto", "parsing": "auto"}
# Pairs of nodes of which one covers the other, titles included. In Nodes 2.0 elements are drawn.
COVERED = """() => { const title = LiteGraph.NODE_TITLE_HEIGHT, pairs = []
    const drawn = n => { const e = document.querySelector(`[data-node-id="${n.id}"]`)
        return e ? [e.offsetWidth, e.offsetHeight] : [n.size[0], n.size[1] + title] }
    const box = n => { const [x, y] = n.pos, [width, height] = drawn(n)
        return [x, y - title, x + width, y - title + height] }
    for (const a of app.graph._nodes) for (const b of app.graph._nodes) { if (a.id >= b.id) continue
        const [p, q] = [box(a), box(b)]
        if (p[0] < q[2] && q[0] < p[2] && p[1] < q[3] && q[1] < p[3])
            pairs.push([a.type, box(a), b.type, box(b)]) }
    return pairs }"""
TOLD = """() => app.graph._nodes.map(node => node.widgets?.find(
    widget => widget.name == 'flexid_replaced')?.element.textContent ?? '').join('')"""
SHOWN = """() => [...document.querySelectorAll('[data-node-id="6"] input')].map(
    input => Number(input.value))"""
# Pages before 1.47 do not tell a replaced node's widgets whose they are: their call is swallowed.
UNBOUND = """() => { const create = LiteGraph.createNode.bind(LiteGraph); window.swallowed = 0
    LiteGraph.createNode = (...given) => { const node = create(...given)
        for (const widget of node?.widgets ?? []) { if (!widget.setNodeId) continue
            widget.setNodeId = () => { delete widget.setNodeId; window.swallowed += 1 } }
        return node } }"""


@pytest.fixture(scope="module", params=PAGES)
def kind(request):
    """pytest runs all tests of one kind before it goes to the next."""
    return request.param


@pytest.fixture
def any_page(kind, request, models):
    """A page of every kind, with the published files' names in its server's models folder."""
    opener, vue = PAGES[kind]
    running = "newest_server" if "newest" in opener else "server"
    real_names.place(models, request.getfixturevalue(running).base / "models")
    return request.getfixturevalue(opener)(**{"Comfy.VueNodes.Enabled": vue})


def check_page(page):
    """Nothing covered, nothing wrong, and the page still draws."""
    assert page.tab.evaluate(COVERED) == []
    assert page.problems == []
    frame = page.tab.evaluate("(app.canvas.setDirty(true, true), app.canvas.frame)")
    page.tab.wait_for_function(f"app.canvas.frame > {frame}", timeout=60 * SECOND)


def replace_all(page, graph):
    """Open the graph and take what the page offers; what its panel said."""
    page.load(graph)
    said = page.errors()
    page.tab.get_by_role("button", name="Replace All").click()
    page.tab.wait_for_function("app.graph._nodes.every(node => !node.last_serialization)")
    page.tab.wait_for_timeout(2 * SECOND)
    return said


def test_an_old_graph_becomes_ours_and_loses_nothing(any_page):
    page = any_page
    said = replace_all(page, masked_graph())
    for kind in ("ApplyVFAFromPhoto", "LoadEvaClip", "LoadIdentityAdapter", "ChooseFace"):
        assert f"This node will be replaced by: FlexID{kind}" in said
    prompt = page.prompt()
    assert prompt["6"]["class_type"] == "FlexIDApplyVFAFromPhoto"
    assert prompt["6"]["inputs"] == APPLY | {"mask": ["5", 1], "options": ["7", 0]}
    assert prompt["2"]["inputs"] == {"file": "pulid_flux_v0.9.1.safetensors"}
    assert prompt["3"]["inputs"] == {"file": "EVA02_CLIP_L_336_psz14_s6B.pt"}
    assert prompt["4"]["inputs"] == ANALYSER
    assert prompt["7"]["inputs"] == {"order": "left to right", "index": 1}
    assert page.tab.evaluate(TOLD) == "", "nothing is lost"
    if page.tab.evaluate("LiteGraph.vueNodesMode"):
        assert page.tab.evaluate(SHOWN) == [0.9, 0.1, 0.8]
    check_page(page)


def test_a_graph_for_sdxl_becomes_ours_with_its_method(any_page):
    page = any_page
    replace_all(page, sdxl_graph())
    prompt = page.prompt()
    told = {"negative": "unconditional", "method": "style", "mask": ["5", 1]}
    assert prompt["6"]["class_type"] == "FlexIDApplyVFAFromPhoto"
    assert prompt["6"]["inputs"] == APPLY | told
    assert prompt["2"]["inputs"] == {"file": "pulid_v1.1.safetensors"}
    assert prompt["4"]["inputs"] == ANALYSER
    assert page.tab.evaluate(TOLD) == ""
    check_page(page)


def test_nodes_2_0_shows_the_values_in_pages_that_do_not_bind_widgets(open_page):
    page = open_page(fresh=True, **{"Comfy.VueNodes.Enabled": True})
    page.tab.evaluate(UNBOUND)
    replace_all(page, masked_graph())
    assert page.tab.evaluate("window.swallowed") > 0
    assert page.tab.evaluate(SHOWN) == [0.9, 0.1, 0.8]
    assert page.problems == []


def test_graphs_with_fusions_say_what_they_lose(any_page):
    page = any_page
    replace_all(page, fused_graph())
    assert page.prompt()["6"]["inputs"] == APPLY
    told = page.tab.evaluate(TOLD)
    assert "fusion: several photos are averaged" in told and "use_gray" in told
    assert "prior_image" not in told and "Chroma" not in told
    check_page(page)


def test_a_classic_node_has_room_for_its_widgets(open_page):
    page = open_page()
    replace_all(page, masked_graph())
    assert [row for row in page.cut() if row[0].startswith("FlexID")] == []
    sizes = dict(page.tab.evaluate("app.graph._nodes.map(n => [n.type, [...n.size]])"))
    assert sizes["FlexIDApplyVFAFromPhoto"][1] > 226, "larger than the node it replaces"
    assert sizes["FlexIDLoadIdentityAdapter"] == [315, 58], "what has room keeps its size"


def test_twins_under_another_name_become_ours(open_page):
    page = open_page()
    replace_all(page, twin_graph())
    prompt = page.prompt()
    assert prompt["6"]["inputs"] == APPLY and prompt["4"]["inputs"] == ANALYSER
    assert page.tab.evaluate(TOLD) == ""


def test_a_chroma_graph_is_told_before_and_after_that_apply_vfa_refuses_it(any_page):
    page = any_page
    page.load(fused_graph("chroma-v35.safetensors"))
    page.tab.get_by_text("Apply VFA needs Flux.1").first.wait_for(timeout=60 * SECOND)
    replace_all(page, fused_graph("chroma-v35.safetensors"))
    assert "refuses Chroma" in page.tab.evaluate(TOLD)
