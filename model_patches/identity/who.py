"""Which person is where in a finished picture, and how alike: by the recogniser that made them."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..evaluate.likeness import ALIKE, mean_reference
from ..evaluate.measures import cosine
from ..evaluate.who import assign_people
from ..face.analyser import FaceAnalyser
from ..face.boxes import Box
from ..face.choose import COVERED, share_in_mask
from ..face.detect import Detected, detect_everybody
from ..face.face import Face
from ..face.overlay import DIM, Mark, draw_marks
from .identity import Identity

LABEL = "Who Is Where"
COLOURS = (
    (86, 180, 233), (230, 159, 0), (0, 200, 140), (240, 228, 66),
    (204, 121, 167), (213, 94, 0), (120, 140, 255), (255, 150, 150),
)  # fmt: skip
"""Of the people, in their order; told apart with most kinds of colour vision."""
COLUMNS = ("picture", "person", "verdict", "likeness", "x0", "y0", "x1", "y1", "share in region")
IN_PLACE, FOUND, OUTSIDE, MISSING = "in place", "found", "outside of their region", "missing"


@dataclass(frozen=True, eq=False)
class Wanted:
    """One person who should be in the picture."""

    name: str
    """May be empty."""
    identity: Identity
    mask: Tensor | None = None
    """(B, H, W) from 0 to 1, where the person should be; None: anywhere."""


@dataclass(frozen=True)
class Sighting:
    """One person in one picture."""

    picture: int
    person: int
    verdict: str
    likeness: float | None = None
    """Cosine to the face that was found; None without one."""
    box: Box | None = None
    share: float | None = None
    """Of the face that lies in the person's region; None without a region."""


@dataclass(frozen=True, eq=False)
class WhoIsWhere:
    """What `look_who` found."""

    sightings: tuple[Sighting, ...]
    overlay: Tensor
    """(B, h, w, 3) in [0, 1]: regions thin, faces thick, in each person's colour."""
    report: str
    table: str
    """CSV of COLUMNS, one line for each picture and person."""

    @property
    def all_well(self) -> bool:
        """Everybody is in every picture, and where they should be."""
        return all(one.verdict in (IN_PLACE, FOUND) for one in self.sightings)


@dataclass(frozen=True, eq=False)
class _Scene:
    """One picture, and who was found in it."""

    number: int
    size: tuple[int, int]
    faces: Sequence[Face]
    alike: Sequence[Sequence[float]]
    """(people, faces)."""
    found: Sequence[int | None]
    shares: Sequence[Sequence[float | None]]
    """(people, faces): of each face in each region."""


def look_who(analyser: FaceAnalyser, images: Tensor, people: Sequence[Wanted]) -> WhoIsWhere:
    """images (B, H, W, C) in [0, 1]. A face counts as a person from a cosine of 0.2.

    Raises ValueError when the analyser has no recogniser, or an identity none of its embeddings.
    """
    names = [one.name or f"person {number}" for number, one in enumerate(people, 1)]
    references = [
        read_reference(analyser, name, one.identity)
        for name, one in zip(names, people, strict=True)
    ]
    detected = detect_everybody(analyser, images)
    sightings: list[Sighting] = []
    lines: list[str] = []
    pictures = []
    for number in range(len(images)):
        scene = _see(number, detected, references, people)
        here = [_judge(scene, person, names) for person in range(len(people))]
        sightings += here
        lines += _describe(scene, here, names)
        pictures.append(draw_marks(images[number], _mark(scene, here, people, names)))
    if not any(len(photo.detections) for photo in detected.photos):
        lines.append(f"No face was found by {analyser.detector.name}.")
    lines.append(f"Likeness: cosine of the recogniser's embeddings; the person from {ALIKE:g}.")
    overlay = torch.stack(pictures)
    return WhoIsWhere(tuple(sightings), overlay, "\n".join(lines), _write_csv(sightings, names))


def read_reference(
    analyser: FaceAnalyser, name: str, identity: Identity, label: str = LABEL
) -> Tensor:
    """The mean of a person's unit embeddings. label: the node that asks, for messages.

    Raises ValueError when the analyser has no recogniser, or the identity none of its embeddings.
    """
    if analyser.recogniser is None:
        raise ValueError(
            f"{label} compares faces, and the face analyser has 0 recognisers, expected 1. Open "
            "the pack that the identities were made with in Load Face Analyser."
        )
    rows = identity.features.get("arcface")
    if rows is None or not len(rows):
        raise ValueError(
            f"The identity of {name} holds 0 of the recogniser's embeddings, expected at least 1. "
            "Encode the photo again, with colours set to corrected; Save Identity keeps it with "
            "with_features on."
        )
    made, ours = identity.provenance.get("recogniser", ""), analyser.recogniser.name
    if made and made != ours:
        raise ValueError(
            f"The identity of {name} was made with the recogniser {made}, the face analyser has "
            f"{ours}, whose embeddings cannot be compared. Open the same pack in Load Face "
            "Analyser."
        )
    return mean_reference(list(rows))


