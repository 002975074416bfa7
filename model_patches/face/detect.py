"""Photos -> Faces: the one function that the rest of the pack calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .align import arcface_crop, ffhq_crop
from .analyser import FaceAnalyser
from .angles import head_angles
from .boxes import Box, Detection
from .choose import (
    IN_BOXES,
    IN_MASK,
    LEFT_TO_RIGHT,
    FaceChoice,
    NoSuchFace,
    boxes_per_photo,
    mask_per_photo,
    pick,
    rank,
)
from .face import Face
from .pixels import check_images, photo_hash, to_uint8

ON_MISSING = ("error", "skip photo")
LEAST_SIDE = 16
"""Pixels. A photo that is thinner holds no face that could be told from another."""
STRIP = 8
"""Ratio of the sides from which a photo is called a strip: detectors see it shrunk to one."""


@dataclass(frozen=True, eq=False)
class PhotoFaces:
    """What was found in one photo."""

    size: tuple[int, int]
    """Width, height in pixels."""
    detections: tuple[Detection, ...]
    ranked: tuple[int, ...]
    """Indices into `detections`, in the order that an index counts."""
    chosen: tuple[int, ...]
    """Indices into `detections`; empty when the photo was skipped."""
    problem: str = ""
    """Why nothing could be chosen."""


@dataclass(frozen=True, eq=False)
class Detected:
    """The chosen faces of a batch, and everything that the overlay shows."""

    faces: tuple[Face, ...]
    """Photo by photo, in the chosen order within each."""
    photos: tuple[PhotoFaces, ...]
    report: str


def detect_faces(
    analyser: FaceAnalyser,
    images: Tensor,
    choice: FaceChoice,
    on_missing: str = "error",
    boxes: object = None,
    mask: Tensor | None = None,
) -> Detected:
    """Find, choose, crop, recognise and parse the faces of each photo.

    images: (B, H, W, C) float 0..1, C of 1 to 4. `choice` applies to each photo. on_missing:
    "error", or "skip photo", which passes over photos without the wanted face as long as one photo
    has it. boxes: BOUNDING_BOX of core nodes, in pixels; mask: (B or 1, h, w); both are read only
    by the orders that need them.

    Crop, labels and embedding of a face come from the same five points, so every encoder sees the
    same person. Raises ValueError for unusable pixels or inputs, and, naming the photo, its size,
    the detector and what it tried, when no face can be chosen.
    """
    check_images(images)
    if on_missing not in ON_MISSING:
        raise ValueError(f"unknown on_missing {on_missing!r}; choose {' or '.join(ON_MISSING)}")
    found = _detect(analyser, images, choice, on_missing == "error", boxes, mask)
    if not found.faces:
        raise ValueError(
            "\n".join(_explain_missing(i, one, analyser) for i, one in enumerate(found.photos))
        )
    return found


def detect_everybody(analyser: FaceAnalyser, images: Tensor) -> Detected:
    """All faces of each photo, from left to right, as `detect_faces` makes them; none is no error.

    Raises ValueError for unusable pixels.
    """
    check_images(images)
    return _detect(analyser, images, FaceChoice(LEFT_TO_RIGHT, "all"), False, None, None)


def _detect(
    analyser: FaceAnalyser,
    images: Tensor,
    choice: FaceChoice,
    insist: bool,
    boxes: object,
    mask: Tensor | None,
) -> Detected:
    """insist: raise ValueError at the first photo without the wanted face."""
    count = images.shape[0]
    frames = None
    if choice.order == IN_BOXES and boxes is not None:
        frames = boxes_per_photo(boxes, count)
    masks = None
    if choice.order == IN_MASK and mask is not None:
        masks = mask_per_photo(mask, count)
    faces: list[Face] = []
    photos: list[PhotoFaces] = []
    for index in range(count):
        rgb = to_uint8(images[index], index)
        found = _choose(
            analyser,
            rgb,
            choice,
            frames[index] if frames else None,
            masks[index] if masks else None,
        )
        if found.problem and insist:
            raise ValueError(_explain_missing(index, found, analyser))
        digest = photo_hash(rgb) if found.chosen else ""
        for one in found.chosen:
            number = found.ranked.index(one)
            faces.append(_face(analyser, rgb, found.detections[one], index, digest, number))
        photos.append(found)
    return Detected(tuple(faces), tuple(photos), _report(photos, faces, analyser))


def _choose(
    analyser: FaceAnalyser,
    rgb: np.ndarray,
    choice: FaceChoice,
    boxes: Sequence[Box] | None,
    mask: Tensor | None,
) -> PhotoFaces:
    size = rgb.shape[1], rgb.shape[0]
    if min(size) < LEAST_SIDE:
        thin = f"its short side is {min(size)} px, and a face needs at least {LEAST_SIDE} px"
        return PhotoFaces(size, (), (), (), thin)
    detections = tuple(analyser.detector.find(rgb))
    ranked = tuple(rank(detections, choice, size, boxes, mask))
    if not detections:
        return PhotoFaces(size, (), (), (), "no face was found")
    try:
        chosen = tuple(pick(ranked, choice))
    except NoSuchFace as error:
        return PhotoFaces(size, detections, ranked, (), str(error))
    return PhotoFaces(size, detections, ranked, chosen)


def _face(
    analyser: FaceAnalyser,
    rgb: np.ndarray,
    found: Detection,
    photo: int,
    digest: str,
    number: int,
) -> Face:
    small = arcface_crop(rgb, found.points)
    large = ffhq_crop(rgb, found.points)
    recogniser, parser = analyser.recogniser, analyser.parser
    return Face(
        photo=photo,
        photo_hash=digest,
        box=found.box,
        points=torch.from_numpy(np.array(found.points, np.float32)),
        score=found.score,
        detector=found.detector,
        angles=found.angles or head_angles(found.points),
        ffhq_crop=torch.from_numpy(large),
        labels=parser.labels(large) if parser else None,
        embedding=recogniser.embed(small) if recogniser else None,
        recogniser=recogniser.name if recogniser else "",
        number=number,
    )


def _explain_missing(photo: int, found: PhotoFaces, analyser: FaceAnalyser) -> str:
    width, height = found.size
    where = f"photo {photo + 1} ({width}x{height} pixels): {found.problem}"
    if found.detections:
        boxes = "; ".join(_box_text(one.box) for one in found.detections)
        return (
            f"{where}. {len(found.detections)} found at x0, y0, x1, y1 = {boxes}. Look at the "
            "overlay, then change the order, the index, the boxes or the mask."
        )
    if min(width, height) < LEAST_SIDE:
        return f"{where}. Connect the photo itself, not a strip of it."
    if max(width, height) >= STRIP * min(width, height):
        where = f"{where} in this strip (crop it around the face)"
    return (
        f"{where} by {analyser.detector.name}, which tried {analyser.detector.tried}. Use a photo "
        "with an upright face at least 5 % as wide as the photo (crop to it), or a stronger "
        "detector: choose antelopev2 in Load Face Analyser."
    )


def _box_text(box: Box) -> str:
    return ", ".join(str(round(value)) for value in box)


def _report(photos: Sequence[PhotoFaces], faces: Sequence[Face], analyser: FaceAnalyser) -> str:
    lines = []
    for index, photo in enumerate(photos):
        found, chosen = len(photo.detections), len(photo.chosen)
        head = (
            f"Photo {index + 1} ({photo.size[0]}x{photo.size[1]}): {found} found, {chosen} chosen"
        )
        lines.append(f"{head}; SKIPPED, {photo.problem}" if photo.problem else head)
        mine = (face for face in faces if face.photo == index)
        lines += [f"  face {face.number}: {_line(face)}" for face in mine]
    return "\n".join([*lines, analyser.description])


def _line(face: Face) -> str:
    yaw, pitch, roll = map(round, face.angles)  # whole numbers have no "-0"
    return (
        f"box {_box_text(face.box)}, score {face.score:.2f}, yaw {yaw:+d}, "
        f"pitch {pitch:+d}, roll {roll:+d} degrees"
    )
