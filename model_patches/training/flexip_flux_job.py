"""A whole FlexIP training for a Flux: files in, an adapter file and sample sheets out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..adapters.flexip import FAMILY
from ..adapters.ip_tokens import Features
from ..adapters.pulid_flux import HEAD
from ..encoders.eva_clip import VisionEncoder
from ..face.face import Face
from ..face.pack import EMBEDDING
from ..files.checks import MAX_HEAD, MIN_HEAD
from ..files.header import peek
from ..files.tensor_file import digest
from ..identity.reference import features_of_face
from . import distributed
from .data import read_data
from .face_features import FeatureStore, Made, Prints, shrink
from .feature_files import key_of
from .flexip_course import Course, begin, hold_out, train_and_write
from .flexip_flux import FluxStreams, FluxWidths, flux_settings, predict_flux_errors
from .flexip_recipe import make_loss
from .flexip_rows import Row, Rows, check_kinds
from .flexip_sheet import Studio
from .flux_encoders import encoders_of, open_vae, prints_of, size_of
from .frozen_base import Anchors, FrozenBase
from .loop import checkpoint_of
from .pulid_rows import Rows as Photos
from .pulid_rows import collect_rows
from .run_folder import check_free, open_run
from .sheets import Sampling

SAMPLING = Sampling(20, 1.0, "euler", "simple")
GUIDANCE = 3.5
"""Of the sheets."""


@dataclass(frozen=True)
class FluxJob(Course):
    """The options for a Flux."""

    vae: Path
    t5: Path
    clip_l: Path
    eva: Path
    faces: Path
    parsing: Path | None
    features: Path | None
    blocks: str
    heads: int
    """0: of 128 channels each."""
    tokens: int
    sigmas: str
    guidance: float
    checkpointing: bool


class FlexIPFaces:
    """What FlexIP reads of a face on a Flux: a FaceEncoder."""

    def __init__(self, vision: VisionEncoder) -> None:
        self.vision = vision

    def of(self, face: Face, picture: Image.Image, name: str) -> Made:
        """context (N, D): EVA-CLIP's patches; pooled (E,): the recogniser's embedding before its
        class token; side (1,): pixels that it sees."""
        found = features_of_face(self.vision, face)
        return self._state({key: shrink(found[key][0], name) for key in ("context", "pooled")})

    def nobody(self) -> Made:
        """The same of zeros."""
        dims = self.vision.dims
        context, pooled = torch.zeros(dims.tokens, dims.width), torch.zeros(EMBEDDING + dims.output)
        return self._state({"context": context.half(), "pooled": pooled.half()})

    def _state(self, made: Made) -> Made:
        return {**made, "side": torch.tensor([float(self.vision.dims.image_size)])}


class FluxFeatures:
    """An identity store as FlexIP's recipe reads it."""

    def __init__(self, store: FeatureStore) -> None:
        self.store = store

    def latent(self, number: int) -> Tensor:
        return self.store.latent(number)["latent"]

    def photo(self, number: int) -> Features:
        face = self.store.face(number)
        return {"context": face["context"], "pooled": face["pooled"]}

    def caption(self, number: int) -> Mapping[str, Tensor]:
        return self.store.text(number)


def run_job(job: FluxJob, device: torch.device) -> None:
    """Check everything, make features, train, and write the adapter.

    Raises DataError for the data, FileNotFoundError, FileExistsError, ValueError or OSError for
    files and options.
    """
    distributed.share(job.batch)
    check_heads(job)
    photos = collect_rows(read_data(job.data), job.data, alone=True)
    rows = rows_of(photos)
    check_kinds(rows, job.draws)
    shown, trained = hold_out(rows, job.sheet_rows)
    check_kinds(trained, job.draws)
    prints = prints_of(job, FAMILY)
    run = open_run(job.work, checkpoint_of(job.recipe, job.work), facts_of(job, prints))
    header = peek(job.out)
    check_free(job.out, run, header.metadata.get("run") if header else None)
    store = FeatureStore(job.features or job.work / "features", photos, prints, job.size)
    encoders = encoders_of(job, FlexIPFaces)
    distributed.by_first(lambda: store.fill_faces(encoders))
    distributed.by_first(lambda: store.fill_rest(encoders))
    base = FrozenBase(job.base, device, guidance=job.guidance, checkpointing=job.checkpointing)
    streams = begin_streams(job, base, store.nobody).to(device)
    features = FluxFeatures(store)
    errors_of = partial(predict_flux_errors, base, streams, job.sigmas)
    loss = make_loss(features, trained, job.draws, device, errors_of, job.part)
    stated = partial(flux_settings, streams, int(store.nobody["side"]))
    vae = open_vae(job.vae) if shown and not distributed.rank() else None
    studio = Studio(
        base.patcher, vae, features, store.show, shown, SAMPLING, job.seed, {"guidance": GUIDANCE}
    )
    train_and_write(job, streams, loss, device, stated, studio, run=run)


def rows_of(photos: Photos) -> Rows:
    """As FlexIP draws them: a picture that is its own reference is a still."""
    rows = [
        Row(
            row.photo,
            () if row.references == (row.photo,) else row.references,
            row.caption,
            row.line,
        )
        for row in photos.rows
    ]
    stills = tuple(row for row in rows if not row.is_video)
    frames = tuple(row for row in rows if row.is_video)
    return Rows(stills, frames, tuple(photo.path for photo in photos.photos), photos.captions)


def begin_streams(job: FluxJob, base: FrozenBase, seen: Mapping[str, Tensor]) -> FluxStreams:
    """Fresh streams of the base's sizes; seen: the features of nobody."""

    def make() -> FluxStreams:
        hidden = base.anchors.hidden
        widths = FluxWidths(
            context=seen["context"].shape[-1],
            pooled=seen["pooled"].shape[-1],
            text=base.text_width,
            hidden=hidden,
            heads=count_heads(job, hidden),
            tokens=job.tokens,
            dim=job.dim,
            depth=job.depth,
            latents=job.latents,
        )
        return FluxStreams(widths, blocks_of(job, base.anchors))

    return begin(job, make)


def blocks_of(job: FluxJob, anchors: Anchors) -> list[tuple[str, int]]:
    """After which blocks the streams work."""
    return anchors.all_blocks if job.blocks == "all" else anchors.blocks


def check_heads(job: FluxJob) -> None:
    """As `count_heads`, by the base's header: before it is read."""
    header = peek(job.base)
    size = size_of(header) if header else None
    if size is not None:
        count_heads(job, size.hidden)


def count_heads(job: FluxJob, hidden: int) -> int:
    """Attention heads of a layer. Raises ValueError for a number that does not divide its width."""
    heads = job.heads or max(1, hidden // HEAD)
    if hidden % heads or not MIN_HEAD <= hidden // heads <= MAX_HEAD:
        raise ValueError(
            f"--heads is {heads} and {job.base.name} has width {hidden}, expected a number that "
            f"divides it into heads of {MIN_HEAD} to {MAX_HEAD} channels, such as "
            f"{max(1, hidden // HEAD)}."
        )
    return heads


def facts_of(job: FluxJob, prints: Prints) -> dict[str, Any]:
    """What must stay the same when a run goes on: it decides what its weights mean."""
    names = ("blocks", "heads", "tokens", "dim", "depth", "latents", "learn_gates")
    return {
        "base": job.base.name,
        "base_digest": digest(job.base),
        "face_encoders": key_of(prints.faces),
        **{name: getattr(job, name) for name in names},
    }
