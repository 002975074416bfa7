"""A real ComfyUI server with the demo's models, started as start.py does, and its API client."""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from browser_page import SECOND, Page
from flexid.setup import demo
from flexid.setup.client import Client
from flexid.setup.environment import Environment
from flexid.setup.probe import device, prefers_bfloat16
from flexid.setup.server import Server, start
from small_hub import SmallHub, serve_hub

FLAGS = "--no-sandbox --disable-gpu --disable-background-networking --disable-component-update"
FLAGS += " --disable-sync --no-first-run --disable-dev-shm-usage"
SIZE = {"width": 1600, "height": 1000}
READY = "!!(window.app?.graph && window.LiteGraph?.registered_node_types?.FlexIDApplyVFA)"


@pytest.fixture(scope="session")
def environment(tmp_path_factory) -> Environment:
    """This Python and the ComfyUI under test, with an empty cache."""
    tree = Path(os.environ["COMFYUI_PATH"])
    cache = tmp_path_factory.mktemp("cache")
    return Environment(Path(sys.executable), tree, cache, device(), prefers_bfloat16(device()))


@pytest.fixture(scope="session")
def models(tmp_path_factory) -> Path:
    """The demo's models, built from this checkout."""
    from flexid.mini.world import build_world

    folder = tmp_path_factory.mktemp("models")
    build_world(folder)
    return folder


@pytest.fixture(scope="session")
def hub() -> Iterator[SmallHub]:
    """What the server takes for the Hugging Face Hub."""
    with serve_hub() as running:
        yield running


@pytest.fixture(scope="session")
def server(environment, models, hub, tmp_path_factory) -> Server:
    """One server for all server tests; ended with everything it started."""
    base = tmp_path_factory.mktemp("server")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_ENDPOINT", hub.url)
        running = start(environment, base, {"flexid_mini": models})
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


def from_start(name: str, reason: str) -> str:
    """A path that `start.py test` found. CI must have it; elsewhere its tests are skipped."""
    path = os.environ.get(name, "")
    if path:
        return path
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def newest_server(environment, models, tmp_path_factory) -> Iterator[Server]:
    """A server with the newest page in place of the one that ComfyUI installs."""
    page = from_start("FLEXID_FRONTEND", "no newest page: name its files in FLEXID_FRONTEND")
    base = tmp_path_factory.mktemp("newest")
    running = start(environment, base, {"flexid_mini": models}, "--front-end-root", page)
    try:
        yield running
    finally:
        running.stop()


@pytest.fixture(scope="session")
def chromium() -> str:
    return from_start("FLEXID_CHROMIUM", "no Chromium: install one, or name it in FLEXID_CHROMIUM")


@pytest.fixture(scope="module")
def browser(chromium):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=chromium, args=FLAGS.split())
        try:
            yield running
        finally:
            running.close()


@contextmanager
def opener(browser, client: Client, portrait: Path) -> Iterator[Callable[..., Page]]:
    """open_it(language, **settings) -> Page; closed at the end."""
    tabs = []
    client.upload(portrait)

    def open_it(language="en", **settings):
        known = {"Comfy.TutorialCompleted": True, "Comfy.Locale": language}
        client.post("/settings", {**known, "Comfy.VueNodes.Enabled": False, **settings})
        page = Page(browser.new_page(viewport=SIZE))
        tabs.append(page.tab)
        page.tab.goto(client.url)
        page.tab.wait_for_function(READY, timeout=120 * SECOND)
        page.tab.wait_for_timeout(SECOND)
        return page

    yield open_it
    for tab in tabs:
        tab.close()


@pytest.fixture
def open_page(browser, client, portrait) -> Iterator[Callable[..., Page]]:
    with opener(browser, client, portrait) as open_it:
        yield open_it


@pytest.fixture
def open_newest_page(browser, newest_server, portrait) -> Iterator[Callable[..., Page]]:
    with opener(browser, Client(newest_server.url), portrait) as open_it:
        yield open_it


@pytest.fixture
def page(open_page):
    return open_page()
