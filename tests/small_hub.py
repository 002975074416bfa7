"""A Hugging Face Hub on 127.0.0.1, as far as huggingface_hub needs it to fetch a file.

Files are answered as the real hub answers large ones: /resolve/ redirects to another host and
states size and SHA-256 in headers; the other host serves ranges. Anything under /releases/ is
served directly. Faults are switched on by attributes.
"""

from __future__ import annotations

import hashlib
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c0ffee" * 6 + "abcd"
RESOLVE = re.compile(r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)")
BLOCK = 64 << 10


@dataclass
class Request:
    """One request that came."""

    method: str
    path: str
    host: str
    range: str
    authorization: str


@dataclass
class SmallHub:
    """What is served, what goes wrong, and what was asked for."""

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    """By "owner/name/path", or by a path that begins with "/releases/"."""
    gated: dict[str, int] = field(default_factory=dict)
    """Status for repositories whose terms have to be accepted."""
    cuts: list[int] = field(default_factory=list)
    """Bytes after which the next downloads end, one each."""
    damage: bool = False
    """Serve other bytes than the headers promise."""
    ignores_range: bool = False
    seconds_per_block: float = 0.0
    requests: list[Request] = field(default_factory=list)

    def add(self, name: str, content: bytes) -> str:
        """Serve a file; its SHA-256."""
        self.files[name] = content
        return sha256(content)

    def downloads(self) -> list[str]:
        """The Range header of each request for bytes; empty for a whole file."""
        return [
            one.range
            for one in self.requests
            if one.method == "GET" and "/resolve/" not in one.path
        ]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@contextmanager
def serve_hub() -> Iterator[SmallHub]:
    """A running hub; `hub.url` is for HF_ENDPOINT."""
    hub = SmallHub()
    server = QuietServer(("127.0.0.1", 0), type("Handler", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class QuietServer(ThreadingHTTPServer):
    """Clients that go away in the middle are what these tests are about."""

    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        pass


class Handler(BaseHTTPRequestHandler):
    """Answers for the hub that its subclass names."""

    hub: SmallHub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def log_message(self, format: str, *arguments: object) -> None:
        """Stay silent; `requests` is the log."""

    def _answer(self) -> None:
        header = self.headers.get
        self.hub.requests.append(
            Request(
                self.command,
                self.path,
                header("Host", ""),
                header("Range", ""),
                header("Authorization", ""),
            )
        )
        found = RESOLVE.fullmatch(self.path)
        if found:
            self._resolve(found["repo"], found["path"])
        elif self.path.startswith("/bytes/"):
            self._send_bytes(self.hub.files.get(self.path.removeprefix("/bytes/")))
        else:
            self._send_bytes(self.hub.files.get(self.path))

    def _resolve(self, repo: str, path: str) -> None:
        if repo in self.hub.gated:
            self._refuse(self.hub.gated[repo], "GatedRepo")
            return
        name = f"{repo}/{path}"
        if name not in self.hub.files:
            known = any(other.startswith(f"{repo}/") for other in self.hub.files)
            self._refuse(404, "EntryNotFound" if known else "RepoNotFound")
            return
        content = self.hub.files[name]
        self.send_response(302)
        self.send_header(
            "Location", f"{self.hub.url.replace('127.0.0.1', 'localhost')}/bytes/{name}"
        )
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("X-Linked-Etag", f'"{sha256(content)}"')
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _refuse(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Error-Message", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _send_bytes(self, content: bytes | None) -> None:
        if content is None:
            self._refuse(404, "EntryNotFound")
            return
        if self.hub.damage:
            content = bytes(len(content))
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(asked[1]) if asked and not self.hub.ignores_range else 0
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.command == "GET":
            self._write(content[start:])

    def _write(self, content: bytes) -> None:
        end = self.hub.cuts.pop(0) if self.hub.cuts else len(content)
        try:
            for begin in range(0, min(end, len(content)), BLOCK):
                self.wfile.write(content[begin : min(begin + BLOCK, end)])
                time.sleep(self.hub.seconds_per_block)
        except (BrokenPipeError, ConnectionResetError):
            pass
        if end < len(content):
            self.close_connection = True
