"""ComfyUI's progress events over its WebSocket, with the standard library only."""

from __future__ import annotations

import base64
import json
import os
import socket
import struct
import threading
import urllib.parse
from collections.abc import Callable
from typing import Any

TEXT, CLOSE, PING, PONG = 0x1, 0x8, 0x9, 0xA
Handler = Callable[[str, dict[str, Any]], None]


class Events:
    """Calls `handler(type, data)` for every event of one client, in a thread, until closed.

    Progress only: when the connection breaks, events stop and nothing else does.
    """

    def __init__(self, url: str, client: str, handler: Handler) -> None:
        address = urllib.parse.urlsplit(url)
        self._handler = handler
        self._socket = socket.create_connection((address.hostname, address.port), timeout=30)
        self._stream = self._socket.makefile("rb")
        self._upgrade(f"{address.hostname}:{address.port}", client)
        self._socket.settimeout(None)
        threading.Thread(target=self._listen, daemon=True).start()

    def _upgrade(self, host: str, client: str) -> None:
        key = base64.b64encode(os.urandom(16)).decode()
        self._socket.sendall(
            f"GET /ws?clientId={client} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\n"
            f"Connection: Upgrade\r\nSec-WebSocket-Key: {key}\r\n"
            "Sec-WebSocket-Version: 13\r\n\r\n".encode()
        )
        status = self._stream.readline().decode()
        if " 101 " not in status:
            self.close()
            raise ConnectionError(f"the server did not open a WebSocket: {status.strip()}")
        while self._stream.readline().strip():
            pass

    def close(self) -> None:
        """Stop listening."""
        try:
            self._socket.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass
        self._socket.close()

    def _listen(self) -> None:
        try:
            while True:
                kind, payload = self._frame()
                if kind == CLOSE:
                    return
                if kind == PING:
                    self._pong(payload)
                elif kind == TEXT:
                    event = json.loads(payload)
                    self._handler(event["type"], event.get("data") or {})
        except (OSError, ValueError, EOFError):
            return

    def _read(self, count: int) -> bytes:
        data = self._stream.read(count)
        if len(data) != count:
            raise EOFError
        return data

    def _frame(self) -> tuple[int, bytes]:
        """One frame's type and payload. The server neither masks nor splits its messages."""
        first, length = self._read(2)
        if length == 126:
            (length,) = struct.unpack(">H", self._read(2))
        elif length == 127:
            (length,) = struct.unpack(">Q", self._read(8))
        return first & 0xF, self._read(length)

    def _pong(self, payload: bytes) -> None:
        mask = os.urandom(4)
        masked = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
        header = bytes([0x80 | PONG, 0x80 | len(payload)])
        self._socket.sendall(header + mask + masked)
