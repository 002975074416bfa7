"""A sweep in the real page: by the Run button, with its report, sheet and chart on the nodes."""

import json

import pytest
import templates
from browser_page import SECOND

pytestmark = pytest.mark.server

SHOWN = """kind => app.graph._nodes.filter(n => n.type == kind).map(n => [n.widgets
    .filter(w => w.name == 'flexid_report').map(w => w.element.innerText).join(''),
    app.nodeOutputs[n.id]?.images?.length ?? 0])[0]"""
OVERLAPPING = """() => { const all = app.graph._nodes.map(n => [n.title,
    [n.pos[0], n.pos[1] - 30, n.pos[0] + n.size[0], n.pos[1] + n.size[1]]]);
    return all.flatMap(([one, a], i) => all.slice(i + 1).filter(([, b]) => a[0] < b[2]
        && b[0] < a[2] && a[1] < b[3] && b[1] < a[3]).map(([other]) => [one, other])) }"""


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
    page.run()
    page.tab.wait_for_timeout(2 * SECOND)
    report, pictures = page.tab.evaluate(SHOWN, "FlexIDSweepReport")
    assert pictures == 2, "the sheet and the chart"
    assert report.startswith("weight 0: likeness ") and "knee: " in report
    assert len(report.splitlines()) == 4
    compared, charts = page.tab.evaluate(SHOWN, "FlexIDCompareIdentity")
    assert charts == 3, "one chart for each value"
    assert compared.count("2 pictures, 1 person") == 3
    assert page.tab.evaluate(SHOWN, "FlexIDSweepValues")[0].startswith("3 values: 0, 0.")
    if not vue:  # the other page draws some of core's own nodes taller than their graphs say
        assert page.tab.evaluate(OVERLAPPING) == []
    assert page.problems == []
