"""Results that are kept as they come, one line of JSON each, so that an interrupt loses none."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Record = dict[str, Any]


@dataclass(frozen=True)
class Records:
    """What a file of records holds."""

    found: tuple[Record, ...]
    """In the order in which they were written."""
    unreadable: int
    """Lines that hold no JSON object, such as one that a power failure cut."""


def append_record(path: Path, record: Record) -> None:
    """Write one record at the end; nothing that is there is changed. Folders are made.

    Raises OSError, and ValueError for a number that is not finite.
    """
    line = json.dumps(record, ensure_ascii=False, allow_nan=False)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read(1) != b"\n":  # the line before was cut: begin a new one
                line = "\n" + line
        file.write((line + "\n").encode())
        file.flush()
        os.fsync(file.fileno())


def read_records(path: Path) -> Records:
    """All records of a file; none where there is no file. Raises OSError."""
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return Records((), 0)
    found, unreadable = [], 0
    for line in filter(str.strip, text.splitlines()):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if isinstance(record, dict):
            found.append(record)
        else:
            unreadable += 1
    return Records(tuple(found), unreadable)
