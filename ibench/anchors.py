"""Figures that papers have published, to stand beside the user's. Theirs, not measured here."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

NOTE = (
    "Published by the authors on their own data, models and seeds; not measured here. Two papers "
    "that measured the same method on the same set differ by up to 0.007: smaller differences to "
    "your figures say nothing."
)


@dataclass(frozen=True)
class Anchor:
    """One table of a paper."""

    paper: str
    table: str
    data: str
    columns: tuple[str, ...]
    """As the paper calls them, in one spelling."""
    methods: dict[str, tuple[float | None, ...]]
    """Method -> its figures; None: the paper gives none."""


@cache
def read_anchors() -> tuple[Anchor, ...]:
    """The tables of FlexID, EditIDv2, DynamicID and FlexIP."""
    content = json.loads(Path(__file__).with_name("anchors.json").read_text(encoding="utf-8"))
    return tuple(
        Anchor(
            one["paper"], one["table"], one["data"], tuple(one["columns"]),
            {row["method"]: tuple(row["values"]) for row in one["rows"]},
        )
        for one in content
    )  # fmt: skip
