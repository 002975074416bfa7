"""Fetch Models, queued on a real server against a hub on 127.0.0.1."""

import json
import threading
import time

import pytest
from flexid.model_patches.files.public_files import FACE_T5, PULID_FLUX_090, PULID_FLUX_091
from flexid.setup.client import GraphError
from flexid.setup.events import Events
from small_hub import sha256

pytestmark = pytest.mark.server

CONTENT = bytes(range(256)) * (96 << 10)
"""24 MiB: huggingface_hub writes 10 MiB at once."""


@pytest.fixture(autouse=True)
def row(hub):
    """A file whose hash the table does not know, so that the hub may serve any."""
    hub.add(f"{PULID_FLUX_090.repo}/{PULID_FLUX_090.path}", CONTENT)
    hub.requests.clear()
    yield PULID_FLUX_090
    hub.seconds_per_block = 0.0


def graph(files, accept=False):
    inputs = {"files": files, "accept_licences": accept}
    return {"1": {"class_type": "FlexIDFetchModels", "inputs": inputs}}


@pytest.fixture
def places(server, models, row):
    """All that lies of the file in the server's folders for adapters, by name; gone afterwards."""

    def find():
        folders = (models / "pulid", server.base / "models" / "pulid")
        return {path.name: path for one in folders for path in one.glob(f"*{row.file}*")}

    yield find
    for path in find().values():
        path.unlink()


def report(entry):
    return entry["outputs"]["1"]["text"][0]


def test_a_new_node_only_looks(client, hub):
    said = report(client.queue(graph("only look")))
    assert f"missing: {PULID_FLUX_091.file} (1.14 GB), for models/pulid" in said
    assert hub.requests == []


def test_terms_that_are_not_accepted_end_the_run(client, hub):
    with pytest.raises(GraphError, match="(?s)FetchError: These files have terms.*CC BY-NC 4.0"):
        client.queue(graph(FACE_T5.file))
    assert hub.requests == []


def test_cancel_keeps_a_part_and_the_next_run_goes_on_with_progress(client, hub, places, row):
    hub.seconds_per_block = 0.02
    prompt = client.submit(graph(row.file))
    part = f"{row.file}.{sha256(CONTENT)[:12]}.part"
    deadline = time.monotonic() + 120
    while not (part in places() and places()[part].stat().st_size):
        assert time.monotonic() < deadline, places()
        time.sleep(0.02)
    client.post("/interrupt", {})
    messages = dict(client.wait(prompt)["status"]["messages"])
    assert "execution_interrupted" in messages and row.file not in places()
    kept = places()[part].stat().st_size
    assert 0 < kept < len(CONTENT)
    hub.seconds_per_block = 0.0
    bars, ended = [], threading.Event()

    def note(kind, data):
        if kind == "progress":
            bars.append(data)
        if kind == "execution_success":
            ended.set()

    events = Events(client.url, client.id, note)
    said = report(client.queue(graph(row.file)))
    assert ended.wait(60)
    events.close()
    assert hub.downloads() == ["", f"bytes={kept}-"]
    assert places().keys() == {row.file} and places()[row.file].read_bytes() == CONTENT
    assert said.startswith("fetched (25.2 MB, SHA-256 as the hub says): ")
    assert said.endswith("Press R, so that the lists show new files.")
    assert (bars[-1]["value"], bars[-1]["max"]) == (len(CONTENT), len(CONTENT))
    assert kept < bars[0]["value"] and {bar["node"] for bar in bars} == {"1"}
    listed = client.object_info("FlexIDLoadIdentityAdapter")["FlexIDLoadIdentityAdapter"]
    assert row.file in json.dumps(listed)
    again = report(client.queue(graph(row.file)))
    assert again.startswith(f"there: {row.file}") and len(hub.downloads()) == 2


def test_another_file_on_the_hub_is_refused(client, hub):
    hub.add(f"{PULID_FLUX_091.repo}/{PULID_FLUX_091.path}", b"another")
    with pytest.raises(GraphError, match="now has bytes 7, the pack's table says 1142099520"):
        client.queue(graph(PULID_FLUX_091.file))
    assert hub.downloads() == []
