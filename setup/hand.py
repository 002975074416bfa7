"""`start.py serve`: ComfyUI with the pack, its models and workflows, for use by hand."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import BinaryIO

from .console import Live, end_process, say
from .demo import prepare_photo
from .environment import Environment
from .lock import exclusive
from .machine import clean_environ
from .pins import ROOT
from .server import COLOURS, PACK, Server, command, free_port, make_base, wait_until_answers
from .world import ensure_world

WORKFLOWS = ROOT / "workflows"


def serve(environment: Environment, port: int, existing: bool, extra: list[str]) -> int:
    """Run in the foreground until Ctrl-C. Inputs, outputs and settings stay for the next time."""
    base = environment.cache / "serve"
    with exclusive(environment.cache / "serve.lock", "`start.py serve`", wait=False):
        models = {"flexid_mini": ensure_world(environment)}
        if existing and (environment.tree / "models").is_dir():
            models["existing"] = environment.tree / "models"
        settings = make_base(base, models)
        workflows = _workflows(base)
        portrait = base / "input" / "portrait.png"
        if not portrait.exists():
            prepare_photo(environment, "sample", portrait)
        chosen = free_port(port)
        if port and chosen != port:
            say(f"port {port} is taken; using {chosen}")
        ready = (
            f"ComfyUI:    http://127.0.0.1:{chosen}  (Ctrl-C ends it)",
            f"workflows:  in the page under Workflows > {PACK}; files in {workflows}",
            f"own models: {base / 'models'}",
            f"pictures:   {base / 'output'}",
        )
        words = command(environment, base, settings, chosen, *extra)
        return _foreground(words, base, chosen, "\n".join(ready))


def _workflows(base: Path) -> Path:
    """Put the page-format workflows where ComfyUI's page lists them; the folder."""
    folder = base / "user" / "default" / "workflows" / PACK
    folder.mkdir(parents=True, exist_ok=True)
    for path in WORKFLOWS.glob("*.json"):
        if not path.name.endswith(".api.json"):
            shutil.copy(path, folder)
    return folder


def _foreground(arguments: list[str], base: Path, port: int, ready: str) -> int:
    """Start the server, say `ready` once its page answers, and wait for its end or for Ctrl-C.

    Ctrl-C reaches the server as well: it shares the terminal.
    """
    log = base / "server.log"
    process = subprocess.Popen(
        arguments,
        cwd=base,
        env=clean_environ(PYTHONUNBUFFERED="1"),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    try:
        with Live("starting ComfyUI") as live:
            relay = Relay(process.stdout, log, live)
            relay.start()
            wait_until_answers(Server(process, f"http://127.0.0.1:{port}", base, log))
        say(ready)
        relay.pass_on()
        code = process.wait()
        relay.join()
        return code
    except KeyboardInterrupt:
        return 0
    finally:
        end_process(process)


class Relay(threading.Thread):
    """What the server prints: into a log and on the live line while it starts, then as it comes.

    A thread of its own, because a pipe that nobody reads stops the server.
    """

    def __init__(self, source: BinaryIO, log: Path, live: Live) -> None:
        super().__init__(daemon=True)
        self._source, self._log, self._live = source, log, live
        self._passing = threading.Event()

    def pass_on(self) -> None:
        """From now on, print."""
        self._passing.set()

    def run(self) -> None:
        """Until the server closes its end."""
        with self._log.open("wb") as log:
            while chunk := os.read(self._source.fileno(), 65536):
                if self._passing.is_set():
                    sys.stdout.buffer.write(chunk)
                    sys.stdout.flush()
                else:
                    log.write(chunk)
                    log.flush()
                    self._show(chunk.decode(errors="replace"))

    def _show(self, text: str) -> None:
        lines = [line.strip() for line in COLOURS.sub("", text).split("\n")]
        self._live.detail = next((line for line in reversed(lines) if line), self._live.detail)
