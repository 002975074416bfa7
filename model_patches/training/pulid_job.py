"""A whole training of an identity adapter on a user's data: files in, an adapter file out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..adapters.pulid_flux import (
    AdapterFile,
    IdentityAdapter,
    load_adapter,
    open_without_lora,
)
from ..files.tensor_file import digest
from ..inject.flux import flux_sites
from . import distributed
from .data import read_data
from .data_problems import DataError
from .export import TYPES, run_of
from .face_features import FeatureStore
from .flux_encoders import encoders_of, open_vae, prints_of
from .frozen_base import FrozenBase
from .held_out import hold_out
from .loop import Recipe, checkpoint_of, train
from .milestones import every, say
from .optimisers import adamw_recipe
from .pulid_export import export
from .pulid_likeness import LikenessPlan
from .pulid_open import PulidFaces, check_base, make_likeness, open_recogniser
from .pulid_recipe import Course, PulidLoss
from .pulid_rows import Draws, Row, collect_rows
from .pulid_sheet import Studio, write_sheet
from .pulid_trained import TrainedAttention
from .run_folder import check_free, open_run

NAME = "identity_adapter"


@dataclass(frozen=True)
class Job:
    """The options of `start.py train identity-adapter`; setup/train_identity_adapter.py has their
    defaults."""

    data: Path
    base: Path
    adapter: Path
    eva: Path
    faces: Path
    parsing: Path | None
    vae: Path
    decoder: Path | None
    t5: Path
    clip_l: Path
    out: Path
    work: Path
    features: Path | None
    train: str
    layers: str
    rank: int
    steps: int
    batch: int
    part: int
    rate: float
    warmup: int
    decay: float
    average: float
    size: int
    sigmas: str
    guidance: float
    dropout: float
    reference: str
    likeness: float
    likeness_until: float
    likeness_to: str
    face_weight: float
    checkpointing: bool
    export: str
    dtype: str
    export_every: int
    sheet_rows: int
    seed: int

    @property
    def draws(self) -> Draws:
        return Draws(self.seed, self.batch, self.dropout)

    @property
    def course(self) -> Course:
        plan = LikenessPlan(self.likeness, self.likeness_until)
        return Course(self.sigmas, self.face_weight, self.part, plan, self.likeness_to == "target")

    @property
    def recipe(self) -> Recipe:
        return adamw_recipe(NAME, self)


OpenRecogniser = Callable[[Path], nn.Module]
"""The folder of a face pack -> its recogniser, frozen: crops (B, 3, 112, 112) RGB in -1..1 ->
embeddings (B, D), with gradients."""


def run_job(job: Job, device: torch.device, recogniser: OpenRecogniser = open_recogniser) -> None:
    """Check everything, make features, train, and write the adapter.

    Raises DataError for the data, FileNotFoundError, FileExistsError, ValueError or OSError for
    files and options.
    """
    distributed.share(job.batch)
    parent, adapter = open_without_lora(job.adapter), load_adapter(job.adapter)
    check_base(job.base, adapter)
    layers = begin(job, adapter)
    data = collect_rows(read_data(job.data), job.data, job.reference == "other")
    facts = facts_of(job, parent)
    run = open_run(job.work, checkpoint_of(job.recipe, job.work), facts)
    check_free(job.out, run, run_of(job.out))
    store = FeatureStore(
        job.features or job.work / "features",
        data,
        prints_of(job, adapter.encoder_digest),
        job.size,
    )
    encoders = encoders_of(job, partial(PulidFaces, adapter))
    distributed.by_first(lambda: store.fill_faces(encoders))
    distributed.by_first(lambda: store.fill_rest(encoders))
    shown, rows = hold_out(data.rows, job.sheet_rows)
    base = open_base(job, adapter, device)
    likeness = None
    if job.likeness:
        check_faces_to_judge(store, rows)
        judge = recogniser(job.faces).to(device)
        likeness = make_likeness(job, base.format, judge, store, rows, device)
    loss = PulidLoss(base, layers.place(device), store, rows, job.draws, job.course, likeness)
    notes = {**facts, **notes_of(job), "run": run}
    studio = None
    if shown and not distributed.rank():
        studio = Studio(base.patcher, open_vae(job.vae), store, adapter, shown, seed=job.seed)
    write = partial(write_files, job, layers, parent, notes, studio)
    train(job.recipe, layers, loss, job.work, device, every(job.export_every, write))
    distributed.by_first(lambda: write(job.steps))


def begin(job: Job, adapter: IdentityAdapter) -> TrainedAttention:
    """What is trained, as the file has it. Raises ValueError for layers that it lacks."""
    torch.manual_seed(job.seed)
    return TrainedAttention(adapter, job.train, job.layers, job.rank)


def open_base(job: Job, adapter: IdentityAdapter, device: torch.device) -> FrozenBase:
    """Raises ValueError for a base that the adapter was not made for."""
    base = FrozenBase(job.base, device, guidance=job.guidance, checkpointing=job.checkpointing)
    flux_sites(
        base.patcher, adapter.count, adapter.dim, adapter.name, "The trainer", adapter.blocks
    )
    return base


def check_faces_to_judge(store: FeatureStore, rows: Sequence[Row]) -> None:
    """Say how many pictures show no face. Raises DataError where none shows one."""
    without = [row for row in rows if "points" not in store.face(row.photo)]
    if len(without) == len(rows):
        raise DataError(
            f"{store.data.source}: 0 of {len(rows)} pictures show a face, and --likeness compares "
            "faces. Use pictures of people, or train with --likeness 0."
        )
    if without and not distributed.rank():
        say(
            f"{len(without)} of {len(rows)} pictures show no face and have no identity loss; "
            f"first {without[0].place}"
        )


def facts_of(job: Job, parent: AdapterFile) -> dict[str, Any]:
    """What must stay the same when a run goes on: it decides what its weights mean."""
    low_rank = {"rank": job.rank} if job.train == "lora" else {}
    return {
        "adapter": parent.file.path.name,
        "adapter_digest": parent.digest,
        "base": job.base.name,
        "base_digest": digest(job.base),
        "train": job.train,
        "layers": job.layers,
        **low_rank,
    }


def notes_of(job: Job) -> dict[str, Any]:
    """The other options, for the file's metadata."""
    names = (
        "steps", "batch", "rate", "size", "sigmas", "guidance", "dropout", "reference", "likeness",
        "likeness_until", "likeness_to", "face_weight", "seed",
    )  # fmt: skip
    return {"data": job.data.name, **{name: getattr(job, name) for name in names}}


def write_files(
    job: Job,
    layers: TrainedAttention,
    parent: AdapterFile,
    notes: dict[str, Any],
    studio: Studio | None,
    step: int,
) -> None:
    """The adapter as it is by now, and a sheet of it."""
    export(job.out, layers, parent, job.export, TYPES[job.dtype], {**notes, "step": step})
    say(f"step {step}: {job.out}")
    if studio is not None:
        sheet = job.work / "sheets" / f"{step:07}.png"
        write_sheet(studio, layers.as_adapter(studio.before, step), sheet)
        say(f"step {step}: {sheet}")
