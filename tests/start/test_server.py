"""The private server's process and folder, with a stand-in for ComfyUI's main.py."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from flexid.setup import server
from flexid.setup.console import SetupError
from flexid.setup.environment import Environment
from pack import ROOT

pytestmark = pytest.mark.pure
posix = pytest.mark.skipif(os.name == "nt", reason="POSIX process groups")

ANSWERING = """
import http.server, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
print("child", child.pid, flush=True)
{extra}
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"{{}}")
port = int(sys.argv[sys.argv.index("--port") + 1])
http.server.HTTPServer(("127.0.0.1", port), Answer).serve_forever()
"""


def tree(folder: Path, main: str) -> Environment:
    folder.mkdir(exist_ok=True)
    (folder / "main.py").write_text(main)
    return Environment(Path(sys.executable), folder, folder, "cpu")


def alive(pid: int) -> bool:
    """Running, and not merely waiting for its parent to take note of its end."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


def child_of(started: server.Server) -> int:
    words = started.log.read_text().split()
    return int(words[words.index("child") + 1])


@posix
@pytest.mark.parametrize(
    "extra", ["", "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)"]
)
def test_stop_ends_the_server_and_its_children(tmp_path, monkeypatch, extra):
    monkeypatch.setattr(server, "STOP_SECONDS", 1)
    environment = tree(tmp_path / "tree", ANSWERING.format(extra=extra))
    started = server.start(environment, tmp_path / "base", {})
    child = child_of(started)
    assert alive(started.process.pid) and alive(child)
    started.stop()
    deadline = time.monotonic() + 30
    while alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(started.process.pid) and not alive(child)


def test_a_server_that_ends_at_once_shows_its_log(tmp_path):
    environment = tree(
        tmp_path / "tree", "print('\\x1b[31mthe reason\\x1b[0m'); raise SystemExit(7)"
    )
    with pytest.raises(SetupError, match=r"(?s)exit code 7.*\nthe reason"):
        server.start(environment, tmp_path / "base", {})


@posix
def test_a_server_that_never_answers_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "STARTUP_SECONDS", 1)
    main = "import os,time; print('pid', os.getpid(), flush=True); time.sleep(300)"
    with pytest.raises(SetupError, match="did not answer.*within 1 s"):
        server.start(tree(tmp_path / "tree", main), tmp_path / "base", {})
    assert not alive(int((tmp_path / "base" / "server.log").read_text().split()[1]))


def test_a_taken_port_is_tried_again(tmp_path):
    counter = tmp_path / "count"
    main = (
        f"import sys; file = open({str(counter)!r}, 'a'); file.write('x'); file.close()\n"
        f"if open({str(counter)!r}).read() == 'x': sys.exit('Address already in use')\n"
    ) + ANSWERING.format(extra="")
    started = server.start(tree(tmp_path / "tree", main), tmp_path / "base", {})
    started.stop()
    assert counter.read_text() == "xx"


def test_the_server_is_private(tmp_path):
    environment = Environment(Path("py"), Path("tree"), Path("cache"), "cpu")
    words = server.command(environment, tmp_path, [Path("a.yaml")], 8123)
    assert words[words.index("--listen") + 1] == "127.0.0.1"
    assert words[words.index("--base-directory") + 1] == str(tmp_path)
    assert str(tmp_path) in words[words.index("--database-url") + 1]
    assert {"--disable-api-nodes", "--disable-auto-launch", "--cpu"} <= set(words)
    gpu = Environment(Path("py"), Path("tree"), Path("cache"), "cuda")
    assert "--cpu" not in server.command(gpu, tmp_path, [], 8123)


def test_the_base_folder_holds_the_pack_and_points_to_the_models(tmp_path):
    models = tmp_path / 'odd "name": #1'
    (models / "vae").mkdir(parents=True)
    (models / "notes.txt").write_text("")
    for _ in range(2):  # the folder of `serve` is used again
        settings = server.make_base(tmp_path / "base", {"mini": models})
    assert (tmp_path / "base" / "custom_nodes" / "flexid" / "start.py").exists()
    yaml = pytest.importorskip("yaml")
    read = yaml.safe_load(settings[0].read_text())
    assert read == {"mini": {"base_path": str(models), "vae": "vae"}}


def test_where_links_are_not_allowed_the_pack_is_copied(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no privilege")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    server.link_pack(tmp_path / "flexid")
    assert (tmp_path / "flexid" / "nodes" / "vfa.py").exists()
    assert not (tmp_path / "flexid" / "tests").exists()
    assert not (tmp_path / "flexid" / ".git").exists()


def test_replacing_a_linked_pack_leaves_the_pack_alone(tmp_path):
    server.link_pack(tmp_path / "flexid")
    server.link_pack(tmp_path / "flexid")
    assert (ROOT / "start.py").exists()


def test_the_preferred_port_is_taken_when_free():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        number = taken.getsockname()[1]
        assert server.free_port(number) != number
    assert server.free_port(number) == number


@posix
def test_a_signal_to_the_parent_ends_the_server(tmp_path):
    """What start.py does on Ctrl-C and SIGTERM: the exception passes through `finally`."""
    tree(tmp_path / "tree", ANSWERING.format(extra=""))
    code = f"""
import json, signal, sys, time, types
from pathlib import Path
package = types.ModuleType("flexid"); package.__path__ = [{str(ROOT)!r}]
sys.modules["flexid"] = package
from flexid.setup.environment import Environment
from flexid.setup import server
import flexid.start
signal.signal(signal.SIGTERM, flexid.start._interrupt)
folder = Path({str(tmp_path / "tree")!r})
started = server.start(Environment(Path(sys.executable), folder, folder, "cpu"),
                       Path({str(tmp_path / "base")!r}), {{}})
try:
    print(started.process.pid, flush=True)
    time.sleep(300)
finally:
    started.stop()
"""
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    pid = int(parent.stdout.readline())
    assert alive(pid)
    parent.terminate()
    parent.wait(20)
    assert not alive(pid)


def test_settings_are_readable_back_as_json_strings(tmp_path):
    (tmp_path / "models" / "vae").mkdir(parents=True)
    (path,) = server.make_base(tmp_path / "base", {"mini": tmp_path / "models"})
    line = path.read_text().splitlines()[1]
    assert json.loads(line.split(": ", 1)[1]) == str(tmp_path / "models")
