"""Is it still the person, and how freely did the picture change: figures of finished pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from ..evaluate.likeness import mean_reference
from ..evaluate.measures import disruption
from ..evaluate.modes import COMPAT, CORRECTED, Mode, check_mode
from ..evaluate.outcomes import UNDEFINED, Outcome, failed, valid
from ..face.analyser import FaceAnalyser
from ..face.boxes import Box
from ..face.choose import FaceChoice
from ..face.detect import detect_everybody, detect_faces
from ..face.face import Face
from ..face.mesh import MeshFinder, mesh_in
from ..face.pixels import check_images, to_uint8
from .compare_faces import (
    CHANGES,
    EXPRESSION,
    LANDMARKS,
    POSE,
    SHAPE,
    Known,
    Seen,
    choose_faces,
    measure_axes,
    measure_changes,
    measure_copying,
    measure_likeness,
    measure_turn,
)
from .compare_prompt import CLIP_PLAIN, PLAIN_PROMPT, PROMPT, SENTENCES, PromptText, measure_prompt
from .identity import Identity
from .who import read_reference

LABEL = "Compare Identity"
LIKENESS, PLAIN_LIKENESS, GAIN = "likeness", "plain_likeness", "gain"
COPY_PASTE, FROM_PLAIN, OUTSIDE = "copy_paste", "pose_from_plain", "outside"
MEASURES: dict[str, str] = {
    LIKENESS: "likeness",
    PLAIN_LIKENESS: "likeness of the plain picture",
    GAIN: "likeness gained over the plain picture",
    POSE: "pose change (degrees)",
    LANDMARKS: "landmark change",
    SHAPE: "shape change (pupil distances)",
    EXPRESSION: "expression change",
    **{f"plain_{name}": f"{name} change of the plain picture" for name in CHANGES},
    FROM_PLAIN: "pose change from the plain picture (degrees)",
    OUTSIDE: "change outside the faces",
    COPY_PASTE: "copy-paste",
    PROMPT: "prompt alignment",
    SENTENCES: "prompt alignment by sentence",
    PLAIN_PROMPT: "prompt alignment of the plain picture",
    CLIP_PLAIN: "likeness of the whole picture to the plain one (CLIP)",
}
"""Key -> what it is called, in the order of the table."""
Watch = Callable[[int, int], None]
"""Called after each picture with how many are done and how many there are; it may raise."""


@dataclass(frozen=True)
class Row:
    """One person in one picture."""

    picture: int
    person: str
    faces: int
    """In the picture, whoever they are."""
    values: Mapping[str, Outcome]
    """Measures that were taken; what is left out has no entry."""
    turns: tuple[float, float, float] | None = None
    """Yaw, pitch and roll, by how many degrees they differ from the reference."""
    seen: tuple[Seen | None, ...] = ()
    """The person's face in the picture, and in the plain one where there is one."""


@dataclass(frozen=True)
class Comparison:
    """What `compare_identity` found."""

    rows: tuple[Row, ...]
    """By picture, then by person."""
    people: tuple[str, ...]
    left_out: Mapping[str, str] = field(default_factory=dict)
    """What was not measured -> what it lacks, and where that comes from."""
    mode: Mode = CORRECTED

    def outcomes(self, measure: str) -> list[Outcome]:
        """Of all rows, in their order; empty where the measure is left out."""
        return [row.values[measure] for row in self.rows if measure in row.values]


def know_by_photos(
    analyser: FaceAnalyser,
    photos: Tensor,
    finder: MeshFinder | None = None,
    mode: Mode = CORRECTED,
) -> Known:
    """One person by their photos (B, H, W, C): the largest face of each, pose of the first.

    compat: of each the face that the detector is surest of.

    Raises ValueError for unusable pixels, a photo without a face, no recogniser, or a first
    photo in which the landmarker sees no face.
    """
    _need_recogniser(analyser)
    faces = _find_faces(analyser, photos, "The reference", mode)
    mesh = mesh_in(faces[0].box, finder.find(to_uint8(photos[0]))) if finder else None
    if finder and mesh is None:
        raise ValueError(
            f"The landmarker finds 0 faces where {analyser.detector.name} finds one in reference "
            "photo 1, expected 1. Put another photo first, or leave landmarker unconnected."
        )
    seen = Seen(faces[0], mesh)
    embedding = mean_reference([Seen(face).embedding for face in faces])
    return Known("reference", embedding, seen)


