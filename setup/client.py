"""ComfyUI's HTTP interface, as far as queueing a graph and collecting its pictures needs it."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

Graph = dict[str, dict[str, Any]]
POLL = 0.1
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))
"""Loopback never goes through a proxy, whatever http_proxy says."""


class GraphError(RuntimeError):
    """The server refused a graph or a node failed; the message names nodes and reasons."""


class GraphRefused(GraphError):
    """The server did not take the graph at all."""


class Client:
    """One client of one server."""

    def __init__(self, url: str, timeout: float = 60) -> None:
        self.url = url.rstrip("/")
        self.timeout = timeout
        self.id = uuid.uuid4().hex

    def get(self, path: str) -> Any:
        """The JSON answer to a GET."""
        return json.loads(self.read(path))

    def read(self, path: str) -> bytes:
        """The raw answer to a GET."""
        with DIRECT.open(self.url + path, timeout=self.timeout) as answer:
            return answer.read()

    def post(self, path: str, data: Any) -> Any:
        """The JSON answer to a POST of JSON; None for an empty answer."""
        return self._send(path, json.dumps(data).encode(), "application/json")

    def _send(self, path: str, body: bytes, kind: str) -> Any:
        request = urllib.request.Request(self.url + path, body, {"Content-Type": kind})
        with DIRECT.open(request, timeout=self.timeout) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def object_info(self, node: str = "") -> dict[str, Any]:
        """The schema of one node class, or of all."""
        return self.get(f"/object_info/{node}" if node else "/object_info")

    def upload(self, picture: Path, name: str | None = None) -> str:
        """Put a picture into the server's input folder; returns the name to use in LoadImage."""
        boundary = uuid.uuid4().hex
        name = name or picture.name
        quoted = urllib.parse.quote(name, safe=" ()[]")
        head = (
            f'--{boundary}\r\nContent-Disposition: form-data; name="overwrite"\r\n\r\ntrue\r\n'
            f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="{quoted}"'
            "\r\nContent-Type: application/octet-stream\r\n\r\n"
        )
        body = head.encode() + picture.read_bytes() + f"\r\n--{boundary}--\r\n".encode()
        answer = self._send("/upload/image", body, f"multipart/form-data; boundary={boundary}")
        return "/".join(part for part in (answer["subfolder"], answer["name"]) if part)

    def submit(self, graph: Graph) -> str:
        """Queue a graph; returns its id. Raises GraphRefused when any node is."""
        try:
            answer = self.post("/prompt", {"prompt": graph, "client_id": self.id})
        except urllib.error.HTTPError as error:
            raise GraphRefused(refusal(json.loads(error.read()), graph)) from error
        if answer.get("node_errors"):
            self.post("/queue", {"delete": [answer["prompt_id"]]})
            raise GraphRefused(refusal(answer, graph))
        return answer["prompt_id"]

    def wait(
        self, prompt: str, timeout: float = 600, tick: Callable[[], None] | None = None
    ) -> dict[str, Any]:
        """The history entry of a finished graph, whether it succeeded or not."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            history = self.get(f"/history/{prompt}")
            if prompt in history:
                return history[prompt]
            if tick is not None:
                tick()
            time.sleep(POLL)
        raise TimeoutError(f"graph {prompt} did not finish within {timeout:.0f} s")

    def queue(self, graph: Graph, timeout: float = 600) -> dict[str, Any]:
        """Run a graph to its end; returns its history entry. Raises GraphError when it fails."""
        entry = self.wait(self.submit(graph), timeout)
        check(entry)
        return entry

    def pictures(self, entry: dict[str, Any]) -> list[tuple[str, bytes]]:
        """(file name, PNG bytes) of everything that SaveImage wrote."""
        found = []
        for node in sorted(entry["outputs"], key=lambda key: (len(key), key)):
            for image in entry["outputs"][node].get("images", ()):
                if image["type"] == "output":
                    query = urllib.parse.urlencode(image)
                    found.append((image["filename"], self.read(f"/view?{query}")))
        return found


def refusal(answer: dict[str, Any], graph: Graph) -> str:
    """Why the server refused a graph, one line per node and reason."""
    lines = []
    for node, report in (answer.get("node_errors") or {}).items():
        title = graph.get(node, {}).get("_meta", {}).get("title", "")
        for reason in report["errors"]:
            where = f"node {node} ({title or report['class_type']})"
            lines.append(f"{where}: {reason['message']}: {reason['details']}")
    if not lines:
        error = answer.get("error") or {}
        lines = [f"{error.get('message', answer)}: {error.get('details', '')}"]
    return "the server refused the graph:\n" + "\n".join(f"  {line}" for line in lines)


def check(entry: dict[str, Any]) -> None:
    """Raise GraphError unless the graph of this history entry succeeded."""
    status = entry["status"]
    if status["status_str"] == "success":
        return
    for event, data in status["messages"]:
        if event == "execution_error":
            kind = data["exception_type"].rsplit(".")[-1]
            raise GraphError(
                f"node {data['node_id']} ({data['node_type']}) failed: "
                f"{kind}: {data['exception_message'].strip()}"
            )
        if event == "execution_interrupted":
            raise GraphError(f"interrupted at node {data['node_id']} ({data['node_type']})")
    raise GraphError(f"the graph ended as {status['status_str']!r}")
