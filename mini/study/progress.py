"""How far an evaluation is, for whoever waits for it."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TextIO

QUIET = 30.0
"""Seconds between two lines where nothing can be rewritten."""


class Progress:
    """One line that is rewritten on a terminal; elsewhere a plain line now and then."""

    def __init__(self, title: str, stream: TextIO | None = None) -> None:
        self.title, self.stream = title, stream or sys.stdout
        self.started = self.written = time.monotonic()

    def __enter__(self) -> Progress:
        self._write(f"{self.title} ..." + "\n" * (not self.stream.isatty()))
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self.stream.isatty():
            self._rewrite("")
            self._write("\r")
        verb = "done" if kind is None else "stopped"
        self._write(f"{self.title}: {verb} after {self._seconds():.0f} s\n")

    def note(self, text: str) -> None:
        """Show what was done last."""
        if self.stream.isatty():
            self._rewrite(f"{self.title}  {self._seconds():4.0f} s  {text}")
        elif time.monotonic() - self.written >= QUIET:
            self.written = time.monotonic()
            self._write(f"{self.title}: {self._seconds():.0f} s  {text}\n")

    def _rewrite(self, line: str) -> None:
        width = shutil.get_terminal_size().columns - 1
        self._write("\r" + line[:width].ljust(width))

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()

    def _seconds(self) -> float:
        return time.monotonic() - self.started