def know_by_identity(analyser: FaceAnalyser, name: str, identity: Identity) -> Known:
    """One person by the recogniser's embeddings in an identity. Raises ValueError without any."""
    return Known(name, read_reference(analyser, name, identity, LABEL))


def embed_photos(analyser: FaceAnalyser, photos: Tensor) -> Tensor:
    """(D,): mean over the largest faces of other photos of the person."""
    _need_recogniser(analyser)
    faces = _find_faces(analyser, photos, "The other photo", CORRECTED)
    return mean_reference([Seen(face).embedding for face in faces])


def add_other(person: Known, other: Tensor) -> Known:
    """The person with the embedding (D,) of another photo. Raises ValueError for another width."""
    if person.embedding.shape != other.shape:
        raise ValueError(
            f"the person has embeddings of {len(person.embedding)} numbers and the other photo of "
            f"{len(other)}; use one recogniser for both"
        )
    return replace(person, other=other)


def compare_identity(
    analyser: FaceAnalyser,
    images: Tensor,
    people: Sequence[Known],
    plain: Tensor | None = None,
    finder: MeshFinder | None = None,
    watch: Watch | None = None,
    asked: PromptText | None = None,
    mode: Mode = CORRECTED,
) -> Comparison:
    """images (B, H, W, C) in [0, 1]; plain: as many of the same size, painted without identity.

    With one person, the face most like them counts, or the largest where none reaches a cosine of
    0.2. With several, each face is at most one person's. Head angles are those of the landmarker
    where there is one, and of five points otherwise. asked: the prompt, for its alignment. mode:
    compat takes the faces, points and pixels that IBench takes. Raises ValueError for no person,
    unequal numbers or sizes, and pixels that are not finite.
    """
    check_mode(mode)
    if not people:
        raise ValueError(
            f"{LABEL} has 0 people to compare with, expected 1 or more. Connect a reference photo, "
            "or an identity."
        )
    _need_recogniser(analyser)
    _check_pixels(images, "images")
    if plain is not None:
        _check_pixels(plain, "plain")
        _check_pairs(images, plain)
    batches = [images] if plain is None else [images, plain]
    rows: list[Row] = []
    for number in range(len(images)):
        looks = []
        for step, pictures in enumerate(batches, 1):
            looks.append(_look(analyser, pictures, number, finder))
            if watch is not None:
                watch(len(batches) * number + step, len(batches) * len(images))
        pair = [to_uint8(pictures[number]) for pictures in batches]
        shared = measure_prompt(asked, pair, mode) if asked else {}
        whole = _Pictures(number, looks, pair, shared, finder is not None, mode)
        rows += _compare_picture(whole, people)
    names = tuple(one.name for one in people)
    return Comparison(tuple(rows), names, _list_left_out(people, plain, finder, asked, mode), mode)


def _need_recogniser(analyser: FaceAnalyser) -> None:
    if analyser.recogniser is None:
        raise ValueError(
            f"{LABEL} compares faces, and the face analyser has 0 recognisers, expected 1. Choose "
            "antelopev2 or buffalo_l in Load Face Analyser."
        )


def _find_faces(analyser: FaceAnalyser, photos: Tensor, what: str, mode: Mode) -> tuple[Face, ...]:
    """One of each photo."""
    try:
        largest = detect_faces(analyser, photos, FaceChoice()).faces
    except ValueError as error:
        raise ValueError(f"{what} cannot be used: {error}") from error
    if mode == CORRECTED:
        return largest
    every = detect_everybody(analyser, photos).faces
    return tuple(
        max((one for one in every if one.photo == face.photo), key=lambda one: one.score)
        for face in largest
    )


def _check_pixels(images: Tensor, name: str) -> None:
    """Before any is looked at: a long batch should not fail at its end."""
    check_images(images)
    bad = [number for number, one in enumerate(images, 1) if not torch.isfinite(one).all()]
    if bad:
        numbers = ", ".join(map(str, bad))
        raise ValueError(
            f"{len(bad)} of {len(images)} pictures of {name} hold NaN or infinite pixels, expected "
            f"0 (number {numbers}). The step before failed, often a VAE in fp16: repair it."
        )


def _check_pairs(images: Tensor, plain: Tensor) -> None:
    for what, one, other in (
        ("pictures", len(images), len(plain)),
        ("pixels (height, width)", tuple(images.shape[1:3]), tuple(plain.shape[1:3])),
    ):
        if one != other:
            raise ValueError(
                f"images have {one} {what}, plain has {other}; they are compared one by one. Paint "
                "the plain pictures with the same seeds, number and size, without the identity."
            )


