"""What `demo` is given: photos and graphs, good and bad; the models folder; the browser."""

import json
import os
import subprocess
import sys

import pytest
from flexid.mini import world as mini_world
from flexid.setup import checks, demo, pins, server, world
from flexid.setup.console import SetupError
from flexid.setup.environment import Environment
from pack import ROOT

pytestmark = pytest.mark.pure

NODE = {"class_type": "SaveImage", "inputs": {}}


def loader(title="Load Image"):
    return {"class_type": "LoadImage", "inputs": {"image": "old.png"}, "_meta": {"title": title}}


def test_a_photo_that_is_not_there(tmp_path):
    with pytest.raises(SetupError, match="no such file"):
        demo.find_photo(tmp_path / "absent.jpg")
    with pytest.raises(SetupError, match="is a folder"):
        demo.find_photo(tmp_path)


def check_photo(path, tmp_path):
    here = Environment(path.__class__(sys.executable), tmp_path, tmp_path, "cpu")
    demo.prepare_photo(here, "check", path)


@pytest.mark.parametrize("content", [b"", b"not a picture", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_a_photo_that_is_no_picture_is_refused(tmp_path, content):
    path = tmp_path / "photo.png"
    path.write_bytes(content)
    with pytest.raises(SetupError, match=r"photo\.png cannot be read as a picture: .+ Name ano"):
        check_photo(path, tmp_path)


def test_a_truncated_photo_is_refused(tmp_path):
    image = pytest.importorskip("PIL.Image")
    whole = tmp_path / "whole.jpg"
    image.effect_noise((200, 200), 90).save(whole)
    check_photo(whole, tmp_path)
    half = tmp_path / "half.jpg"
    half.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    with pytest.raises(SetupError, match=r"half\.jpg cannot be read.*truncated"):
        check_photo(half, tmp_path)


def test_the_sample_portrait_comes_with_the_requirements(tmp_path):
    image = pytest.importorskip("PIL.Image")
    here = Environment(tmp_path.__class__(sys.executable), tmp_path, tmp_path, "cpu")
    demo.prepare_photo(here, "sample", tmp_path / "portrait.png")
    with image.open(tmp_path / "portrait.png") as portrait:
        assert portrait.size == (128, 128) and portrait.mode == "RGB"


def test_a_server_that_dies_is_reported_with_its_last_words(tmp_path, monkeypatch, capsys):
    """For example when the system runs out of memory while painting."""
    here = Environment(tmp_path.__class__(sys.executable), tmp_path, tmp_path, "cpu")
    (tmp_path / "server.log").write_text("\n".join(["old"] * 50 + ["Killed"]))
    gone = server.Server(subprocess.Popen([sys.executable, "-c", ""]), "", tmp_path, None)
    gone.url, gone.log = f"http://127.0.0.1:{server.free_port()}", tmp_path / "server.log"
    monkeypatch.setattr(demo, "ensure_world", lambda _: tmp_path)
    monkeypatch.setattr(demo, "start", lambda *_: gone)
    monkeypatch.setattr(demo, "prepare_photo", lambda *_: None)
    monkeypatch.setattr(demo, "find_face", lambda *_: {})
    code = demo.demo(here, None, None, tmp_path / "out", demo.Phases({}))
    assert code == 1 and "Killed" in capsys.readouterr().out
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "fact"),
    [
        ("{", "not JSON"),
        ("[]", "not in API format"),
        ('{"nodes": [], "links": []}', "Export"),
        ('{"1": {"inputs": {}}}', "class_type"),
        ("{}", "not in API format"),
    ],
)
def test_a_file_that_is_no_api_graph_is_refused(tmp_path, content, fact):
    path = tmp_path / "g.json"
    path.write_text(content)
    with pytest.raises(SetupError, match=fact):
        demo.load_graph(path)


def test_a_graph_that_is_not_there(tmp_path):
    with pytest.raises(SetupError, match=r"absent\.json: No such file"):
        demo.load_graph(tmp_path / "absent.json")


def test_the_photo_goes_where_the_title_says():
    graph = {"1": loader(), "2": loader("Photo"), "3": NODE}
    changed = demo.put_photo(graph, "new.png", insist=True)
    assert changed["1"] == loader() and changed["2"]["inputs"]["image"] == "new.png"
    assert graph["2"]["inputs"]["image"] == "old.png"


def test_the_photo_goes_to_the_only_loader():
    assert demo.put_photo({"1": loader()}, "n.png", True)["1"]["inputs"]["image"] == "n.png"


def test_a_photo_without_a_place_is_an_error_only_when_asked_for():
    graph = {"1": loader(), "2": loader()}
    assert demo.put_photo(graph, "new.png", insist=False) == graph
    with pytest.raises(SetupError, match="2 LoadImage nodes.*titled"):
        demo.put_photo(graph, "new.png", insist=True)


