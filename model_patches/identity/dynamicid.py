"""Encode photos of one person into an Identity for DynamicID: four face tokens.

The face encoder reads the recogniser's embedding of the face and what CLIP sees of the whole
picture. Source: DynamicID (arXiv 2503.06505) and its code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor

from ..adapters.dynamicid import FAMILY, DynamicIDAdapter, make_face_tokens
from ..encoders.clip_vision import CLIP, CLIP_SIZE, check_vision, look_at_nothing, look_by_pillow
from ..face.analyser import FaceAnalyser
from ..face.choose import FaceChoice
from ..face.detect import detect_faces
from ..face.face import Face
from ..face.pixels import photo_hash
from .encode import Encoded
from .identity import Encoding, Identity
from .motion import keep_motion, see_motion
from .provenance import join_distinct, pack_version
from .square import cut_middle, describe_loss, make_thumbnail

Colours = Literal["corrected", "published"]
COLOURS: tuple[Colours, ...] = ("corrected", "published")
"""In which order the detector and the recogniser get the colours: as they were trained, or with red
and blue exchanged, as in the published code."""


def encode_dynamicid(
    adapter: DynamicIDAdapter,
    vision: Any,
    analyser: FaceAnalyser,
    photos: Tensor,
    colours: Colours = "corrected",
    choice: FaceChoice | None = None,
) -> Encoded:
    """Encode one person on one or several photos (B, H, W, 3) in [0, 1]; several are averaged.

    vision: CLIP ViT-H/14. choice: which face of each photo; None: the largest, and with published
    colours the surest, as in the published code. An analyser with a landmark model also keeps what
    the face does, for Edit Expression and Pose. Raises ValueError when an encoder or a face is
    missing or does not fit.
    """
    _check(adapter, vision, analyser, colours)
    faces = find_people(analyser, photos, colours, choice)
    pixels = [_whole_photo(photos[face.photo]) for face in faces]
    seen = torch.cat([look_by_pillow(vision, one).patches for one in pixels])
    nobody = look_at_nothing(vision, CLIP_SIZE).patches
    _check_width(adapter, nobody)
    embeddings = torch.stack(
        [face.embedding.float() for face in faces if face.embedding is not None]
    )
    tokens = make_face_tokens(adapter, embeddings, seen)
    null = make_face_tokens(adapter, torch.zeros(1, adapter.face), nobody)
    recipe = {"adapter": adapter.name, "adapter_digest": adapter.digest, "colours": colours}
    mean = tokens.mean(0, keepdim=True)
    extra = {}
    if analyser.landmarks is not None:
        motions = [
            see_motion(analyser, one.numpy(), face) for one, face in zip(pixels, faces, strict=True)
        ]
        extra = keep_motion(motions, tokens)
    encoding = Encoding(FAMILY, adapter.encoder_digest, mean, null, extra, recipe)
    provenance = {
        "photos": join_distinct([photo_hash(one.numpy()) for one in pixels]),
        "recogniser": join_distinct([face.recogniser for face in faces]),
        "detector": join_distinct([face.detector for face in faces]),
        "pack_version": pack_version(),
    }
    features = {"arcface": embeddings} if colours == "corrected" else {}
    picture = make_thumbnail(cut_middle(pixels[0] / 255))
    identity = Identity({FAMILY: encoding}, features, picture, provenance)
    return Encoded(identity, _report(adapter, faces, photos, colours))


def find_people(
    analyser: FaceAnalyser, photos: Tensor, colours: Colours, choice: FaceChoice | None
) -> list[Face]:
    """One face of each photo, its embedding made with these colours."""
    pixels = photos[..., :3]
    if colours == "published":
        pixels = pixels.flip(-1)
    surest = colours == "published" and choice is None
    wanted = FaceChoice(index="all") if surest else choice or FaceChoice()
    found = detect_faces(analyser, pixels, wanted).faces
    if not surest:
        return list(found)
    by_photo = [[face for face in found if face.photo == number] for number in range(len(photos))]
    return [max(faces, key=lambda face: face.score) for faces in by_photo]


def _check(
    adapter: DynamicIDAdapter, vision: Any, analyser: FaceAnalyser, colours: Colours
) -> None:
    if colours not in COLOURS:
        raise ValueError(f"Unknown colours {colours!r}; choose {' or '.join(COLOURS)}.")
    check_vision(vision, CLIP, "clip_vision")
    if analyser.recogniser is None:
        raise ValueError(
            f"'{adapter.name}' reads a recogniser's embedding, and the face analyser has 0 "
            "recognisers, expected 1. Open buffalo_l with Load Face Analyser."
        )


def _check_width(adapter: DynamicIDAdapter, patches: Tensor) -> None:
    if patches.shape[-1] != adapter.clip:
        raise ValueError(
            f"'{adapter.name}' reads {adapter.clip} channels of CLIP vision, this encoder gives "
            f"{patches.shape[-1]}. Load CLIP ViT-H/14 with Load CLIP Vision."
        )


def _whole_photo(photo: Tensor) -> Tensor:
    return (photo[..., :3] * 255).round().clamp(0, 255).to(torch.uint8).cpu()


def _report(
    adapter: DynamicIDAdapter, faces: Sequence[Face], photos: Tensor, colours: Colours
) -> str:
    height, width = photos.shape[1:3]
    lines = [
        f"{len(faces)} face(s) -> {adapter.tokens} tokens for {adapter.name}, {colours} colours"
    ]
    if height != width:
        cut, side = describe_loss(height, width)
        lines.append(f"CLIP does not see {cut:.0%} of the photo, at {side}: it looks at a square.")
    if len(faces) > 1:
        lines.append("The photos are averaged into one identity.")
    return "\n".join(lines)