def _look(
    analyser: FaceAnalyser, images: Tensor, number: int, finder: MeshFinder | None
) -> list[Seen]:
    faces = detect_everybody(analyser, images[number : number + 1]).faces
    meshes = finder.find(to_uint8(images[number], number)) if finder and faces else []
    return [Seen(face, mesh_in(face.box, meshes)) for face in faces]


@dataclass(frozen=True, eq=False)
class _Pictures:
    """A picture, and its plain twin where there is one."""

    number: int
    looks: Sequence[Sequence[Seen]]
    """The faces of each."""
    pixels: Sequence[np.ndarray]
    shared: Mapping[str, Outcome]
    """Measures of the whole picture, whoever is in it."""
    with_mesh: bool
    mode: Mode


def _compare_picture(pictures: _Pictures, people: Sequence[Known]) -> list[Row]:
    chosen = [choose_faces(faces, people, pictures.mode) for faces in pictures.looks]
    shared = dict(pictures.shared)
    if len(pictures.pixels) > 1:
        boxes = [one.face.box for faces in pictures.looks for one in faces]
        picture, plain = pictures.pixels
        shared[OUTSIDE] = _measure_outside(picture, plain, boxes)
    mesh, mode = pictures.with_mesh, pictures.mode
    rows = []
    for index, person in enumerate(people):
        mine = chosen[0][index]
        values = {LIKENESS: measure_likeness(person, mine), **shared}
        if person.seen is not None:
            values |= measure_changes(person.seen, mine, mesh, mode)
        if len(chosen) > 1:
            values |= _compare_plain(person, mine, chosen[1][index], pictures, values[LIKENESS])
        if person.other is not None:
            values[COPY_PASTE] = measure_copying(person, mine, mode)
        turns = measure_axes(person.seen, mine, mode)
        seen = tuple(found[index] for found in chosen)
        rows.append(Row(pictures.number, person.name, len(pictures.looks[0]), values, turns, seen))
    return rows


def _compare_plain(
    person: Known, mine: Seen | None, before: Seen | None, pictures: _Pictures, likeness: Outcome
) -> dict[str, Outcome]:
    base = measure_likeness(person, before)
    gained = (likeness.value if likeness.ok else 0.0) - (base.value if base.ok else 0.0)
    values = {
        PLAIN_LIKENESS: base,
        GAIN: valid(gained),  # a failure counts 0 here, too: left out, it would raise the mean
        FROM_PLAIN: measure_turn(before, mine, pictures.with_mesh),
    }
    if person.seen is not None:
        changes = measure_changes(person.seen, before, pictures.with_mesh, pictures.mode)
        values |= {f"plain_{name}": value for name, value in changes.items()}
    return values


def _measure_outside(picture: np.ndarray, plain: np.ndarray, boxes: Sequence[Box]) -> Outcome:
    """Both as 8-bit pixels, so that they may differ in channels."""
    one, other = (torch.from_numpy(each).float() / 255 for each in (picture, plain))
    try:
        return valid(disruption(one, other, boxes))
    except ValueError:  # the faces cover all of it
        return failed(UNDEFINED)


def _list_left_out(
    people: Sequence[Known],
    plain: Tensor | None,
    finder: MeshFinder | None,
    asked: PromptText | None,
    mode: Mode,
) -> dict[str, str]:
    found = {}
    if all(one.seen is None for one in people):
        found["changes of pose, landmarks and expression"] = (
            "an identity knows no pose; connect the photo to reference instead"
        )
    elif finder is None:
        without = "shape and expression" if mode == COMPAT else "landmarks, shape and expression"
        found[f"changes of {without}"] = (
            "connect Load Face Detection Model (MediaPipe), with mediapipe_face_fp32.safetensors "
            "of huggingface.co/Comfy-Org/mediapipe in models/detection, to landmarker"
        )
    if plain is None:
        found["changes against the plain pictures"] = (
            "connect pictures of the same seeds without identity to plain"
        )
    if all(one.other is None for one in people):
        found["copy-paste"] = "connect another photo of the person to other_photo"
    if asked is None:
        found["prompt alignment"] = (
            "connect CLIP's two halves to clip_vision and clip, such as CLIP-ViT-L-14 and clip_l, "
            "and write the prompt into prompt"
        )
    return found
