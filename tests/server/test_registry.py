"""The registry's archive, unpacked into a ComfyUI that has nothing else of ours."""

import json
import zipfile

import pytest
import real_names
from flexid.setup import demo
from flexid.setup import server as servers
from flexid.setup.client import Client
from pack import ROOT
from registry import pack_archive

pytestmark = pytest.mark.server

SCHEMAS = json.loads((ROOT / "tests" / "nodes" / "schemas.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def published(environment, models, tmp_path_factory):
    """A server whose only custom node is the unpacked archive; the models have the published
    files' names, because the graphs of the archive ask for those."""
    base = tmp_path_factory.mktemp("published")
    archive = pack_archive(tmp_path_factory.mktemp("archive") / "node.zip")

    def unpack(target):
        with zipfile.ZipFile(archive) as file:
            file.extractall(target)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(servers, "link_pack", unpack)
        running = servers.start(environment, base, {"flexid_mini": models})
    try:
        real_names.place(models, base / "models")
        yield running
    finally:
        running.stop()


@pytest.fixture
def installed(published):
    """Where the archive was unpacked."""
    return published.base / "custom_nodes" / servers.PACK


def test_it_is_installed_without_the_repository(installed):
    assert not installed.is_symlink() and not (installed / "start.py").exists()
    assert not (installed / "mini").exists()


def test_every_node_loads(published):
    known = Client(published.url).object_info()
    ours = {name for name, node in known.items() if node["python_module"] == "custom_nodes.flexid"}
    assert ours == SCHEMAS.keys()
    assert "IMPORT FAILED" not in published.log.read_text(encoding="utf-8")


def test_its_page_parts_and_templates_are_served(published, installed):
    client = Client(published.url)
    scripts = {path.name for path in (installed / "web" / "js").glob("*.js")}
    served = {name.rsplit("/", 1)[1] for name in client.get("/extensions") if "/flexid/" in name}
    assert served == scripts
    templates = client.get("/workflow_templates")["flexid"]
    assert templates and not [name for name in templates if "demo" in name]


def test_its_own_graph_paints(published, installed, portrait):
    client = Client(published.url)
    shipped = demo.load_graph(installed / "workflows" / "api" / "vfa.api.json")
    graph = demo.put_photo(shipped, client.upload(portrait), insist=True)
    graph = real_names.with_mini_text_encoder(graph)
    for node in graph.values():
        if node["class_type"] == "EmptySD3LatentImage":
            node["inputs"] |= {"width": 128, "height": 128}
        if node["class_type"] == "KSampler":
            node["inputs"]["steps"] = 2
    assert len(client.pictures(client.queue(graph))) == 1
