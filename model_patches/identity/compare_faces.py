"""Two faces of one person: how alike they are, and how far head, landmarks and expression moved."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from ..evaluate.copy_paste import copy_paste
from ..evaluate.expression import expression_change
from ..evaluate.landmarks import (
    POINTS,
    five_points,
    landmark_diff,
    landmark_diff_sim,
    shape_change,
)
from ..evaluate.likeness import SeenFace, choose_seen
from ..evaluate.measures import cosine
from ..evaluate.modes import COMPAT, CORRECTED, Mode
from ..evaluate.outcomes import NO_FACE_GENERATED, UNDEFINED, Outcome, failed, valid
from ..evaluate.pose import axis_changes, pose_change
from ..evaluate.who import assign_people
from ..face.angles import rotation
from ..face.face import Face
from ..face.mesh import Mesh

POSE, LANDMARKS, SHAPE, EXPRESSION = CHANGES = ("pose", "landmarks", "shape", "expression")


@dataclass(frozen=True, eq=False)
class Seen:
    """One face of a picture."""

    face: Face
    mesh: Mesh | None = None

    @property
    def embedding(self) -> Tensor:
        assert self.face.embedding is not None  # the analyser was checked for a recogniser
        return self.face.embedding.double()


@dataclass(frozen=True, eq=False)
class Known:
    """A person to compare with."""

    name: str
    embedding: Tensor
    """(D,)"""
    seen: Seen | None = None
    """The face of the reference photo; None for an identity, which knows no pose."""
    other: Tensor | None = None
    """(D,) of another photo of the person."""


def choose_faces(
    faces: Sequence[Seen], people: Sequence[Known], mode: Mode = CORRECTED
) -> list[Seen | None]:
    """Each person's face in one picture.

    Of one person: the face most like them, or the largest where none reaches a cosine of 0.2;
    compat: the one that the detector is surest of. Of several: as `assign_people` says.
    """
    if len(people) == 1:
        reports = [SeenFace(one.embedding, one.face.score, _area(one.face)) for one in faces]
        index = choose_seen(people[0].embedding, reports, mode)
        return [None if index is None else faces[index]]
    alike = [[cosine(person.embedding, one.embedding) for one in faces] for person in people]
    return [None if index is None else faces[index] for index in assign_people(alike)]


def _area(face: Face) -> float:
    x0, y0, x1, y1 = face.box
    return (x1 - x0) * (y1 - y0)


def measure_likeness(person: Known, mine: Seen | None) -> Outcome:
    """Cosine to the person."""
    if mine is None:
        return failed(NO_FACE_GENERATED)
    return valid(cosine(person.embedding, mine.embedding))


def measure_copying(person: Known, mine: Seen | None, mode: Mode = CORRECTED) -> Outcome:
    """Copy-Paste between the reference and the other photo; undefined where both are one."""
    if mine is None or person.other is None:
        return failed(NO_FACE_GENERATED)
    return valid(copy_paste(mine.embedding, person.other, person.embedding, mode))


def measure_changes(
    one: Seen, other: Seen | None, with_mesh: bool, mode: Mode = CORRECTED
) -> dict[str, Outcome]:
    """POSE, and with a landmarker the other CHANGES.

    compat: LANDMARKS is IBench's LandmarkDiff of the detector's own five points, which needs no
    landmarker.
    """
    values = {POSE: measure_turn(one, other, with_mesh)}
    if mode == COMPAT:
        values[LANDMARKS] = _measure_detector_points(one, other)
    if not with_mesh:
        return values
    if other is None or one.mesh is None or other.mesh is None:
        missing = {name: failed(NO_FACE_GENERATED) for name in CHANGES}
        return missing | values
    first, second = one.mesh, other.mesh
    moved = landmark_diff_sim(five_points(first.points), five_points(second.points))
    return (
        {LANDMARKS: valid(moved)}
        | values
        | {
            SHAPE: valid(shape_change(first.solid, second.solid)),
            EXPRESSION: valid(expression_change(first.blendshapes, second.blendshapes)),
        }
    )


def _measure_detector_points(one: Seen, other: Seen | None) -> Outcome:
    if other is None:
        return failed(NO_FACE_GENERATED)
    names = [str(name) for name in POINTS]
    first, second = (
        dict(zip(names, seen.face.points.tolist(), strict=True)) for seen in (one, other)
    )
    return valid(landmark_diff(first, second, COMPAT))


def measure_turn(one: Seen | None, other: Seen | None, with_mesh: bool) -> Outcome:
    """Angle in degrees of the turn between two heads: the landmarker's, or by five points."""
    if one is None or other is None:
        return failed(NO_FACE_GENERATED)
    heads = []
    for seen in (one, other):
        if with_mesh and seen.mesh is None:
            return failed(NO_FACE_GENERATED)
        heads.append(seen.mesh.pose if with_mesh and seen.mesh else rotation(*seen.face.angles))
    try:
        return valid(pose_change(*heads))
    except ValueError:  # a mesh that is flat or mirrored has no pose
        return failed(UNDEFINED)


def measure_axes(
    one: Seen | None, other: Seen | None, mode: Mode = CORRECTED
) -> tuple[float, float, float] | None:
    """Yaw, pitch and roll by five points: by how many degrees each differs."""
    if one is None or other is None:
        return None
    return axis_changes(one.face.angles, other.face.angles, mode)