def test_the_demo_graphs_use_the_files_that_are_built():
    graphs = [demo.load_graph(path) for path in demo.WORKFLOW.parent.glob("*demo.api.json")]
    nodes = [node for graph in graphs for node in graph.values()]
    names = {str(value) for node in nodes for value in node["inputs"].values()}
    for path in mini_world.WRITERS:
        expected = path.split("/")[-2] if path.endswith(".onnx") else path.split("/")[-1]
        assert expected in names, path


def test_the_models_folder_is_named_after_what_makes_it(tmp_path, monkeypatch):
    monkeypatch.setattr(world, "MINI", tmp_path)
    (tmp_path / "a.py").write_text("1")
    first = world.world_name()
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_text("1")
    assert world.world_name() == first
    (tmp_path / "a.py").write_text("2")
    assert world.world_name() != first


def fake_mini(folder, code):
    folder.mkdir()
    (folder / "__main__.py").write_text(
        "import sys, pathlib\nout = pathlib.Path(sys.argv[2])\n" + code
    )


def test_a_build_that_fails_leaves_no_models_folder(tmp_path, monkeypatch):
    here = Environment(tmp_path.__class__(sys.executable), tmp_path, tmp_path / "cache", "cpu")
    fake_mini(tmp_path / "mini", "out.mkdir(); (out / 'half').touch(); sys.exit('the reason')")
    monkeypatch.setattr(world, "MINI", tmp_path / "mini")
    with pytest.raises(SetupError, match="the reason"):
        world.ensure_world(here)
    assert not [path for path in here.cache.iterdir() if path.is_dir()]


def test_models_are_built_once(tmp_path, monkeypatch):
    here = Environment(tmp_path.__class__(sys.executable), tmp_path, tmp_path / "cache", "cpu")
    fake_mini(tmp_path / "mini", "out.mkdir(); (out / 'flux').write_text(str(id(out)))")
    monkeypatch.setattr(world, "MINI", tmp_path / "mini")
    folder = world.ensure_world(here)
    before = (folder / "flux").stat().st_mtime_ns
    assert world.ensure_world(here) == folder
    assert (folder / "flux").stat().st_mtime_ns == before


def test_the_named_browser_wins(tmp_path, monkeypatch):
    here = Environment(tmp_path.__class__(sys.executable), tmp_path, tmp_path, "cpu")
    monkeypatch.setenv("FLEXID_CHROMIUM", "/my/browser")
    assert checks.find_browser(here) == "/my/browser"


def test_a_browser_is_found_on_the_path_and_in_the_download_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(checks, "USUAL_PLACES", ())
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    assert checks.installed_browser(tmp_path / "browsers") == ""
    downloaded = tmp_path / "browsers" / "chromium-1" / "chrome-linux64" / "chrome"
    downloaded.parent.mkdir(parents=True)
    downloaded.write_text("")
    assert checks.installed_browser(tmp_path / "browsers") == str(downloaded)
    if os.name != "nt":
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "chromium").write_text("")
        (tmp_path / "bin" / "chromium").chmod(0o755)
        assert checks.installed_browser(tmp_path / "browsers") == str(tmp_path / "bin/chromium")


def test_the_newest_page_is_fetched_once_and_never_half(tmp_path, monkeypatch):
    here = Environment(tmp_path.__class__(sys.executable), tmp_path, tmp_path / "cache", "cpu")
    monkeypatch.delenv("FLEXID_FRONTEND", raising=False)
    fetched = []

    def fetch(command, log, live, environ):
        target = tmp_path.__class__(command[command.index("--target") + 1])
        (target / "comfyui_frontend_package" / "static").mkdir(parents=True)
        fetched.append(command[-1])
        if len(fetched) == 1:
            raise subprocess.CalledProcessError(1, command, "cut off")

    monkeypatch.setattr(checks, "run_logged", fetch)
    assert checks.find_frontend(here) == "", "half a page is none"
    found = checks.find_frontend(here)
    assert tmp_path.__class__(found).is_dir() and checks.find_frontend(here) == found
    assert fetched == [f"comfyui-frontend-package=={pins.FRONTEND}"] * 2
    monkeypatch.setenv("FLEXID_FRONTEND", "/my/page")
    assert checks.find_frontend(here) == "/my/page"


@pytest.mark.parametrize(("text", "debian"), [("ID=debian", 1), ("ID=ubuntu\nID_LIKE=debian", 0)])
def test_only_debian_itself_packages_a_real_chromium(tmp_path, text, debian):
    (tmp_path / "os").write_text(text)
    assert checks.is_debian(tmp_path / "os") is bool(debian)
    assert not checks.is_debian(tmp_path / "absent")


def test_modules_run_without_the_repository_on_the_path(tmp_path):
    (tmp_path / "shown.py").write_text("import json, sys; print(json.dumps([sys.path, sys.argv]))")
    command = checks.module(tmp_path.__class__(sys.executable), ["shown", "a", "-b"])
    environ = os.environ | {"PYTHONPATH": str(tmp_path)}
    result = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True)
    path, argv = json.loads(result.stdout)
    assert str(ROOT) not in path and "" not in path
    assert argv[1:] == ["a", "-b"]
