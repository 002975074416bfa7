"""A sweep in the real page: by the Run button, with its report, sheet and chart on the nodes."""

import json

import pytest
import templates
from browser_page import SECOND

pytestmark = pytest.mark.server

OVERLAPPING = """() => { const all = app.graph._nodes.map(n => [n.title,
    [n.pos[0], n.pos[1] - 30, n.pos[0] + n.size[0], n.pos[1] + n.size[1]]]);
    return all.flatMap(([one, a], i) => all.slice(i + 1).filter(([, b]) => a[0] < b[2]
        && b[0] < a[2] && a[1] < b[3] && b[1] < a[3]).map(([other]) => [one, other])) }"""

LISTEN = """() => { window.told = []; app.api.addEventListener('progress_state', event => {
    const node = app.graph._nodes.find(n => n.type == 'FlexIDSweepValues');
    const state = event.detail.nodes[node.id], panel = node.widgets
        .find(w => w.name == 'flexid_report')?.element;
    if (state?.state == 'running' && state.value > 0)
        window.told.push([state.value, state.max, panel.textContent]) }) }"""
OUTSIDE = """() => app.graph._nodes.filter(n => /^FlexID/.test(n.type)).map(n => {
    const drawn = document.querySelector(`[data-node-id="${n.id}"]`)?.offsetHeight;
    const bottom = n.pos[1] - 30 + (drawn ?? n.size[1] + 30);
    const group = app.graph._groups.find(g => g.pos[0] <= n.pos[0] && g.pos[1] <= n.pos[1]
        && n.pos[0] < g.pos[0] + g.size[0] && n.pos[1] < g.pos[1] + g.size[1]);
    return [n.title, Math.round(group.pos[1] + group.size[1] - bottom)]
}).filter(([, room]) => room < 0)"""
PANEL = """() => app.graph._nodes.find(n => n.type == 'FlexIDCompareIdentity').widgets
    .find(w => w.name == 'flexid_report').element.offsetHeight"""


@pytest.mark.parametrize("vue", [False, True], ids=["classic", "Nodes 2.0"])
def test_the_sweep_runs_by_the_button_and_shows_what_it_found(open_page, vue):
    graph = json.loads(templates.PAGES["sweep_demo"].read_text(encoding="utf-8"))
    for node in graph["nodes"]:
        if node["type"] == "KSampler":
            node["widgets_values"][2] = 2
        if node["type"] == "FlexIDSweepValues":
            node["widgets_values"][4] = "0, 0.4, 0.8" if vue else "0, 0.5, 1"  # none is cached
    page = open_page(**{"Comfy.VueNodes.Enabled": vue})
    page.load(graph)
    page.show_all()
    page.tab.evaluate(LISTEN)
    page.run()
    page.tab.wait_for_timeout(2 * SECOND)
    report, pictures = page.shown("FlexIDSweepReport")
    assert pictures == 2, "the sheet and the chart"
    assert report.startswith("weight 0: likeness ") and "knee: " in report
    assert len(report.splitlines()) == 4
    compared, charts = page.shown("FlexIDCompareIdentity")
    assert charts == 3, "one chart for each value"
    assert compared.count("2 pictures, 1 person") == 3
    assert page.shown("FlexIDSweepValues")[0].startswith("3 values: 0, 0.")
    told = page.tab.evaluate("window.told")
    assert {most for _, most, _ in told} == {3}
    steps = [text for value, _, text in told if value in (0.5, 1.5, 2.5) and "Sample" in text]
    values = [text.partition(":")[0] for text in dict.fromkeys(steps)]
    assert values == ["value 1 of 3", "value 2 of 3", "value 3 of 3"]
    assert page.tab.evaluate(OUTSIDE) == [], "every node in its group"
    if vue:  # the other page hides panels in a graph as small as this
        assert 100 < page.tab.evaluate(PANEL) < 200, "a long report scrolls"
    else:  # the other page draws some of core's own nodes taller than their graphs say
        assert page.tab.evaluate(OVERLAPPING) == []
    assert page.problems == []
