"""Encode faces into one Identity: whiten, see, condense, fuse. Each face is encoded once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..adapters.idformer import IDFormer
from ..adapters.pulid import PulidAdapter
from ..adapters.pulid_flux import encode_tokens
from ..encoders.eva_clip import VisionEncoder, encode
from ..encoders.whiten import eva_pixels, whitening_used
from ..face.face import Face, face_key
from ..files.cache import Statistics, TensorCache
from ..files.public_files import ANTELOPEV2, where_to_get
from .fusion import REJECT_OUTLIERS, RULES, Fused, agreement, describe_outliers, fuse
from .identity import Encoding, Identity
from .mix import FAITHFUL, GRID, FeatureMix
from .provenance import join_distinct, pack_version

JOINT = "joint"
FUSIONS = {name: rule.definition for name, rule in RULES.items()} | {
    JOINT: "all photos go through the encoder together and share its tokens (the authors' own way)"
}

THUMBNAIL = 256
SAME_PERSON = 0.25
"""ArcFace cosine below which two photos rarely show one person (thresholds in use: 0.2 to 0.3)."""

_vision_cache: TensorCache[tuple[Tensor, Tensor]] = TensorCache(256 << 20)
_token_cache: TensorCache[tuple[Tensor]] = TensorCache(32 << 20)


@dataclass(frozen=True, eq=False)
class Encoded:
    """An identity, and a report for the user on how it was made."""

    identity: Identity
    report: str


@dataclass(frozen=True)
class EncoderRuns:
    """Work of this process: faces through the vision tower, token sets through the IDFormer."""

    vision: Statistics
    tokens: Statistics


@dataclass(frozen=True, eq=False)
class _Look:
    """Raw features of the faces, one row each, and the cache keys they are known by."""

    keys: tuple[tuple, ...]
    arcface: Tensor
    pooled: Tensor
    hidden: Tensor
    whitened: tuple[str, ...]


def encode_identity(
    adapter: PulidAdapter,
    vision: VisionEncoder,
    faces: Sequence[Face],
    fusion: str = "mean",
    whitening: str = "auto",
    grey: bool = True,
    mix: FeatureMix = FAITHFUL,
) -> Encoded:
    """Encode one person from one or several photos.

    `fusion` is a key of FUSIONS, `whitening` one of `whiten.WHITENING`; `grey` takes the colour
    out of the face (how PuLID was trained); `mix` says which features are read. Results are cached
    by content: the same face with the same files and options runs no encoder. Raises ValueError for
    no face, a face without embedding, mixed recognisers, a vision encoder that does not fit the
    adapter, or a mix that its encoder cannot follow.
    """
    if fusion not in FUSIONS:
        raise ValueError(f"fusion is {fusion!r}, expected one of {', '.join(FUSIONS)}.")
    arcface = _stack_embeddings(faces)
    _check_fit(adapter, vision, arcface.shape[1])
    _check_mix(adapter, mix)
    look = _look(vision, faces, arcface, whitening, grey)
    encoder = _Encoder(adapter, look, mix)
    fused = encoder.joint() if fusion == JOINT else encoder.separate(fusion)
    photos = len(faces) if fusion == JOINT else 1
    encoding = Encoding(
        adapter.family,
        adapter.encoder_digest,
        fused.tokens,
        encoder.null_tokens(photos),
        recipe={
            "adapter": adapter.name,
            "adapter_digest": adapter.digest,
            "vision": vision.name,
            "vision_digest": vision.digest,
            "fusion": fusion,
            "whitening": join_distinct(look.whitened),
            "grey": "yes" if grey else "no",
            **({} if mix.is_neutral else {"mix": mix.describe()}),
        },
    )
    identity = Identity(
        encodings={adapter.family: encoding},
        features={"arcface": look.arcface},
        thumbnail=_thumbnail(faces[max(range(len(faces)), key=fused.shares.__getitem__)]),
        provenance={
            "photos": join_distinct([face.photo_hash for face in faces]),
            "detector": join_distinct([face.detector for face in faces]),
            "recogniser": join_distinct([face.recogniser for face in faces]),
            "pack_version": pack_version(),
        },
    )
    report = _report(faces, look, fused, fusion)
    return Encoded(identity, report if mix.is_neutral else f"{report}\nmix: {mix.describe()}")


def recognise(faces: Sequence[Face]) -> Identity:
    """Who the faces show, by the recogniser alone: an identity without tokens for an adapter.

    Raises ValueError as `encode_identity` does for faces.
    """
    return Identity(
        features={"arcface": _stack_embeddings(faces)},
        thumbnail=_thumbnail(faces[0]),
        provenance={"recogniser": join_distinct([face.recogniser for face in faces])},
    )


def encoder_runs() -> EncoderRuns:
    """How often the encoders really ran in this process, and how often the cache answered."""
    return EncoderRuns(_vision_cache.statistics, _token_cache.statistics)


def forget() -> None:
    """Empty the caches (the counts stay), so that the next encoding runs the encoders."""
    _vision_cache.clear()
    _token_cache.clear()


def _stack_embeddings(faces: Sequence[Face]) -> Tensor:
    """(F, E) float32, all by one recogniser."""
    if not faces:
        raise ValueError("0 faces to encode, expected at least 1. Connect Detect Faces.")
    embeddings = [face.embedding.float() for face in faces if face.embedding is not None]
    if len(embeddings) < len(faces):
        without = [face.photo + 1 for face in faces if face.embedding is None]
        raise ValueError(
            f"{len(without)} of {len(faces)} faces have no recogniser embedding (photo "
            f"{', '.join(map(str, without))}), and an identity is made from it. Open antelopev2 "
            f"with the Load Face Analyser node. {where_to_get(ANTELOPEV2)}"
        )
    recognisers = join_distinct([face.recogniser for face in faces])
    if len({face.recogniser for face in faces}) > 1:
        raise ValueError(
            f"the faces carry embeddings of different recognisers ({recognisers}), which do not "
            "compare. Detect all photos with one face analyser."
        )
    return torch.stack(embeddings)


def _check_fit(adapter: PulidAdapter, vision: VisionEncoder, embedding: int) -> None:
    dims = adapter.encoder.model.dims
    condition = embedding + vision.dims.output
    pairs = [
        ("channels of the vision tower", vision.dims.width, dims.vision),
        ("levels of the vision tower", len(vision.dims.taps), dims.groups),
        ("condition channels (recogniser + pooled vision features)", condition, dims.condition),
    ]
    for name, got, expected in pairs:
        if got != expected:
            raise ValueError(
                f"{vision.name} does not fit {adapter.name}: {got} {name}, expected {expected}. "
                "Load the EVA-CLIP file and the recogniser this adapter was trained with."
            )


def _check_mix(adapter: PulidAdapter, mix: FeatureMix) -> None:
    if mix.reads_local and not isinstance(adapter.encoder.model, IDFormer):
        raise ValueError(
            f"The mix has {mix.describe()}, but the encoder of '{adapter.name}' (PuLID v1) "
            f"averages local tokens itself; expected local_weight 1, local_pool {GRID} and "
            "cls_only off. Use PuLID v1.1 or PuLID-FLUX, or change the mix."
        )


def _look(
    vision: VisionEncoder, faces: Sequence[Face], arcface: Tensor, whitening: str, grey: bool
) -> _Look:
    whitened = tuple(whitening_used(face, whitening) for face in faces)
    keys = tuple(
        (face_key(face), vision.digest, mode, grey)
        for face, mode in zip(faces, whitened, strict=True)
    )
    known = {key: _vision_cache.get(key) for key in dict.fromkeys(keys)}
    found = {key: entry for key, entry in known.items() if entry is not None}
    for face, key, mode in zip(faces, keys, whitened, strict=True):
        if key not in found:  # one by one: a batch would let photos change each other's rounding
            pixels = eva_pixels(face, vision.dims.image_size, mode, grey)
            found[key] = _vision_cache.put(key, encode(vision, pixels))
    pooled, hidden = (torch.cat(rows) for rows in zip(*(found[k] for k in keys), strict=True))
    return _Look(keys, arcface, pooled, hidden, whitened)


@dataclass(frozen=True, eq=False)
class _Encoder:
    """An adapter's encoder on the looks of one person."""

    adapter: PulidAdapter
    look: _Look
    mix: FeatureMix

    def separate(self, fusion: str) -> Fused:
        tokens = [self._tokens([row]) for row in range(len(self.look.keys))]
        return fuse(tokens, fusion, self.look.arcface)

    def joint(self) -> Fused:
        rows = list(range(len(self.look.keys)))
        return Fused(self._tokens(rows), (1 / len(rows),) * len(rows))

    def _tokens(self, rows: list[int]) -> Tensor:
        """Tokens (1, N, D) of one person on the photos `rows`, together."""
        look, mix = self.look, self.mix
        key = (self.adapter.digest, mix.encoder_facts, *(look.keys[row] for row in rows))
        entry = _token_cache.get(key)
        if entry is None:
            arcface = look.arcface[rows]
            if mix.arcface_scale != 1.0:
                arcface = arcface * mix.arcface_scale
            condition = torch.cat((arcface, look.pooled[rows]), dim=-1)[None]
            hidden = look.hidden[rows]
            if mix.encoder_facts:
                hidden = mix.shape_levels(hidden)
            hidden = hidden.transpose(0, 1).flatten(1, 2)[None]
            tokens = encode_tokens(self.adapter, condition, hidden, mix.weights)
            entry = _token_cache.put(key, (tokens,))
        if mix.id_scale == 1.0:
            return entry[0]
        return mix.scale_identity(entry[0], self.null_tokens(len(rows)))

    def null_tokens(self, photos: int) -> Tensor:
        """The encoder's tokens for zero features, whatever the mix: not zero, for it has biases
        and learned queries."""
        look = self.look
        levels, tokens, width = look.hidden.shape[1:]
        key = (self.adapter.digest, "null", photos, levels, tokens, width)
        entry = _token_cache.get(key)
        if entry is None:
            condition = torch.zeros(1, photos, look.arcface.shape[1] + look.pooled.shape[1])
            hidden = torch.zeros(1, levels, photos * tokens, width)
            entry = _token_cache.put(key, (encode_tokens(self.adapter, condition, hidden),))
        return entry[0]


