"""Where people are: boxes drawn elsewhere, strips, and what each mode makes of regions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import cast

from .drawn_boxes import read_elements
from .region import Box, BoxRegion, Region, box_region
from .saa_people import Person
from .saa_settings import SaaSettings


def give_boxes(people: Sequence[Person], elements: object) -> list[Person]:
    """The same people with the boxes of core's Create Bounding Boxes (its output `elements`).

    A box whose description holds a person's name is that person's; the others go to those who have
    no region yet, in order. Raises ValueError for what is no box, for two boxes of one name, and
    when boxes are left over.
    """
    boxes = read_elements(elements)
    given: dict[int, Box] = {}
    free = []
    for words, box in boxes:
        named = [
            number
            for number, person in enumerate(people)
            if person.name and person.name.casefold() in words.casefold()
        ]
        if not named:
            free.append(box)
            continue
        # "Ann" is in "Anna", too: the longest name is the one that is meant.
        number = max(named, key=lambda one: len(people[one].name))
        if number in given:
            raise ValueError(
                f"2 boxes are described as '{people[number].name}', expected 1. Change one "
                "description, or remove one of the boxes."
            )
        given[number] = box
    waiting = [
        number
        for number, person in enumerate(people)
        if person.region is None and number not in given
    ]
    if len(free) > len(waiting):
        raise ValueError(
            f"{len(free)} boxes carry nobody's name, and {len(waiting)} people wait for one; "
            f"{len(boxes)} boxes and {len(people)} people came in. Remove boxes, or connect more "
            "people."
        )
    given |= dict(zip(waiting, free, strict=False))
    return [
        replace(person, region=box_region(given[number])) if number in given else person
        for number, person in enumerate(people)
    ]


def place_people(people: Sequence[Person], settings: SaaSettings) -> list[Person]:
    """The people with the regions that count in this mode.

    Raises ValueError for what the published mode cannot take: masks that are no rectangle, and
    boxes that overlap.
    """
    placed = list(people)
    if settings.unplaced == "strips" and all(one.region is None for one in people):
        placed = [
            replace(one, region=box_region(box))
            for one, box in zip(people, strips(len(people)), strict=True)
        ]
    if settings.mode == "corrected":
        return [replace(one, region=None) if _is_whole(one.region) else one for one in placed]
    placed = [replace(one, region=_box_of(one.region)) for one in placed]
    boxes = [cast(BoxRegion, one.region).box for one in placed if one.region is not None]
    shared = [overlap_of(*pair) for pair in combinations(boxes, 2)]
    if settings.activation and any(shared):
        raise ValueError(
            f"Two regions share {max(shared):.2%} of the picture, expected 0 % in mode published, "
            "whose pictures would be black. Move the regions apart, or set mode to corrected."
        )
    return placed


def _is_whole(region: Region | None) -> bool:
    """Whether it covers all of the picture fully, which is no region."""
    return region is not None and bool((region.mask == 1.0).all())


def _box_of(region: Region | None) -> Region | None:
    """The box that a mask is. Raises ValueError for a mask of another form."""
    if region is None or isinstance(region, BoxRegion):
        return region
    if region.is_empty:
        return region
    mask = region.mask[0]
    rows, columns = (mask.amax(dim).nonzero().squeeze(1).tolist() for dim in (1, 0))
    inside = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    if len(region.mask) > 1 or not (inside == 1.0).all():
        raise ValueError(
            f"A mask of {len(region.mask)} picture(s) is no full rectangle (least value inside its "
            f"bounds: {inside.min().item():g}), expected 1 picture and values of 1: mode published "
            "knows boxes only. Set mode to corrected, or draw a box."
        )
    height, width = mask.shape
    down, right = rows[-1] + 1, columns[-1] + 1
    return box_region((rows[0] / height, columns[0] / width, down / height, right / width))


def strips(count: int) -> list[Box]:
    """Equal parts of the picture from left to right."""
    return [(0.0, number / count, 1.0, (number + 1) / count) for number in range(count)]


def overlap_of(one: Box, other: Box) -> float:
    """The share of the picture that lies in both boxes."""
    height = min(one[2], other[2]) - max(one[0], other[0])
    width = min(one[3], other[3]) - max(one[1], other[1])
    return max(height, 0.0) * max(width, 0.0)
