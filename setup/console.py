"""What the user reads: a live clock while waiting, and errors that name the next step."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

TICK = 0.2
QUIET_TICK = 30.0
QUIET_WIDTH = 120
TAIL = 25
GRACE_SECONDS = 5


class SetupError(RuntimeError):
    """Something the user can act on; start.py shows the message without a traceback."""


def say(text: str = "") -> None:
    """Print one line and flush it."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


class Live:
    """One line that is rewritten on a terminal; elsewhere a plain line now and then."""

    def __init__(self, title: str) -> None:
        self.title = title
        self.detail = ""
        self.started = time.monotonic()
        self._terminal = sys.stdout.isatty()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Live:
        if not self._terminal:
            say(f"{self.title} ...")
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._clear()
        say(f"{self.title}: {'done' if kind is None else 'stopped'} after {self.seconds:.0f} s")

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def _run(self) -> None:
        while not self._done.wait(TICK if self._terminal else QUIET_TICK):
            if self._terminal:
                self._draw()
            else:
                say(f"{self.title}: {self.seconds:.0f} s  {self.detail}"[:QUIET_WIDTH].rstrip())

    def _draw(self) -> None:
        width = shutil.get_terminal_size().columns - 1
        line = f"{self.title}  {self.seconds:4.0f} s  {self.detail}"
        sys.stdout.write("\r" + line[:width].ljust(width))
        sys.stdout.flush()

    def _clear(self) -> None:
        if self._terminal:
            sys.stdout.write("\r" + " " * (shutil.get_terminal_size().columns - 1) + "\r")


def run_logged(
    command: Sequence[str | Path],
    log: Path,
    live: Live,
    environ: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> str:
    """Run a command with its output in `log` and its last line on the live line; return the output.

    Raises subprocess.CalledProcessError with the last lines as `output`. The child is ended when
    this function is left early.
    """
    last: deque[str] = deque(maxlen=2000)
    with log.open("a", encoding="utf-8") as file:
        file.write(f"$ {' '.join(map(str, command))}\n")
        with _child(command, environ, cwd) as process:
            for line in process.stdout or ():
                file.write(line)
                last.append(line)
                if line.strip() and not line.startswith("WARNING"):
                    live.detail = line.strip()
    if process.returncode:
        tail = "".join(list(last)[-TAIL:])
        raise subprocess.CalledProcessError(process.returncode, list(map(str, command)), tail)
    return "".join(last)


def run_in_foreground(
    command: Sequence[str], cwd: Path | None = None, environ: Mapping[str, str] | None = None
) -> int:
    """Run a command that shares the terminal, so that Ctrl-C reaches it; its exit code.

    A KeyboardInterrupt goes on once the command has ended, by itself or, after GRACE_SECONDS, by
    force.
    """
    process = subprocess.Popen(command, cwd=cwd, env=environ)
    try:
        return process.wait()
    finally:
        end_process(process)


def end_process(process: subprocess.Popen) -> None:
    """Wait for a process that has been asked to end; after GRACE_SECONDS each, ask and kill it."""
    for end in (process.terminate, process.kill):
        with suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_SECONDS)
        if process.poll() is None:
            end()
    process.wait()


@contextmanager
def _child(
    command: Sequence[str | Path], environ: Mapping[str, str] | None, cwd: Path | None
) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        list(map(str, command)),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=dict(os.environ if environ is None else environ),
        cwd=cwd,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    try:
        yield process
        process.wait()
    finally:
        if process.poll() is None:
            process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
        if process.stdout:
            process.stdout.close()
        process.wait()
