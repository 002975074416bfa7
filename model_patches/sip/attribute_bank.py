"""The dictionary of facial attributes: groups of phrases, and the user's overrides."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Literal

View = Literal["head", "face"]
VIEWS: tuple[View, ...] = ("head", "face")


@dataclass(frozen=True)
class Group:
    """Alternative attributes: a face has one of them."""

    id: str
    name: str
    sensitive: bool
    view: View
    """Which picture shows it: the head with its hair, or the face alone."""
    attributes: tuple[tuple[str, str], ...]
    """(short name, phrase that follows "a person")."""

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for name, _ in self.attributes)

    @property
    def phrases(self) -> tuple[str, ...]:
        return tuple(phrase for _, phrase in self.attributes)


@cache
def all_groups() -> tuple[Group, ...]:
    """Every group of attributes.json, in its order."""
    path = Path(__file__).with_name("attributes.json")
    rows = json.loads(path.read_text(encoding="utf-8"))["groups"]
    return tuple(
        Group(
            row["id"], row["name"], row["sensitive"], row["view"], tuple(row["attributes"].items())
        )
        for row in rows
    )


def chosen_groups(ids: Iterable[str]) -> tuple[Group, ...]:
    """The groups with these ids. Raises ValueError for an unknown id or none at all."""
    wanted = set(ids)
    unknown = wanted - {group.id for group in all_groups()}
    if unknown or not wanted:
        raise ValueError(
            f"Attribute groups: {', '.join(sorted(unknown)) or 'none'}; choose at least one of "
            f"{', '.join(group.id for group in all_groups())}."
        )
    return tuple(group for group in all_groups() if group.id in wanted)


def parse_overrides(text: str, groups: Iterable[Group]) -> dict[str, str]:
    """ "hair colour: red; glasses: none" -> {group id: attribute name}; {} when empty.

    Separated by semicolons or new lines. Raises ValueError for what the switched-on groups lack.
    """
    known: Mapping[str, Group] = {
        key: group for group in groups for key in (group.id, group.name.lower())
    }
    found = {}
    for part in (piece.strip() for piece in text.replace("\n", ";").split(";")):
        if not part:
            continue
        name, _, value = (piece.strip().lower() for piece in part.partition(":"))
        group = known.get(name)
        if group is None:
            raise ValueError(
                f"Manual attribute {part!r}: no switched-on group is called {name!r}. Write "
                f"'group: attribute' with one of: {', '.join(sorted(known))}."
            )
        names = {each.lower(): each for each in group.names}
        if value not in names:
            raise ValueError(
                f"Manual attribute {part!r}: {group.name} knows {', '.join(group.names)}, not "
                f"{value!r}."
            )
        found[group.id] = names[value]
    return found