def _see(
    number: int, detected: Detected, references: Sequence[Tensor], people: Sequence[Wanted]
) -> _Scene:
    size = detected.photos[number].size
    faces = [face for face in detected.faces if face.photo == number]
    embeddings = [face.embedding.double() for face in faces if face.embedding is not None]
    alike = [[cosine(reference, one) for one in embeddings] for reference in references]
    shares = [
        [
            None
            if one.mask is None
            else share_in_mask(face.box, one.mask[number % len(one.mask)], size)
            for face in faces
        ]
        for one in people
    ]
    return _Scene(number, size, faces, alike, assign_people(alike), shares)


def _judge(scene: _Scene, person: int, names: Sequence[str]) -> Sighting:
    face = scene.found[person]
    if face is None:
        return Sighting(scene.number, person, MISSING)
    share = scene.shares[person][face]
    verdict = FOUND if share is None else IN_PLACE
    if share is not None and share < COVERED:
        others = [
            (there, name)
            for number, name in enumerate(names)
            if number != person
            and (there := scene.shares[number][face]) is not None
            and there >= COVERED
        ]
        verdict = f"in the place of {max(others)[1]}" if others else OUTSIDE
    likeness = scene.alike[person][face]
    return Sighting(scene.number, person, verdict, likeness, scene.faces[face].box, share)


def _describe(scene: _Scene, here: Sequence[Sighting], names: Sequence[str]) -> list[str]:
    present = sum(one.verdict != MISSING for one in here)
    lines = [
        f"Picture {scene.number + 1}: {present} of {len(names)} people found, "
        f"{len(scene.faces)} face(s)"
    ]
    for name, one in zip(names, here, strict=True):
        if one.likeness is None:
            lines.append(f"  {name}: {MISSING}{_who_instead(scene, one.person, names)}")
        else:
            lines.append(f"  {name}: {one.verdict}, likeness {one.likeness:.2f}")
    for face in range(len(scene.faces)):
        if face not in scene.found and names:
            value, name = max(
                (scene.alike[number][face], name) for number, name in enumerate(names)
            )
            known = f"{name} once more" if value >= ALIKE else f"nobody of these, most like {name}"
            lines.append(f"  one more face: {known}, likeness {value:.2f}")
    return lines


def _who_instead(scene: _Scene, person: int, names: Sequence[str]) -> str:
    """Whose face lies in the region of a person who is missing."""
    inside = [
        (share, face)
        for face, share in enumerate(scene.shares[person])
        if share is not None and share >= COVERED
    ]
    if not inside:
        return ""
    face = max(inside)[1]
    other = scene.found.index(face) if face in scene.found else None
    who = "somebody else" if other is None else names[other]
    return f"; their region shows {who}, like them by {scene.alike[person][face]:.2f}"


def _mark(
    scene: _Scene, here: Sequence[Sighting], people: Sequence[Wanted], names: Sequence[str]
) -> list[Mark]:
    marks = [
        Mark(face.box, "?", DIM)
        for number, face in enumerate(scene.faces)
        if number not in scene.found
    ]
    for number, (one, wanted) in enumerate(zip(here, people, strict=True)):
        name, colour = names[number], COLOURS[number % len(COLOURS)]
        label = name if name.isascii() else f"person {number + 1}"
        region = None if wanted.mask is None else _bounds(wanted.mask, scene)
        if region is not None:
            missing = f"{label}: {MISSING}" if one.box is None else ""
            marks.append(Mark(region, missing, colour, thin=True))
        if one.box is not None:
            marks.append(Mark(one.box, f"{label} {one.likeness:.2f}", colour))
    return marks


def _bounds(mask: Tensor, scene: _Scene) -> Box | None:
    """The box around a region in pixels; None for an empty one."""
    here = mask[scene.number % len(mask)] > 0
    if not here.any():
        return None
    rows, columns = (here.any(dim).nonzero().flatten() for dim in (1, 0))
    across, down = scene.size[0] / here.shape[1], scene.size[1] / here.shape[0]
    return (
        columns[0].item() * across,
        rows[0].item() * down,
        (columns[-1].item() + 1) * across - 1,
        (rows[-1].item() + 1) * down - 1,
    )


def _write_csv(sightings: Sequence[Sighting], names: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for one in sightings:
        likeness = "" if one.likeness is None else f"{one.likeness:.4f}"
        box = [round(value) for value in one.box] if one.box else [""] * 4
        share = "" if one.share is None else f"{one.share:.2f}"
        row = (one.picture + 1, names[one.person], one.verdict, likeness, *box, share)
        writer.writerow(row)
    return text.getvalue()
