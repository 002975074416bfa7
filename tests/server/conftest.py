"""A real ComfyUI server with the demo's models, started as start.py does, and its API client."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from browser_page import SECOND, Page, from_start, open_browser
from flexid.setup import demo
from flexid.setup.client import Client
from flexid.setup.environment import Environment
from flexid.setup.probe import device, prefers_bfloat16
from flexid.setup.server import Server, start
from small_hub import SmallHub, serve_hub

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


@pytest.fixture(scope="module")
def browser():
    with open_browser() as running:
        yield running


def load_page(browser, client: Client, settings: dict) -> Page:
    client.post("/settings", settings)
    page = Page(browser.new_page(viewport=SIZE))
    page.tab.goto(client.url)
    page.tab.wait_for_function(READY, timeout=120 * SECOND)
    page.tab.wait_for_timeout(SECOND)
    return page


@pytest.fixture(scope="module")
def kept() -> dict[tuple, Page]:
    """Server and settings -> the page that a test has left to the next one; never two."""
    return {}


@pytest.fixture
def opener(request, browser, portrait, kept) -> Iterator[Callable[..., Callable[..., Page]]]:
    """opener(client) -> open_it(language, fresh, **settings) -> Page.

    It takes seconds until a page is ready, so the next test gets it when it asks for the same
    settings, with an empty graph. fresh=True is for a test that reloads or patches its page. The
    pages of a failed test are not used again.
    """
    used = []
    failed = request.session.testsfailed

    def opener_of(client: Client) -> Callable[..., Page]:
        client.upload(portrait)

        def open_it(language="en", fresh=False, **settings):
            known = {"Comfy.TutorialCompleted": True, "Comfy.Locale": language}
            known |= {"Comfy.VueNodes.Enabled": False, **settings}
            key = None if fresh else (client.url, *sorted(known.items()))
            page = kept.pop(key, None)
            if page:
                page.clear()
            else:
                while kept:  # a page that draws beside it slows this one down
                    kept.popitem()[1].tab.close()
                page = load_page(browser, client, known)
            used.append((key, page))
            return page

        return open_it

    yield opener_of
    failed = request.session.testsfailed > failed
    for key, page in used:
        if key is None or failed or page.problems or kept:
            page.tab.close()
        else:
            kept[key] = page


@pytest.fixture
def open_page(opener, client) -> Callable[..., Page]:
    return opener(client)


@pytest.fixture
def open_newest_page(opener, newest_server) -> Callable[..., Page]:
    return opener(Client(newest_server.url))


@pytest.fixture
def page(open_page):
    return open_page()
