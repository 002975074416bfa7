"""Where an identity comes from, in plain text: kept in the value and in the saved file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path


@cache
def pack_version() -> str:
    """The pack's version, from its pyproject.toml."""
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^version = "([^"]+)"', text, re.MULTILINE)
    return found[1] if found else "unknown"


def join_distinct(values: Sequence[str]) -> str:
    """Distinct values in order of appearance, comma-separated."""
    return ", ".join(dict.fromkeys(value for value in values if value))


def merge_provenance(parts: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Merge several provenances into one: every key, with its distinct values side by side."""
    keys = dict.fromkeys(key for part in parts for key in part)
    return {key: join_distinct([part.get(key, "") for part in parts]) for key in keys}
