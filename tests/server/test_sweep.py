"""A sweep on a real server: ComfyUI runs the graph once for each value, and caches it."""

import copy
import time

import numpy as np
import pytest
from flexid.setup import demo
from flexid.setup.client import GraphError
from flexid.setup.events import Events
from pack import ROOT

pytestmark = pytest.mark.server

VALUES = "0, 0.5, 1"
LISTS = {"values": ["30", 0], "images": ["15", 0], "x": ["32", 3], "y": ["32", 10]}
TEXTS = {"name": "weight", "x_name": "likeness", "x_better": "higher"}
TEXTS |= {"y_name": "change outside", "y_better": "lower"}


@pytest.fixture
def graph(client, portrait):
    """The demo, its weight swept, at two steps."""
    api = ROOT / "workflows" / "api" / "demo.api.json"
    made = copy.deepcopy(demo.put_photo(demo.load_graph(api), client.upload(portrait), insist=True))
    for node in made.values():
        if node["class_type"] == "KSampler":
            node["inputs"]["steps"] = 2

    def node(kind, **inputs):
        return {"class_type": kind, "inputs": inputs}

    spread = {"first": 0.0, "last": 1.0, "count": 5, "spacing": "even"}
    made["30"] = node("FlexIDSweepValues", **spread, values=VALUES)
    made["10"]["inputs"]["weight"] = ["30", 0]
    looked = {"analyser": ["5", 0], "images": ["15", 0], "reference": ["4", 0], "plain": ["18", 0]}
    made["32"] = node("FlexIDCompareIdentity", **looked)
    made["33"] = node("FlexIDSweepReport", **LISTS, **TEXTS)
    made["34"] = node("SaveImage", images=["33", 0], filename_prefix="sheet")
    return made


def cached(entry):
    """Nodes that ComfyUI did not run again."""
    for kind, message in entry["status"]["messages"]:
        if kind == "execution_cached":
            return set(message["nodes"])
    return set()


def test_each_value_paints_once_and_a_second_queue_paints_nothing(client, graph):
    entry = client.queue(graph)
    outputs = entry["outputs"]
    assert len(outputs["16"]["images"]) == 3, "one picture for each value"
    assert len(outputs["19"]["images"]) == 1, "what is not behind the number runs once"
    assert len(outputs["34"]["images"]) == 1 and len(outputs["33"]["images"]) == 2
    [text] = outputs["33"]["text"]
    lines = text.splitlines()
    assert [line.split(":")[0] for line in lines[:3]] == ["weight 0", "weight 0.5", "weight 1"]
    changes = [float(line.partition("change outside ")[2].split()[0]) for line in lines[:3]]
    assert changes[0] == 0, "weight 0 is the plain picture, bit for bit: the noise is the same"
    assert 0 < changes[1] and 0 < changes[2]
    assert len(outputs["32"]["text"]) == 3, "Compare Identity ran once for each value"
    again = client.queue(graph)
    painters = {key for key, node in graph.items() if node["class_type"] == "KSampler"}
    assert painters <= cached(again)


def test_another_value_of_the_report_paints_nothing_again(client, graph):
    client.queue(graph)
    other = copy.deepcopy(graph)
    other["33"]["inputs"]["name"] = "VFA weight"
    entry = client.queue(other)
    assert {"14", "15", "17", "32"} <= cached(entry) and "33" not in cached(entry)
    assert entry["outputs"]["33"]["text"][0].startswith("VFA weight 0")


def test_a_list_that_was_joined_is_refused_by_the_server(client, graph):
    graph["33"]["inputs"]["values"] = ["32", 3]
    graph["33"]["inputs"]["images"] = ["18", 0]
    with pytest.raises(GraphError, match="3 values and 1 batches of pictures"):
        client.queue(graph)


def test_wrong_values_are_refused_before_anything_runs(client, graph):
    graph["30"]["inputs"]["values"] = "0, half"
    with pytest.raises(GraphError, match="'half' is no number"):
        client.queue(graph)


def test_the_sheet_has_a_column_for_each_value(client, graph):
    import io

    from PIL import Image

    [data] = [data for name, data in client.pictures(client.queue(graph)) if "sheet" in name]
    sheet = np.asarray(Image.open(io.BytesIO(data)))
    assert sheet.shape[1] >= 3 * 128 and sheet.std() > 20


def test_an_interrupted_sweep_stops_and_runs_whole_afterwards(client, graph):
    long = copy.deepcopy(graph)
    for node in long.values():
        if node["class_type"] == "KSampler":
            node["inputs"] |= {"steps": 400, "seed": 12}
    prompt = client.submit(long)
    while prompt not in [one[1] for one in client.get("/queue")["queue_running"]]:
        time.sleep(0.05)
    time.sleep(1.0)
    started = time.monotonic()
    client.post("/interrupt", {})
    entry = client.wait(prompt)
    assert time.monotonic() - started < 20, "800 and more steps would take longer"
    assert "execution_interrupted" in [event for event, _ in entry["status"]["messages"]]
    assert "33" not in entry["outputs"], "no report of half a sweep"
    assert len(client.queue(graph)["outputs"]["16"]["images"]) == 3


def follow(client, graph):
    """Queue the graph; the bar of Sweep Values, and of the nodes that ran meanwhile."""
    seen = []

    def note(kind, data):
        if kind == "progress_state":
            running = {
                key: (state["value"], state["max"])
                for key, state in data["nodes"].items()
                if state["state"] == "running"
            }
            seen.append(running)

    events = Events(client.url, client.id, note)
    try:
        client.queue(graph)
    finally:
        events.close()
    return [one for one in seen if "30" in one and len(one) == 2]


def test_the_bar_of_sweep_values_counts_values_also_when_they_are_cached(client, graph):
    whole = follow(client, graph | {"14": with_seed(graph["14"], 71)})
    again = follow(client, graph | {"14": with_seed(graph["14"], 72)})
    for seen in (whole, again):
        sampled = [one["30"] for one in seen if "14" in one]
        counts = [value for value, _ in sampled]
        assert {most for _, most in sampled} == {3}
        assert counts == sorted(counts) and counts[-1] == 3
        assert {0.5, 1.5, 2.5} <= set(counts), "two steps for each value"
        assert any("32" in one for one in seen), "Compare Identity is behind the number, too"
        assert all("17" not in one for one in seen), "the plain picture is not"


def with_seed(node, seed):
    return node | {"inputs": node["inputs"] | {"seed": seed}}
