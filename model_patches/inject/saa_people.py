"""The people of one picture: who, how strongly, when, and where."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from torch import Tensor

from ..files.cache import tensor_key
from ..gates.cag import Knobs, compute_gates
from ..gates.gate import OPEN, Gate, describe_ends
from ..gates.numbers import check_number
from ..identity.identity import Identity
from .region import BoxRegion, Region, region_of

STRONGEST = 5.0
MOST_PEOPLE = 8


@dataclass(frozen=True, eq=False)
class Person:
    """One person of the picture."""

    identity: Identity
    weight: float = 1.0
    """0: this person is left out. 1: as trained."""
    gate: Gate = OPEN
    region: Region | None = None
    """None: the model decides."""
    name: str = ""
    """By which a drawn box is found; may be empty."""

    def key(self) -> str:
        """Digest of all but the identity and the name."""
        region = self.region
        where = "" if region is None else tensor_key(region.mask)
        if isinstance(region, BoxRegion):
            where = repr(region.box)
        return hashlib.sha256(repr((self.weight, self.gate, where)).encode()).hexdigest()


def check_person_weight(weight: float) -> float:
    """The weight, in [0, 5]. Raises ValueError otherwise."""
    return check_number("The weight of a person", weight, 0.0, STRONGEST)


def make_person(
    identity: Identity,
    *,
    weight: float = 1.0,
    mask: Tensor | None = None,
    gate: Gate = OPEN,
    prompt: str = "",
    name: str = "",
) -> Person:
    """A person as the node makes it. mask (H, W) or (B, H, W) in [0, 1] over the picture.

    prompt: what this person does; the intent that CAG reads there loosens the person alone. Raises
    ValueError for a number or mask out of range.
    """
    check_person_weight(weight)
    if prompt.strip():
        gate = gate * compute_gates(prompt, Knobs(w_base=1.0)).visual
    region = None if mask is None else region_of(mask)
    return Person(identity, weight, gate, region, name.strip())


def name_of(person: Person, number: int) -> str:
    """What to call the person at this place in a list, counted from 1."""
    return person.name or f"person {number}"


def describe_person(person: Person, unnamed: str = "a person") -> str:
    """What a person does in the picture, in one line. unnamed: what to call one without a name."""
    who = person.name or unnamed
    if person.weight == 0.0:
        return f"{who}: weight is 0, left out"
    course = f"{who}: weight {describe_ends(person.gate, person.weight)}"
    if person.region is None:
        return f"{course}, no region of their own"
    if person.region.is_empty:
        return f"{course}, but the region is empty: left out"
    return f"{course}, region {100 * person.region.share:.2g} % of the picture"
