"""What published networks see in a picture beside the photo, and whether the prompt's wishes came
true."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from ..model_patches.encoders.clip_pair import ClipPair
from ..model_patches.evaluate.dino import cut_face, dino_feature
from ..model_patches.evaluate.expression import (
    CLASSES,
    class_probabilities,
    mean_class,
    score_expression,
)
from ..model_patches.evaluate.features import clip_similarity, compat_aesthetic
from ..model_patches.evaluate.measures import pose_error
from ..model_patches.evaluate.modes import COMPAT, Mode
from ..model_patches.evaluate.networks import (
    expression_logits,
    grow_box,
    pose_angles,
    pose_pixels,
)
from ..model_patches.evaluate.outcomes import (
    NO_FACE_GENERATED,
    UNDEFINED,
    Outcome,
    failed,
    valid,
)
from ..model_patches.evaluate.pose import axis_changes, matrix_angles, view_of
from ..model_patches.evaluate.subject import cut_subject
from ..model_patches.identity.compare_faces import Seen
from .networks import Networks
from .records import Prompt

AESTHETIC, AESTHETIC_TENTH = "aesthetic", "aesthetic_tenth"
"""LAION's score, from 1 to 10; compat: IBench's tenth of it."""
DINO, FGIS = "dino", "fgis"
CLIP_PHOTO = "clip_photo"
"""CLIP-I as FlexIP and others take it, of whole pictures; IBench's ClipI is `clip_plain`."""
CLIP_SUBJECT, DINO_SUBJECT = "clip_subject", "dino_subject"
"""FlexIP's CLIP-I and DINO-I: of subjects that are cut out."""
QUALITY = "quality"
"""FlexIP's CLIP-IQA."""
CLASS = "expression_class"
"""IBench's ExprDiv: 1 where the face has another expression than the photo."""
EXPR, EXPR_SHAPES = "expression_asked", "expression_asked_bs"
"""DynamicID's Expr by the network, and by blendshapes, which compare with nobody's figures."""
VIEW, POSE_ERROR = "view_asked", "pose_error"
"""DynamicID's Pose: 1 where the head shows the view that was asked for; and degrees off."""
AXES = ("yaw", "pitch", "roll")


@dataclass(frozen=True, eq=False)
class Look:
    """One picture. None: the network is absent, or there is no face for it."""

    seen: Seen | None
    """The person's face."""
    score: float | None = None
    """Aesthetic, 1 to 10."""
    clip: Tensor | None = None
    """(1, D) CLIP's feature of the picture."""
    whole: Tensor | None = None
    """(1, D) DINOv2's."""
    face: Tensor | None = None
    """(1, D) and of the face."""
    quality: float | None = None
    """CLIP-IQA, 0 to 1."""
    clip_subject: Tensor | None = None
    """(1, D) CLIP's feature of the subject alone; None, too, where there is no subject."""
    whole_subject: Tensor | None = None
    """(1, D) DINOv2's."""
    logits: Tensor | None = None
    """(10, 7) of the face's expression."""
    angles: tuple[float, float, float] | None = None
    """Yaw, pitch and roll by IBench's network."""

    @property
    def expression(self) -> str | None:
        """One of CLASSES."""
        return None if self.logits is None else CLASSES[mean_class(self.logits)]

    @property
    def reason(self) -> str:
        """Why a measure of the face has no value."""
        return NO_FACE_GENERATED if self.seen is None else UNDEFINED


def look(
    networks: Networks,
    picture: np.ndarray,
    seen: Seen | None,
    mode: Mode,
    clip: ClipPair | None = None,
) -> Look:
    """picture (H, W, 3) uint8 RGB; seen: the person's face in it."""
    face, angles = None, None
    if seen is not None and networks.dino is not None:
        face = dino_feature(networks.dino, cut_face(picture, seen.face.box, mode))
    logits = look_at_expression(networks, picture, seen, mode)
    if networks.pose is not None:
        # IBench shows its network the whole picture where there is no face.
        box = grow_box(seen.face.box, mode) if seen is not None else None
        found = pose_angles(networks.pose, pose_pixels(picture, box)[None], mode)[0]
        yaw, pitch, roll = found.tolist()
        angles = yaw, pitch, roll
    feature = clip.embed_picture(picture, mode) if clip else None
    quality = networks.quality
    return Look(
        seen,
        networks.aesthetic.score(picture, mode) if networks.aesthetic else None,
        feature,
        dino_feature(networks.dino, picture) if networks.dino else None,
        face,
        quality.score(feature) if quality and feature is not None else None,
        *_look_at_subject(networks, picture, mode, clip),
        logits,
        angles,
    )


def _look_at_subject(
    networks: Networks, picture: np.ndarray, mode: Mode, clip: ClipPair | None
) -> tuple[Tensor | None, Tensor | None]:
    """(1, D) features by CLIP and by DINOv2, as far as they are there."""
    if networks.remover is None or (clip is None and networks.dino is None):
        return None, None
    subject = cut_subject(networks.remover, picture)
    if subject is None:
        return None, None
    return (
        clip.embed_picture(subject, mode) if clip else None,
        dino_feature(networks.dino, subject) if networks.dino else None,
    )


