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

from ..adapters.imr import Motion, MotionEditor, edit_tokens
from ..face.analyser import FaceAnalyser
from ..face.choose import FaceChoice
from ..face.detect import detect_faces
from ..face.landmark_pose import FIVE, describe_angles, move_landmarks
from ..face.pixels import to_uint8
from .identity import Encoding, Identity, check_widths, encoding_for
from .motion import WORDS, SeenMotion, keep_motion, kept_motion, see_motion
from .motion_words import Target, angles_for, pair_targets, parse_words, write_words

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
    """The identity with the motion of each target, in the tokens that the editor is for.

    clip: the base model's text encoder. source_words: what the face does on its photo; empty:
    neutral, and the view by its angles. source (1, H, W, C): that photo, where the identity does
    not know it. driving (B, H, W, C): photos whose landmarks the targets have instead of the
    source's, as the authors use them. Both need the analyser.

    Raises ValueError for an identity of another family, encoder or width, photos without a face,
    and targets out of range, before the text encoder runs, and for a text encoder of another width.
    """
    encoding = _find_encoding(editor, identity)
    count = editor.settings.points
    photos = 0 if driving is None else len(driving)
    paired = pair_targets(targets, photos)
    seen = _look(analyser, driving, "driving photo", count)
    if source is not None and len(source) != 1:
        raise ValueError(
            f"{len(source)} source photos came in, expected 1: the photo that the identity was "
            "made of. Connect that one."
        )
    given = _look(analyser, source, "source photo", count)
    sources = [(encoding.tokens, given[0])] if given else kept_motion(encoding, count)
    if not sources:
        again = "Encode it again with the pack buffalo_l in Load Face Analyser, or connect"
        raise ValueError(
            "The identity does not know the face's landmarks on its photo (0 kept, expected those "
            f"of at least 1 photo). {again if editor.settings.published else 'Connect'} its photo "
            "to `source` and a face analyser to `analyser`."
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
        replace(
            identity,
            encodings={**identity.encodings, encoding.family: _put(encoding, editor, *one)},
        )
        for one in zip(edited.split(1), goals, strict=True)
    )
    return Edited(
        identities,
        tuple(goal.words for goal in goals),
        _draw([base, *(goal.motion for goal in goals)]),
        _report(editor, sources, own, goals, not said),
    )


def _find_encoding(editor: MotionEditor, identity: Identity) -> Encoding:
    settings = editor.settings
    if settings.published:
        advice = "Encode the photo with Encode Identity (DynamicID)."
    else:
        advice = f"Encode the photo with {settings.adapter or 'the file that it was trained for'}."
    reader = f"'{editor.name}'"
    found = encoding_for(identity, settings.family, settings.encoder, reader, advice)
    check_widths(found, editor.dims.width, reader, advice)
    return found


def _look(
    analyser: FaceAnalyser | None, photos: Tensor | None, what: str, count: int
) -> list[SeenMotion]:
    """The largest face of each photo. count: of its landmarks."""
    if photos is None:
        return []
    if analyser is None:
        raise ValueError(
            f"{len(photos)} {what}(s) came in and no face analyser, expected one. Connect Load "
            f"Face Analyser{'' if count == FIVE else ', with the pack buffalo_l,'} to `analyser`."
        )
    if analyser.landmarks is None and count != FIVE:
        raise ValueError(
            f"The {what} needs a landmark model and the face analyser has 0, expected 1. Open "
            "buffalo_l, with its file 2d106det.onnx, with Load Face Analyser."
        )
    try:
        faces = detect_faces(analyser, photos, FaceChoice()).faces
    except ValueError as error:
        raise ValueError(f"The {what}: {error}") from error
    return [see_motion(analyser, to_uint8(photos[face.photo]), face, count) for face in faces]


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
            named = editor.settings.text_encoder
            right = f"with {named}" if named else "of the SD 1.5 model that will draw the picture"
            raise ValueError(
                f"The text encoder gives a pooled text of shape {shape}, '{editor.name}' reads "
                f"(1, {wanted}). Connect the CLIP {right}."
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
