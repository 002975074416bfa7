"""A real ComfyUI server with the demo's models, started as start.py does, and its API client."""

import os
import sys
from pathlib import Path

import pytest
from flexid.setup import demo
from flexid.setup.client import Client
from flexid.setup.environment import Environment
from flexid.setup.probe import device
from flexid.setup.server import Server, start


@pytest.fixture(scope="session")
def environment(tmp_path_factory) -> Environment:
    """This Python and the ComfyUI under test, with an empty cache."""
    tree = Path(os.environ["COMFYUI_PATH"])
    return Environment(Path(sys.executable), tree, tmp_path_factory.mktemp("cache"), device())


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """The demo's models, built from this checkout."""
    from flexid.mini.world import build_world

    folder = tmp_path_factory.mktemp("models")
    build_world(folder)
    return folder


@pytest.fixture(scope="session")
def server(environment, models, tmp_path_factory) -> Server:
    """One server for all server tests; ended with everything it started."""
    running = start(environment, tmp_path_factory.mktemp("server"), {"flexid_mini": models})
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture
def client(server) -> Client:
    """Queue, upload, object_info, get; see setup/client.py."""
    return Client(server.url)


@pytest.fixture(scope="session")
def portrait(environment, tmp_path_factory) -> Path:
    """The demo's default photo."""
    path = tmp_path_factory.mktemp("photo") / "portrait.png"
    demo.prepare_photo(environment, "sample", path)
    return path


@pytest.fixture
def demo_graph(client, portrait) -> dict:
    """The demo's graph as it is shipped, with the photo uploaded."""
    return demo.put_photo(demo.load_graph(demo.WORKFLOW), client.upload(portrait), insist=True)


@pytest.fixture(scope="session")
def chromium() -> str:
    """The browser that `start.py test` found. CI must have one; elsewhere its tests are skipped."""
    path = os.environ.get("FLEXID_CHROMIUM", "")
    if path:
        return path
    reason = "no Chromium: install one, or name it in FLEXID_CHROMIUM"
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(reason)
    pytest.skip(reason)
