"""The demo on a real server: pictures with content, and the laws that a user can see."""

import copy
import io
import json
import os
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from flexid.setup import demo
from flexid.setup.client import GraphError
from flexid.setup.events import Events
from pack import ROOT
from PIL import Image
from server_results import forget

pytestmark = pytest.mark.server

APPLY, SAMPLER, PLAIN_SAMPLER, ENCODE = "10", "14", "17", "9"
SIDE, STEPS = 128, 3
UNCHANGED_DENOISE = 0.99995
"""ComfyUI treats it as 1, but does not answer from its cache of results."""


@pytest.fixture
def small_graph(demo_graph):
    """The demo's graph, small and short, for tests that run it several times."""
    return resized(demo_graph)


def pictures(client, entry):
    """Prefix of the saved file -> pixels."""
    found = {}
    for name, data in client.pictures(entry):
        prefix = name.rsplit("_", 2)[0]
        found[prefix] = np.asarray(Image.open(io.BytesIO(data))).astype(int)
    return found


def run(client, graph):
    return pictures(client, client.queue(graph))


def resized(graph, side=SIDE, steps=STEPS):
    """A copy with other picture size and step count."""
    graph = copy.deepcopy(graph)
    for node in graph.values():
        if "width" in node["inputs"]:
            node["inputs"] |= {"width": side, "height": side}
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = steps
    return graph


def changed(graph, node, **inputs):
    return graph | {node: graph[node] | {"inputs": graph[node]["inputs"] | inputs}}


def cached(entry):
    """Ids of the nodes that were answered from the cache."""
    return {
        node
        for event, data in entry["status"]["messages"]
        if event == "execution_cached"
        for node in data["nodes"]
    }


def test_the_server_has_the_pack_and_the_models(client, server):
    demo.require_pack(client, server)
    node = client.object_info("FlexIDLoadMiniTextEncoder")["FlexIDLoadMiniTextEncoder"]
    assert "flexid_mini_t5.safetensors" in str(node["input"])


def test_the_shipped_demo_paints_pictures_with_content(client, demo_graph):
    found = run(client, demo_graph)
    assert set(found) == {"with_person", "without_person"}
    for name, pixels in found.items():
        assert pixels.shape == (128, 128, 3), name
        assert pixels.std() > 15, f"{name} is nearly uniform"
        clipped = ((pixels == 0) | (pixels == 255)).mean()
        assert clipped < 0.5, f"{name} is mostly clipped"
        # Structure, not noise: neighbours far more alike than pixels of different places.
        step = np.abs(np.diff(pixels, axis=1)).mean()
        far = np.abs(pixels - np.roll(pixels, 64, 1)).mean()
        assert step < far / 4, f"{name} looks like noise"
    assert np.abs(found["with_person"] - found["without_person"]).mean() > 5


def test_another_person_gives_another_picture(client, small_graph, portrait, tmp_path):
    mirrored = tmp_path / "mirrored.png"
    Image.open(portrait).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(mirrored)
    one = run(client, small_graph)
    other = run(client, demo.put_photo(small_graph, client.upload(mirrored), insist=True))
    assert np.array_equal(one["without_person"], other["without_person"])
    assert not np.array_equal(one["with_person"], other["with_person"])


def test_weight_0_is_the_graph_without_the_node(client, small_graph):
    found = run(client, changed(small_graph, APPLY, weight=0.0))
    assert np.array_equal(found["with_person"], found["without_person"])
    found = run(client, changed(small_graph, APPLY, weight=1.0))
    assert not np.array_equal(found["with_person"], found["without_person"])


def test_queueing_twice_gives_the_same_picture(client, small_graph):
    first = run(client, small_graph)
    forget(client)
    entry = client.queue(small_graph)
    assert cached(entry) == set()
    second = pictures(client, entry)
    for name, pixels in first.items():
        assert np.array_equal(pixels, second[name]), name


def test_a_new_weight_encodes_nothing_again(client, small_graph):
    client.queue(small_graph)
    entry = client.queue(changed(small_graph, APPLY, weight=0.7))
    assert ENCODE in cached(entry)
    assert not {APPLY, SAMPLER} & cached(entry)
    assert PLAIN_SAMPLER in cached(entry)


def interrupt_midway(client, graph):
    """Queue, wait for the second step of the sampler with the person, interrupt; the entry."""
    reached = threading.Event()

    def note(kind, data):
        if kind == "progress" and data.get("node") == SAMPLER and data["value"] >= 2:
            reached.set()

    events = Events(client.url, client.id, note)
    prompt = client.submit(graph)
    assert reached.wait(120), "the sampler did not start"
    client.post("/interrupt", {})
    entry = client.wait(prompt)
    events.close()
    return entry


def test_interrupting_leaves_nothing_behind(client, small_graph):
    before = run(client, small_graph)
    long = changed(small_graph, SAMPLER, steps=2000, seed=99)
    entry = interrupt_midway(client, {k: n for k, n in long.items() if k not in ("17", "18", "19")})
    messages = [event for event, _ in entry["status"]["messages"]]
    assert "execution_interrupted" in messages and not client.pictures(entry)
    assert client.get("/queue") == {"queue_running": [], "queue_pending": []}
    again = small_graph
    for sampler in (SAMPLER, PLAIN_SAMPLER):
        again = changed(again, sampler, denoise=UNCHANGED_DENOISE)
    entry = client.queue(again)
    assert not {SAMPLER, PLAIN_SAMPLER} & cached(entry)
    after = pictures(client, entry)
    for name, pixels in before.items():
        assert np.array_equal(pixels, after[name]), name


def test_a_photo_without_a_face_names_the_node(client, small_graph, tmp_path):
    empty = tmp_path / "empty.png"
    Image.new("RGB", (256, 256), "grey").save(empty)
    graph = demo.put_photo(small_graph, client.upload(empty), insist=True)
    with pytest.raises(GraphError, match=r"node 6 \(FlexIDDetectFaces\) failed: .*face"):
        client.queue(graph)


def command(options, cache):
    words = [sys.executable, str(ROOT / "start.py"), "demo", *map(str, options)]
    environ = os.environ | {"XDG_CACHE_HOME": str(cache)}
    return subprocess.run(words, env=environ, capture_output=True, text=True, timeout=600)


def private_servers():
    """Process ids of servers that `start.py demo` runs; their folders are named flexid-*."""
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = path.read_bytes().decode(errors="replace").split("\0")
            if (
                "--base-directory" in words
                and "/flexid-" in words[words.index("--base-directory") + 1]
            ):
                found.add(path.parent.name)
    return found


def test_the_command_writes_pictures_and_leaves_no_process(environment, portrait, tmp_path):
    """`start.py demo` from end to end, with a right graph and with a wrong one."""
    running = private_servers()
    graph = resized(demo.load_graph(demo.WORKFLOW))
    path = tmp_path / "small.api.json"
    options = ["--comfyui", environment.tree, "--python", sys.executable, "--workflow", path]
    options += ["--photo", portrait, "--output", tmp_path / "out"]
    path.write_text(json.dumps(graph))
    result = command(options, environment.cache)
    assert result.returncode == 0, result.stdout + result.stderr
    names = {picture.name for picture in (tmp_path / "out").iterdir()}
    assert names == {"portrait-with_person.png", "portrait-without_person.png"}
    assert str(tmp_path / "out" / "portrait-with_person.png") in result.stdout
    path.write_text(json.dumps(changed(graph, APPLY, weight=99.0)))
    result = command(options, environment.cache)
    assert result.returncode == 1 and "Apply VFA" in result.stdout and "weight" in result.stdout
    assert private_servers() <= running
