"""Several people in the real page: the run fits its groups; maps, regions and verdicts show."""

import json

import numpy as np
import pytest
import templates
from browser_page import SECOND
from flexid.mini.study.people import reference
from PIL import Image
from server_results import forget

pytestmark = pytest.mark.server

PAGES = pytest.mark.parametrize("vue", [False, True], ids=["classic", "Nodes 2.0"])
OUTSIDE = """() => app.graph._groups.flatMap(group => { const [x, y] = group.pos;
    const [width, height] = group.size; return app.graph._nodes
        .map(n => [n.title, n.pos[0], n.pos[1] - 30, n.pos[0] + n.size[0], n.pos[1] + n.size[1]])
        .filter(n => n[1] < x + width && n[3] > x && n[2] < y + height && n[4] > y)
        .filter(n => n[1] < x || n[2] < y || n[3] > x + width || n[4] > y + height)
        .map(n => [group.title, n[0], n[4] - y - height]) })"""
"""Nodes that stick out of a group: its title, the node's, by how much below."""
WATCHED = """() => { const of = kind => app.graph._nodes.find(n => n.type == kind);
    const add = (kind, row) => { const n = LiteGraph.createNode(kind); app.graph.add(n);
        n.pos = [4200, row]; return n };
    const plain = of('KSampler'), watch = add('FlexIDSampleWithActivationMaps', 600);
    const parts = ['RandomNoise', 'CFGGuider', 'KSamplerSelect', 'BasicScheduler']
        .map((kind, row) => add(kind, 1200 + 250 * row));
    parts.forEach((n, slot) => n.connect(0, watch, slot));
    const from = slot => app.graph.links.get(plain.inputs[slot].link);
    const wire = (slot, to, place) => { const link = from(slot);
        app.graph.getNodeById(link.origin_id).connect(link.origin_slot, to, place) };
    [0, 1, 2].forEach(slot => wire(slot, parts[1], slot));
    wire(0, parts[3], 0); wire(3, watch, 4);
    const set = (n, name, value) => { n.widgets.find(w => w.name == name).value = value };
    set(parts[3], 'steps', 3); set(watch, 'columns', 3);
    watch.connect(0, of('VAEDecode'), 0); app.graph.remove(plain) }"""
"""Puts Sample with Activation Maps in the place of KSampler."""
LOOKED_AT = """name => { const who = app.graph._nodes.find(n => n.type == 'FlexIDWhoIsWhere');
    for (const n of app.graph._nodes) if (n.type == 'SaveImage') n.mode = 2;
    const photo = LiteGraph.createNode('LoadImage'); app.graph.add(photo); photo.pos = [3100, 2300];
    photo.widgets.find(w => w.name == 'image').value = name; photo.connect(0, who, 1) }"""
"""Lets Who Is Where look at an uploaded picture, so that nothing is sampled."""


@pytest.fixture
def couple(client, tmp_path):
    """The template with two people whom the recogniser tells apart, and 3 steps."""
    pytest.importorskip("resvg_py")
    alex, kim = (reference(seed, 128) for seed in (3, 12))
    pictures = {"alex": [alex], "kim": [kim], "swapped": [kim, alex], "twice": [alex, alex]}
    for name, faces in pictures.items():
        path = tmp_path / f"{name}.png"
        Image.fromarray(np.concatenate(faces, axis=1)).save(path)
        client.upload(path)
    graph = read("couple_demo")
    for node in graph["nodes"]:
        if node["type"] == "LoadImage":
            node["widgets_values"][0] = node["title"].split()[-1].lower() + ".png"
        if node["type"] == "KSampler":
            node["widgets_values"][2] = 3
    return graph


def read(name):
    return json.loads(templates.PAGES[name].read_text(encoding="utf-8"))


@PAGES
@pytest.mark.parametrize("name", ["couple_demo", "dynamicid_demo"])
def test_after_a_run_every_node_lies_inside_its_group(open_page, client, couple, name, vue):
    forget(client)  # a node whose result is cached shows nothing
    graph = couple if name == "couple_demo" else read(name)
    page = open_page(**{"Comfy.VueNodes.Enabled": vue})
    page.load(graph)
    page.show_all()
    page.run()
    page.show_all()
    page.tab.wait_for_timeout(2 * SECOND)
    assert page.tab.evaluate(OUTSIDE) == []
    assert page.crossed() == []
    assert page.problems == []


def test_the_maps_have_a_row_for_each_person_and_a_column_for_each_step(open_page, client, couple):
    forget(client)
    page = open_page(**{"Comfy.VueNodes.Enabled": True})
    page.load(couple)
    page.tab.evaluate(WATCHED)
    page.show_all()
    page.run()
    page.tab.wait_for_timeout(2 * SECOND)
    report, pictures = page.shown("FlexIDSampleWithActivationMaps")
    assert pictures == 1, "a sheet for the one picture"
    assert "Alex" in report and "Kim" in report
    assert page.problems == []


@pytest.mark.parametrize(
    ("vue", "seen", "said"),
    [
        (False, "swapped", ["2 of 2", "Alex: in the place of Kim", "Kim: in the place of Alex"]),
        (True, "twice", ["1 of 2", "Kim: missing; their region shows", "one more face: Alex"]),
    ],
    ids=["classic", "Nodes 2.0"],
)
def test_who_is_swapped_or_missing_is_said_on_the_node(open_page, couple, vue, seen, said):
    page = open_page(**{"Comfy.VueNodes.Enabled": vue})
    page.load(couple)
    page.tab.evaluate(LOOKED_AT, f"{seen}.png")
    page.show_all()
    page.run()
    page.tab.wait_for_timeout(2 * SECOND)
    report, pictures = page.shown("FlexIDWhoIsWhere")
    assert pictures == 1, "the regions and faces over the picture"
    for words in said:
        assert words in report, report
    assert page.problems == []
