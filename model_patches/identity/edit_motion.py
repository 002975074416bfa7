"""Edit what the face of an Identity does: expression and pose, by DynamicID's reconfigurator.

Source: DynamicID (arXiv 2503.06505), equations 5 and 6, and its code: a motion is the picture of a
face's landmarks and a prompt's pooled text. The motion of the source is taken out of the tokens,
that of the target is put in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..adapters.dynamicid import FAMILY
from ..adapters.imr import Motion, MotionEditor, edit_tokens
from ..face.analyser import FaceAnalyser
from ..face.choose import FaceChoice
from ..face.detect import detect_faces
from ..face.landmark_pose import describe_angles, move_landmarks
from ..face.pixels import to_uint8
from .identity import Encoding, Identity, check_widths
from .motion import WORDS, SeenMotion, keep_motion, kept_motion, see_motion
from .motion_words import Target, angles_for, pair_targets, parse_words, write_words

LABEL = "Edit Expression and Pose"
ENLARGED = 4
"""Pixels of a landmark in the preview."""


@dataclass(frozen=True, eq=False)
class Edited:
    """One identity for each target, and what they were made from."""

    identities: tuple[Identity, ...]
    words: tuple[str, ...]
    """What the text encoder read of each target."""
    pictures: Tensor
    """(1 + T, 384, 384, 3) in [0, 1]: landmarks of the source, then of each target."""
    report: str


@dataclass(frozen=True, eq=False)
class _Goal:
    motion: SeenMotion
    words: str
    expression: str | None


def edit_identity(
    editor: MotionEditor,
    identity: Identity,
    clip: Any,
    targets: Sequence[Target],
    *,
    source_words: str = "",
    analyser: FaceAnalyser | None = None,
    source: Tensor | None = None,
    driving: Tensor | None = None,
) -> Edited:
    """The identity with the motion of each target.

    clip: the base model's text encoder. source_words: what the face does on its photo; empty:
    neutral, and the view by its angles. source (1, H, W, C): that photo, where the identity does
    not know it. driving (B, H, W, C): photos whose landmarks the targets have instead of the
    source's, as the authors use them. Both need the analyser.

    Raises ValueError for an identity of another family or width, photos without a face, and targets
    out of range, before the text encoder runs, and for a text encoder of another width.
    """
    encoding = _find_encoding(editor, identity)
    photos = 0 if driving is None else len(driving)
    paired = pair_targets(targets, photos)
    seen = _look(analyser, driving, "driving photo")
    if source is not None and len(source) != 1:
        raise ValueError(
            f"{len(source)} source photos came in, expected 1: the photo that the identity was "
            "made of. Connect that one."
        )
    given = _look(analyser, source, "source photo")
    sources = [(encoding.tokens, given[0])] if given else kept_motion(encoding)
    if not sources:
        raise ValueError(
            "The identity does not know the face's landmarks on its photo (0 kept, expected those "
            "of at least 1 photo). Encode it again with the pack buffalo_l in Load Face Analyser, "
            "or connect its photo to `source` and a face analyser to `analyser`."
        )
    said = source_words.strip() or encoding.recipe.get(WORDS, "")
    expression, orientation, free = parse_words(said)
    if orientation:
        free = said  # the source's view is what its angles say, unless words say it
    expression = None if free else expression or "neutral"
    base = sources[0][1]
    goals = []
    for number, target in enumerate(paired):
        driver = seen[number % len(seen)] if seen else None
        try:
            goals.append(_aim(target, driver or base, driver is None, expression, free))
        except ValueError as error:
            raise ValueError(f"Target {number + 1}: {error}") from error
    own = [free or write_words(expression, motion.angles) for _, motion in sources]
    texts = _encode_words(editor, clip, [*own, *(goal.words for goal in goals)])
    wanted = [Motion(goal.motion.picture, texts[goal.words]) for goal in goals]
    each = [
        edit_tokens(editor, tokens, Motion(motion.picture, texts[words]), wanted)
        for (tokens, motion), words in zip(sources, own, strict=True)
    ]
    edited = torch.stack(each).mean(0)
    identities = tuple(
        replace(identity, encodings={**identity.encodings, FAMILY: _put(encoding, editor, *one)})
        for one in zip(edited.split(1), goals, strict=True)
    )
    return Edited(
        identities,
        tuple(goal.words for goal in goals),
        _draw([base, *(goal.motion for goal in goals)]),
        _report(editor, sources, own, goals, not said),
    )


def _find_encoding(editor: MotionEditor, identity: Identity) -> Encoding:
    found = identity.encodings.get(FAMILY)
    advice = "Encode the photo with Encode Identity (DynamicID)."
    if found is None:
        have = ", ".join(sorted(identity.encodings)) or "none"
        raise ValueError(f"The identity has tokens for: {have}; {LABEL} edits {FAMILY}. {advice}")
    check_widths(found, editor.dims.width, f"'{editor.name}'", advice)
    return found


def _look(analyser: FaceAnalyser | None, photos: Tensor | None, what: str) -> list[SeenMotion]:
    """The largest face of each photo."""
    if photos is None:
        return []
    if analyser is None:
        raise ValueError(
            f"{len(photos)} {what}(s) came in and no face analyser, expected one. Connect Load "
            "Face Analyser, with the pack buffalo_l, to `analyser`."
        )
    if analyser.landmarks is None:
        raise ValueError(
            f"The {what} needs a landmark model and the face analyser has 0, expected 1. Open "
            "buffalo_l, with its file 2d106det.onnx, with Load Face Analyser."
        )
    try:
        faces = detect_faces(analyser, photos, FaceChoice()).faces
    except ValueError as error:
        raise ValueError(f"The {what}: {error}") from error
    return [see_motion(analyser, to_uint8(photos[face.photo]), face) for face in faces]


def _aim(
    target: Target, seen: SeenMotion, is_source: bool, expression: str | None, free: str
) -> _Goal:
    """What one target comes to, on the landmarks of a driving photo or of the source."""
    angles = angles_for(target, seen.angles)
    points = move_landmarks(seen.points, seen.angles, angles, target.sliders)
    motion = SeenMotion(points, angles, seen.size)
    if target.words:
        return _Goal(motion, target.words, None)
    named = target.expression
    if named is None and is_source:
        if free:
            same = angles == seen.angles
            return _Goal(motion, free if same else f"{free}, {write_words(None, angles)}", None)
        named = expression
    return _Goal(motion, write_words(named, angles), named)


def _encode_words(editor: MotionEditor, clip: Any, texts: Sequence[str]) -> dict[str, Tensor]:
    """The pooled state of each text, without the text projection, (channels,)."""
    found = {}
    wanted = editor.dims.text
    for text in dict.fromkeys(texts):
        pooled = clip.encode_from_tokens(clip.tokenize(text), return_pooled="unprojected")[1]
        shape = None if pooled is None else tuple(pooled.shape)
        if pooled is None or shape != (1, wanted):
            raise ValueError(
                f"The text encoder gives a pooled text of shape {shape}, '{editor.name}' reads "
                f"(1, {wanted}). Connect the CLIP of the SD 1.5 model that will draw the picture."
            )
        found[text] = pooled[0].detach().to("cpu", torch.float32)
    return found


def _put(encoding: Encoding, editor: MotionEditor, tokens: Tensor, goal: _Goal) -> Encoding:
    recipe = {
        **encoding.recipe,
        "editor": editor.name,
        "editor_digest": editor.digest,
        WORDS: goal.expression or goal.words,
    }
    return replace(encoding, tokens=tokens, extra=keep_motion([goal.motion], tokens), recipe=recipe)


def _draw(motions: Sequence[SeenMotion]) -> Tensor:
    small = torch.stack([one.picture for one in motions])
    large = small.repeat_interleave(ENLARGED, 1).repeat_interleave(ENLARGED, 2)
    return large.unsqueeze(-1).expand(-1, -1, -1, 3).float() / 255


def _report(
    editor: MotionEditor,
    sources: Sequence[tuple[Tensor, SeenMotion]],
    own: Sequence[str],
    goals: Sequence[_Goal],
    assumed: bool,
) -> str:
    lines = [f"{len(goals)} target(s) by {editor.name}"]
    for words, (_, motion) in zip(own, sources, strict=True):
        lines.append(f"source: {_describe(words, motion)}")
    if assumed:
        lines.append("Nothing measures the source's expression: say it in source_words.")
    lines += [
        f"{number}: {_describe(one.words, one.motion)}" for number, one in enumerate(goals, 1)
    ]
    return "\n".join(lines)


def _describe(words: str, motion: SeenMotion) -> str:
    line = f"{words}; {describe_angles(motion.angles)}"
    outside = len(motion.points) - _count_inside(motion)
    return f"{line}; {outside} of {len(motion.points)} landmarks outside" if outside else line


def _count_inside(motion: SeenMotion) -> int:
    inside = (motion.points > 0) & (motion.points < motion.size)
    return int(inside.all(axis=1).sum())
