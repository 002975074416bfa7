"""`start.py serve`: the page, the workflows and the portrait are there; a signal ends it."""

import os
import signal
import subprocess
import sys
import time

import pytest
from flexid.setup.client import Client
from pack import ROOT

pytestmark = [
    pytest.mark.server,
    pytest.mark.skipif(os.name == "nt", reason="POSIX signals and /proc"),
]


@pytest.fixture
def served(environment, tmp_path):
    """The running command, its lines so far, and where it listens."""
    words = [sys.executable, ROOT / "start.py", "serve", "--comfyui", environment.tree]
    words += ["--python", sys.executable, "--port", "0"]
    environ = os.environ | {"XDG_CACHE_HOME": str(tmp_path)}
    with (tmp_path / "output").open("w") as output:
        process = subprocess.Popen(
            list(map(str, words)), env=environ, stdout=output, stderr=output, text=True
        )
        yield process, tmp_path
        if process.poll() is None:
            process.terminate()
        process.wait(60)


def answering(process, folder):
    """The client, once the command says where; the page must answer at the first try."""
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert process.poll() is None, (folder / "output").read_text()
        text = (folder / "output").read_text()
        if "http://127.0.0.1:" in text:
            client = Client("http://127.0.0.1:" + text.split("http://127.0.0.1:")[1].split()[0])
            assert "starting ComfyUI" in text.split("http://127.0.0.1:")[0]
            assert b"<html" in client.read("/").lower()
            return client
        time.sleep(0.3)
    raise TimeoutError((folder / "output").read_text())


def child_of(pid):
    """Process ids whose parent is `pid`."""
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return file.read().split()


def test_serve_offers_the_pack_and_ends_on_a_signal(served):
    process, folder = served
    client = answering(process, folder)
    assert "FlexIDApplyVFA" in client.object_info()
    loader = client.object_info("UNETLoader")["UNETLoader"]
    assert "flexid_mini_flux.safetensors" in str(loader)
    portrait = client.object_info("LoadImage")["LoadImage"]
    assert "portrait.png" in str(portrait)
    listed = client.get("/userdata?dir=workflows&recurse=true")
    pages = {f.name for f in (ROOT / "workflows").glob("*.json") if ".api" not in f.name}
    assert {f"flexid/{name}" for name in pages} == set(listed)
    (server,) = child_of(process.pid)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    assert not os.path.exists(f"/proc/{server}")