def look_at_expression(
    networks: Networks, picture: np.ndarray, seen: Seen | None, mode: Mode
) -> Tensor | None:
    """(10, 7) logits of the face; None without the network, without a face, or, in compat, for one
    that IBench's crop cannot hold."""
    if seen is None or networks.expression is None:
        return None
    x0, y0, x1, y1 = (max(0, round(value)) for value in seen.face.box)
    try:
        return expression_logits(networks.expression, picture[y0:y1, x0:x1], mode)
    except ValueError:  # compat: below 44 pixels
        return None


def compare_looks(photo: Look, mine: Look, mode: Mode) -> dict[str, Outcome]:
    """A picture beside the person's photo; what its network is absent for has no entry."""
    values = {}
    if mine.score is not None and mode == COMPAT:
        values[AESTHETIC_TENTH] = valid(compat_aesthetic([mine.score]))
    elif mine.score is not None:
        values[AESTHETIC] = valid(mine.score)
    if mine.quality is not None:
        values[QUALITY] = valid(mine.quality)
    if photo.clip is not None and mine.clip is not None:
        values[CLIP_PHOTO] = valid(float(clip_similarity(photo.clip, mine.clip)))
    if photo.whole is not None and mine.whole is not None:
        values[DINO] = valid(float(clip_similarity(photo.whole, mine.whole)))
        values[FGIS] = _compare_faces(photo, mine)
    return values


def _compare_faces(photo: Look, mine: Look) -> Outcome:
    if photo.face is None or mine.face is None:
        return failed(mine.reason)
    return valid(float(clip_similarity(photo.face, mine.face)))


def compare_subjects(networks: Networks, photo: Look, mine: Look) -> dict[str, Outcome]:
    """CLIP_SUBJECT and DINO_SUBJECT, as far as their networks are there."""
    if networks.remover is None:
        return {}
    pairs = {}
    if mine.clip is not None:
        pairs[CLIP_SUBJECT] = photo.clip_subject, mine.clip_subject
    if mine.whole is not None:
        pairs[DINO_SUBJECT] = photo.whole_subject, mine.whole_subject
    return {
        name: failed(UNDEFINED)
        if one is None or other is None
        else valid(float(clip_similarity(one, other)))
        for name, (one, other) in pairs.items()
    }


def compare_expressions(networks: Networks, photo: Look, mine: Look) -> dict[str, Outcome]:
    """CLASS; empty without its network."""
    if networks.expression is None:
        return {}
    if photo.expression is None or mine.expression is None:
        return {CLASS: failed(mine.reason)}
    return {CLASS: valid(float(photo.expression != mine.expression))}


def compare_turns(photo: Look, mine: Look, mode: Mode) -> dict[str, Outcome]:
    """Yaw, pitch and roll by IBench's network; empty without it."""
    if photo.angles is None or mine.angles is None:
        return {}
    turns = axis_changes(photo.angles, mine.angles, mode)
    return dict(zip(AXES, map(valid, turns), strict=True))


def measure_wishes(
    networks: Networks, prompt: Prompt, mine: Look, with_mesh: bool
) -> dict[str, Outcome]:
    """What the prompt's record asks for; without wishes it is empty.

    with_mesh: whether there is a landmarker; the head's angles are its, and those of five points
    otherwise.
    """
    values = {}
    if prompt.expression and networks.expression is not None:
        values[EXPR] = (
            failed(mine.reason)
            if mine.logits is None
            else valid(class_probabilities(mine.logits)[prompt.expression])
        )
    mesh = mine.seen.mesh if mine.seen else None
    if prompt.expression and with_mesh:
        values[EXPR_SHAPES] = (
            failed(NO_FACE_GENERATED)
            if mesh is None
            else valid(score_expression(mesh.blendshapes)[prompt.expression])
        )
    angles = _read_angles(mine.seen, with_mesh)
    if prompt.view:
        values[VIEW] = (
            failed(mine.reason) if angles is None else valid(float(view_of(*angles) == prompt.view))
        )
    asked = (prompt.yaw, prompt.pitch)
    if any(one is not None for one in asked):
        values[POSE_ERROR] = _measure_error(asked, angles, mine.reason)
    return values


def _measure_error(
    asked: tuple[float | None, float | None], angles: tuple[float, float] | None, reason: str
) -> Outcome:
    if angles is None:
        return failed(reason)
    pairs = [(want, got) for want, got in zip(asked, angles, strict=True) if want is not None]
    wanted, found = zip(*pairs, strict=True)
    return valid(pose_error(wanted, found))


def _read_angles(seen: Seen | None, with_mesh: bool) -> tuple[float, float] | None:
    """Yaw and pitch, positive up."""
    if seen is None or (with_mesh and seen.mesh is None):
        return None
    if not with_mesh or seen.mesh is None:
        return seen.face.angles[:2]
    try:
        yaw, down, _ = matrix_angles(seen.mesh.pose)
    except ValueError:  # a mesh that is flat or mirrored has no pose
        return None
    return yaw, -down
