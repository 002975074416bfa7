"""Encode reference photos into an Identity for IP-Adapter and FlexIP files."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..adapters.flexip import FAMILY, FlexIPAdapter, make_tokens
from ..adapters.flexip_settings import EVA
from ..adapters.ip_tokens import Features
from ..encoders.clip_vision import CLIP, CLIP_SIZE, DINO, check_vision, look, look_at_nothing
from ..encoders.eva_clip import VisionEncoder, encode
from ..encoders.whiten import eva_pixels
from ..face.align import ARCFACE_112, similarity, warp
from ..face.face import Face
from .encode import Encoded
from .identity import Encoding, Identity
from .provenance import join_distinct, pack_version
from .square import cut_middle, describe_loss, make_thumbnail

View = Literal["auto", "face", "whole"]
VIEWS: tuple[View, ...] = ("auto", "face", "whole")
FACE_SCALE = 1.8
"""Side of the view around a face, in face boxes: hair and chin are inside."""
ALIGNED = 224
NULL_TOLERANCE = 1e-3


@dataclass(frozen=True, eq=False)
class Encoders:
    """The vision encoders at hand: CLIP_VISION values, and EVA-CLIP of the pack's own loader."""

    clip: Any = None
    dino: Any = None
    eva: VisionEncoder | None = None


def encode_reference(
    adapter: FlexIPAdapter,
    encoders: Encoders,
    photos: Tensor,
    faces: Sequence[Face] = (),
    view: View = "auto",
) -> Encoded:
    """Encode one person on one or several photos (B, H, W, 3) in [0, 1].

    faces: of that person, from the same photos; FaceID files read their embeddings, files that read
    EVA-CLIP these and the aligned face, whatever the view. view: face is a
    square of 1.8 face boxes, whole the middle square of each photo, auto the face where there is
    one. Several photos are averaged. Raises ValueError when a face or an encoder is missing or
    does not fit.
    """
    view = ("face" if faces else "whole") if view == "auto" else view
    _check(adapter, encoders, faces, view)
    pictures = _cut_views(photos, faces, view)
    seen = [_features(adapter, encoders, photos, *one) for one in pictures]
    tokens = torch.cat([make_tokens(adapter, features) for features in seen])
    null = make_tokens(adapter, _null_features(adapter, encoders, seen[0]))
    _check_null(adapter, null)
    extra = {}
    if adapter.has_personal:
        extra["pooled"] = torch.cat([one["pooled"] for one in seen]).mean(0, keepdim=True)
    recipe = {"adapter": adapter.name, "adapter_digest": adapter.digest, "view": view}
    mean = tokens.mean(0, keepdim=True)
    encoding = Encoding(FAMILY, adapter.encoder_digest, mean, null, extra, recipe)
    features = {}
    embeddings = [face.embedding.float() for face in faces if face.embedding is not None]
    if faces and len(embeddings) == len(faces):
        features["arcface"] = torch.stack(embeddings)
    identity = Identity(
        {FAMILY: encoding},
        features,
        make_thumbnail(pictures[0][0]),
        {"photos": join_distinct(_hashes(photos)), "pack_version": pack_version()},
    )
    return Encoded(identity, _report(adapter, photos, view, tokens))


def _check(adapter: FlexIPAdapter, encoders: Encoders, faces: Sequence[Face], view: View) -> None:
    reads, reads_eva = adapter.reads, adapter.settings.context == EVA
    reads_face = "face" in reads or reads_eva
    if not faces and (view == "face" or reads_face):
        why = f"'{adapter.name}' reads a face" if reads_face else "view is 'face'"
        raise ValueError(
            f"{why}, but 0 faces are connected, expected at least 1. Connect Detect Faces"
            + ("." if reads_face else ", or set view to 'whole'.")
        )
    if reads_face and any(face.embedding is None for face in faces):
        pack = "antelopev2" if reads_eva else "buffalo_l"
        raise ValueError(
            f"'{adapter.name}' reads the recogniser's embedding, and a face has none. Open "
            f"{pack} with Load Face Analyser and detect again."
        )
    if reads_eva:
        _need(adapter, encoders.eva, "eva_clip", "EVA-CLIP", "Load EVA-CLIP")
        return
    wants_dino = _reads_dino(adapter)
    if wants_dino:
        _need(adapter, encoders.dino, "dino", "DINOv2-L (dinov2-large)")
        check_vision(encoders.dino, DINO, "dino")
    if {"pooled", "patches"} & reads.keys() or ("context" in reads and not wants_dino):
        _need(adapter, encoders.clip, "clip_vision", "CLIP ViT-H/14")
        check_vision(encoders.clip, CLIP, "clip_vision")


