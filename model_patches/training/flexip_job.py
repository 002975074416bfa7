"""A whole FlexIP training for a Stable Diffusion checkpoint: files in, an adapter file and sample
sheets out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from ..adapters.ip_adapter import load_ip_adapter
from ..files.tensor_file import digest
from . import distributed
from .checkpoint import Checkpoint, open_checkpoint, open_vision
from .data import read_data
from .flexip_course import Course, begin, hold_out, train_and_write
from .flexip_features import FeatureMakers, FeatureStore, read_square
from .flexip_recipe import make_loss
from .flexip_rows import Row, Rows, check_kinds, collect_rows
from .flexip_sheet import Studio
from .flexip_streams import FlexIPStreams, Widths, predict_errors, settings_for
from .sheets import Sampling
from .unet_base import UNetBase

CONTEXTS = {"dino": "dinov2-large", "clip": "clip-h-penultimate"}
CONTEXT_SIZE = 224
SAMPLING = Sampling(20, 7.5, "ddim", "ddim_uniform")


@dataclass(frozen=True)
class Job(Course):
    """The options for a Stable Diffusion checkpoint."""

    clip_vision: Path
    dino: Path | None
    init: Path | None
    context: str


@dataclass(frozen=True, eq=False)
class Models:
    """The frozen models of a job."""

    base: Checkpoint
    makers: FeatureMakers


def run_job(job: Job, device: torch.device) -> None:
    """Read and check the data, make features, train, and write the adapter.

    Raises DataError for the data, FileNotFoundError, ValueError or OSError for files.
    """
    rows = collect_rows(read_data(job.data), job.data)
    check_kinds(rows, job.draws)
    shown, trained = hold_out(rows, job.sheet_rows)
    check_kinds(trained, job.draws)
    models = open_models(job, device)
    work_through(job, models, trained, shown, device)


def work_through(
    job: Job, models: Models, rows: Rows, shown: tuple[Row, ...], device: torch.device
) -> None:
    """As `run_job`, with the models at hand."""
    models.makers.check()
    store = FeatureStore(job.work / "features", rows, models.makers.fingerprint)
    distributed.by_first(partial(store.fill, models.makers))
    base = UNetBase(models.base.model, device)
    streams = begin_streams(job, base, store).to(device)
    errors_of = partial(predict_errors, base, streams)
    loss = make_loss(store, rows, job.draws, device, errors_of, job.part)
    parent = {"parent": digest(job.init)} if job.init else {}
    name, context = models.base.kind, CONTEXTS[job.context]
    stated = partial(settings_for, name, streams, context, CONTEXT_SIZE)

    def show(number: int) -> torch.Tensor:
        return read_square(rows.pictures[number], job.size)[0]

    studio = Studio(models.base.model, models.makers.vae, store, show, shown, SAMPLING, job.seed)
    train_and_write(job, streams, loss, device, stated, studio, **parent)


def begin_streams(job: Job, base: UNetBase, store: FeatureStore) -> FlexIPStreams:
    """Streams of the base's sizes, fresh or from an IP-Adapter file."""

    def make() -> FlexIPStreams:
        seen = store.photo(0)
        widths = Widths(
            context=seen["context"].shape[-1],
            pooled=seen["pooled"].shape[-1],
            text=base.text_width,
            dim=job.dim,
            depth=job.depth,
            latents=job.latents,
        )
        streams = FlexIPStreams(widths, base.attention)
        if job.init:
            streams.begin_with(load_ip_adapter(job.init))
        return streams

    return begin(job, make)


def open_models(job: Job, device: torch.device) -> Models:
    """Through ComfyUI's own loaders. Raises ValueError for a file of another kind."""
    opened = open_checkpoint(job.base, device)
    dino = open_vision(job.dino) if job.context == "dino" and job.dino else None
    files = (job.base, job.clip_vision, job.dino) if dino else (job.base, job.clip_vision)
    facts = (*(digest(file) for file in files if file), job.size, CONTEXT_SIZE)
    vision = open_vision(job.clip_vision)
    makers = FeatureMakers(
        opened.vae, opened.clip, vision, dino, job.size, CONTEXT_SIZE, repr(facts)
    )
    return Models(opened, makers)