def _thumbnail(face: Face) -> Tensor:
    picture = face.ffhq_crop.permute(2, 0, 1)[None].float()
    small = F.interpolate(picture, (THUMBNAIL, THUMBNAIL), mode="bicubic", antialias=True)
    return small[0].permute(1, 2, 0).round().clamp(0, 255).to(torch.uint8)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _report(faces: Sequence[Face], look: _Look, fused: Fused, fusion: str) -> str:
    """One line for the whole, one per face, with a warning where they may show two people."""
    photos = [(face.photo, face.photo_hash) for face in faces]
    lines = [
        f"{_count(len(faces), 'face')} of {_count(len(set(photos)), 'photo')} -> "
        f"{fused.tokens.shape[1]} identity tokens, fusion: {fusion}"
    ]
    for face, photo, cosine, share, mode in zip(
        faces, photos, agreement(look.arcface).tolist(), fused.shares, look.whitened, strict=True
    ):
        number = f", face {face.number}" if photos.count(photo) > 1 else ""
        line = f"photo {face.photo + 1}{number}: whitening {mode}, share {share:.0%}"
        if len(faces) > 1:
            line += f", agreement with the others {round(cosine, 2) + 0.0:.2f}"  # no "-0.00"
            line += " - is this the same person?" if cosine < SAME_PERSON else ""
        lines.append(line)
    if fusion == REJECT_OUTLIERS:
        lines.append(describe_outliers(look.arcface))
    lines.append(f"recogniser: {faces[0].recogniser}")
    if "ellipse" in look.whitened:
        lines.append(
            "No face parser was used: the ellipse keeps some background and cuts wide hair. For "
            "PuLID's own whitening put facexlib's parsing_bisenet.pth into models/facexlib."
        )
    return "\n".join(lines)