def _reads_dino(adapter: FlexIPAdapter) -> bool:
    return "context" in adapter.reads and adapter.settings.context == "dinov2-large"


def _need(
    adapter: FlexIPAdapter, vision: Any, place: str, name: str, node: str = "Load CLIP Vision"
) -> None:
    if vision is None:
        raise ValueError(
            f"'{adapter.name}' reads {name}, but nothing is connected to {place}. Connect {node} "
            "with that file."
        )


def _cut_views(
    photos: Tensor, faces: Sequence[Face], view: View
) -> list[tuple[Tensor, Face | None]]:
    """Square pictures (1, S, S, 3), each with the face that it shows."""
    if view == "face":
        return [(_cut_face(photos[face.photo], face), face) for face in faces]
    if faces:
        return [(cut_middle(photos[face.photo]), face) for face in faces]
    return [(cut_middle(photo), None) for photo in photos]


def _cut_face(photo: Tensor, face: Face) -> Tensor:
    """A square around the face, moved and shrunk to stay inside the photo."""
    height, width = photo.shape[:2]
    x0, y0, x1, y1 = face.box
    side = min(round(FACE_SCALE * max(x1 - x0, y1 - y0)), height, width)
    left = min(max(round((x0 + x1 - side) / 2), 0), width - side)
    top = min(max(round((y0 + y1 - side) / 2), 0), height - side)
    return photo[None, top : top + side, left : left + side, :3]


def _features(
    adapter: FlexIPAdapter,
    encoders: Encoders,
    photos: Tensor,
    picture: Tensor,
    face: Face | None,
) -> Features:
    """What the adapter reads of one picture."""
    reads, found = adapter.reads, Features()
    vision = encoders.eva if adapter.settings.context == EVA else None
    if vision is not None and face is not None:
        found = features_of_face(vision, face)
        _check_widths(adapter, found)
        return found
    if "face" in reads and face is not None and face.embedding is not None:
        found["face"] = face.embedding.float()[None]
        if "patches" in reads:
            picture = _cut_aligned(photos[face.photo], face)
    if _reads_dino(adapter):
        seen = look(encoders.dino, picture, adapter.settings.context_size)
        found["context"] = seen.patches[:, 1:]
    if {"pooled", "patches"} & reads.keys() or "context" in reads.keys() - found.keys():
        seen = look(encoders.clip, picture, CLIP_SIZE)
        found["patches"] = seen.patches
        projected = adapter.settings.cls == "projected"
        found["pooled"] = seen.pooled if projected else seen.patches[:, 0]
        found.setdefault("context", seen.patches)
    found: Features = {source: value for source, value in found.items() if source in reads}
    _check_widths(adapter, found)
    return found


def features_of_face(vision: VisionEncoder, face: Face) -> Features:
    """What PuLID-FLUX reads of a face as well: the deepest tap, and a class token that begins with
    the recogniser's unit embedding. Raises ValueError for a face without one."""
    if face.embedding is None:
        raise ValueError(
            "The face has 0 embeddings, expected 1. Detect it with a face pack that has a "
            "recogniser, such as antelopev2."
        )
    pooled, taps = encode(vision, eva_pixels(face, vision.dims.image_size, "auto"))
    embedding = F.normalize(face.embedding.float()[None], dim=-1)
    return {"context": taps[:, -1], "pooled": torch.cat((embedding, pooled), dim=-1)}


