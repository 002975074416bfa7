"""The API client against a server that answers as ComfyUI does, and what it says about failures."""

import base64
import http.server
import json
import struct
import threading

import pytest
from flexid.setup.client import Client, GraphError, check, refusal
from flexid.setup.events import Events

pytestmark = pytest.mark.pure

GRAPH = {"3": {"class_type": "KSampler", "inputs": {}, "_meta": {"title": "Paint"}}}
REFUSED = {
    "error": {"message": "Prompt outputs failed validation", "details": ""},
    "node_errors": {
        "3": {
            "class_type": "KSampler",
            "errors": [{"message": "Value not in list", "details": "sampler_name: 'x'"}],
        }
    },
}
DONE = {"status": {"status_str": "success", "messages": []}, "outputs": {}}


class Stub(http.server.BaseHTTPRequestHandler):
    """Answers from `answers`; keeps what was posted under `posted`."""

    answers: dict = {}
    posted: list = []

    def _reply(self):
        status, body = self.answers.get(self.path.split("?")[0], (404, b""))
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = _reply

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.posted.append((self.path, self.headers["Content-Type"], body))
        self._reply()

    def log_message(self, *_):
        pass


@pytest.fixture
def stub():
    kind = type("Own", (Stub,), {"answers": {}, "posted": []})
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), kind)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    kind.client = Client(f"http://127.0.0.1:{running.server_port}")
    yield kind
    running.shutdown()
    running.server_close()


def test_a_graph_is_queued_and_its_pictures_fetched(stub):
    image = {"filename": "a.png", "subfolder": "", "type": "output"}
    preview = image | {"type": "temp"}
    entry = DONE | {"outputs": {"9": {"images": [image, preview]}, "2": {"text": ["x"]}}}
    stub.answers["/prompt"] = (200, {"prompt_id": "id", "node_errors": {}})
    stub.answers["/history/id"] = (200, {"id": entry})
    stub.answers["/view"] = (200, b"PNG")
    finished = stub.client.queue(GRAPH)
    assert stub.client.pictures(finished) == [("a.png", b"PNG")]
    sent = json.loads(stub.posted[0][2])
    assert sent["prompt"] == GRAPH and sent["client_id"] == stub.client.id


def test_a_refused_graph_names_node_title_and_reason(stub):
    stub.answers["/prompt"] = (400, REFUSED)
    with pytest.raises(GraphError, match=r"node 3 \(Paint\): Value not in list: sampler_name"):
        stub.client.submit(GRAPH)


def test_a_graph_of_which_a_part_is_refused_does_not_run(stub):
    """ComfyUI answers 200 and runs the rest; half a result must not look like a whole one."""
    stub.answers["/prompt"] = (200, REFUSED | {"prompt_id": "id"})
    stub.answers["/queue"] = (200, b"")
    with pytest.raises(GraphError, match="Value not in list"):
        stub.client.submit(GRAPH)
    assert json.loads(stub.posted[-1][2]) == {"delete": ["id"]}


def test_a_refusal_without_nodes_still_says_something():
    text = refusal({"error": {"message": "Cannot execute", "details": "no class"}}, GRAPH)
    assert "Cannot execute: no class" in text


def failed(event, **data):
    data = {"node_id": "3", "node_type": "KSampler"} | data
    return {"status": {"status_str": "error", "messages": [["start", {}], [event, data]]}}


def test_a_failed_node_is_named_with_its_error():
    error = {"exception_type": "builtins.ValueError", "exception_message": "no face\n"}
    with pytest.raises(GraphError, match=r"node 3 \(KSampler\) failed: ValueError: no face$"):
        check(failed("execution_error", **error))
    with pytest.raises(GraphError, match="interrupted at node 3"):
        check(failed("execution_interrupted"))
    with pytest.raises(GraphError, match="'strange'"):
        check({"status": {"status_str": "strange", "messages": []}})
    check(DONE)


def test_a_proxy_is_not_asked_for_loopback(stub, monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    stub.answers["/system_stats"] = (200, {"up": True})
    assert stub.client.get("/system_stats") == {"up": True}


def test_waiting_ends(stub):
    stub.answers["/history/id"] = (200, {})
    with pytest.raises(TimeoutError, match="id did not finish"):
        stub.client.wait("id", timeout=0.3)


def test_an_upload_carries_the_bytes_and_survives_odd_names(stub, tmp_path):
    picture = tmp_path / 'a "b".png'
    picture.write_bytes(bytes(range(256)))
    stub.answers["/upload/image"] = (200, {"name": "x.png", "subfolder": "in", "type": "input"})
    assert stub.client.upload(picture) == "in/x.png"
    _, kind, body = stub.posted[0]
    assert bytes(range(256)) in body and b'filename="a %22b%22.png"' in body
    assert body.rstrip().endswith(kind.split("boundary=")[1].encode() + b"--")


def frame(kind, payload):
    size = len(payload)
    if size < 126:
        return bytes([0x80 | kind, size]) + payload
    return bytes([0x80 | kind, 126]) + struct.pack(">H", size) + payload


class Socket(http.server.BaseHTTPRequestHandler):
    """Opens a WebSocket, pings, sends two events and closes."""

    pongs: list = []

    def do_GET(self):
        assert len(base64.b64decode(self.headers["Sec-WebSocket-Key"])) == 16
        self.send_response(101)
        self.end_headers()
        long = json.dumps({"type": "progress", "data": {"text": "x" * 500}}).encode()
        self.wfile.write(frame(0x9, b"hello") + frame(0x1, b'{"type": "status"}'))
        self.wfile.write(frame(0x2, b"binary preview") + frame(0x1, long) + frame(0x8, b""))
        header = self.rfile.read(2)
        mask, masked = self.rfile.read(4), self.rfile.read(header[1] & 0x7F)
        self.pongs.append(bytes(b ^ mask[i % 4] for i, b in enumerate(masked)))
        self.close_connection = True

    def log_message(self, *_):
        pass


def test_events_arrive_and_pings_are_answered():
    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Socket)
    threading.Thread(target=running.serve_forever, daemon=True).start()
    got, done = [], threading.Event()

    def note(kind, data):
        got.append((kind, len(data.get("text", ""))))
        if kind == "progress":
            done.set()

    events = Events(f"http://127.0.0.1:{running.server_port}", "me", note)
    assert done.wait(10)
    events.close()
    running.shutdown()
    running.server_close()
    assert got == [("status", 0), ("progress", 500)]
    assert Socket.pongs == [b"hello"]


def test_a_server_without_websocket_is_reported(stub):
    with pytest.raises(ConnectionError, match="404"):
        Events(stub.client.url, "me", print)