def _check_widths(adapter: FlexIPAdapter, features: Features) -> None:
    for source, wanted in adapter.reads.items():
        got = features[source].shape[-1]
        if got != wanted:
            raise ValueError(
                f"'{adapter.name}' reads {wanted} channels as {source}, the encoder gives {got}. "
                "Load the encoder that the file was trained with (ViT-H: 1280 and 1024, ViT-bigG: "
                "1280 pooled, DINOv2-L: 1024, EVA-CLIP: 1024 and 1280)."
            )
    count = adapter.settings.context_tokens
    if count and "context" in features and features["context"].shape[1] != count:
        raise ValueError(
            f"'{adapter.name}' was trained on {count} tokens of its context encoder, this one "
            f"makes {features['context'].shape[1]}. Load the plain file, without registers."
        )


def _cut_aligned(photo: Tensor, face: Face) -> Tensor:
    """The face on ArcFace's template at 224 pixels, as FaceID-plus was trained."""
    rgb = (photo[..., :3] * 255).round().clamp(0, 255).to(torch.uint8).cpu().numpy()
    matrix = similarity(face.points.numpy(), ARCFACE_112 * (ALIGNED / 112))
    crop = warp(np.ascontiguousarray(rgb), matrix, ALIGNED, (0, 0, 0))
    return torch.from_numpy(crop)[None].float() / 255


def _null_features(adapter: FlexIPAdapter, encoders: Encoders, seen: Features) -> Features:
    """What the adapter reads of nobody: zeros, or what encoders make of pixels of zeros."""
    null: Features = {source: torch.zeros_like(value[:1]) for source, value in seen.items()}
    by_pixels = "context" in null and adapter.settings.null == "pixels"
    from_clip = {"patches"} & null.keys()
    if by_pixels:
        from_clip |= {"pooled"} & null.keys()
        if _reads_dino(adapter):
            size = adapter.settings.context_size
            null["context"] = look_at_nothing(encoders.dino, size).patches[:, 1:]
        else:
            from_clip |= {"context"}
    if from_clip:
        blank = look_at_nothing(encoders.clip, CLIP_SIZE)
        projected = adapter.settings.cls == "projected"
        pooled = blank.pooled if projected else blank.patches[:, 0]
        made: Features = {"patches": blank.patches, "context": blank.patches, "pooled": pooled}
        null |= {source: value for source, value in made.items() if source in from_clip}
    return null


def _check_null(adapter: FlexIPAdapter, null: Tensor) -> None:
    """The tokens of nobody that a file states must be those that its encoders make here."""
    if adapter.null is None:
        return
    apart = (adapter.null.float() - null).abs().max().item()
    if not apart <= NULL_TOLERANCE:
        raise ValueError(
            f"'{adapter.name}' states null tokens that differ by up to {apart:.2g} from those made "
            f"here, expected {NULL_TOLERANCE:g} at most: another encoder, or another size of its "
            "picture. Load the encoder that the file was trained with."
        )


def _hashes(photos: Tensor) -> list[str]:
    pixels = (photos[..., :3] * 255).round().clamp(0, 255).to(torch.uint8).cpu()
    return [hashlib.sha256(one.contiguous().numpy().tobytes()).hexdigest() for one in pixels]


def _report(adapter: FlexIPAdapter, photos: Tensor, view: View, tokens: Tensor) -> str:
    height, width = photos.shape[1:3]
    lines = [
        f"{len(tokens)} picture(s) -> {tokens.shape[1]} tokens for {adapter.variant} "
        f"({adapter.name}), view: {view}"
    ]
    if view == "whole" and height != width:
        cut, side = describe_loss(height, width)
        lines.append(f"{cut:.0%} of the photo was cut away at {side}: the encoders see squares.")
    if len(tokens) > 1:
        lines.append("The pictures are averaged into one identity.")
    return "\n".join(lines)
