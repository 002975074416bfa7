"""A whole FlexIP training on a user's data: files in, an adapter file and sample sheets out."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import comfy.clip_vision
import comfy.sd
import torch
from comfy.model_patcher import ModelPatcher
from torch import nn

from ..adapters.ip_adapter import load_ip_adapter
from ..files.tensor_file import digest
from . import distributed
from .data import read_data
from .flexip_features import FeatureMakers, FeatureStore
from .flexip_recipe import (
    every,
    export,
    learn_gates,
    notes_of,
    settings_for,
    train_flexip,
)
from .flexip_rows import Draws, Row, Rows, check_kinds, collect_rows
from .flexip_sheet import Studio, write_sheet
from .flexip_streams import FlexIPStreams, Widths
from .loop import Recipe, Training
from .precision import fastest_dtype
from .unet_base import UNetBase

CONTEXTS = {"dino": "dinov2-large", "clip": "clip-h-penultimate"}
CONTEXT_SIZE = 224
FEWEST_TO_HOLD_OUT = 10
"""Rows behind each one that is kept for sheets."""


@dataclass(frozen=True)
class Job:
    """The options of `start.py train flexip`; setup/train_flexip.py has their defaults."""

    data: Path
    base: Path
    clip_vision: Path
    out: Path
    work: Path
    dino: Path | None
    init: Path | None
    context: str
    steps: int
    batch: int
    rate: float
    warmup: int
    muon: bool
    average: float
    size: int
    alpha: float
    beta: float
    spread: float
    learn_gates: bool
    video_share: float
    dropout: float
    dim: int
    depth: int
    latents: int
    export_every: int
    sheet_rows: int
    seed: int

    @property
    def draws(self) -> Draws:
        return Draws(
            self.seed, self.batch, self.video_share, self.alpha, self.beta, self.spread,
            self.dropout,
        )  # fmt: skip

    @property
    def recipe(self) -> Recipe:
        return Recipe(
            "flexip",
            steps=self.steps,
            rate=self.rate,
            warmup=self.warmup,
            average=self.average,
            seed=self.seed,
            muon=self.muon,
        )


@dataclass(frozen=True, eq=False)
class Models:
    """The frozen models of a job, in ComfyUI's own objects."""

    model: ModelPatcher
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
    base = UNetBase(models.model, device)
    streams = begin(job, base, store)
    context = CONTEXTS[job.context]
    parent = {"parent": digest(job.init)} if job.init else {}
    stated = partial(settings_for, base_name(models.model), streams, context, CONTEXT_SIZE)
    studio = Studio(models.model, models.makers.vae, store, shown, job.size, job.seed)

    def write(module: nn.Module, step: int) -> None:
        notes = notes_of(streams, job.draws, step, data=job.data.name, **parent)
        export(job.out, streams, stated(notes))
        _say(f"step {step}: {job.out}")
        if shown:
            sheet = job.work / "sheets" / f"{step:07}.png"
            write_sheet(studio, job.out, sheet)
            _say(f"step {step}: {sheet}")

    def milestone(run: Training) -> None:
        with run.averaged() as module:
            write(module, run.step)

    draws, recipe = job.draws, job.recipe
    each = every(job.export_every, milestone)
    train_flexip(recipe, base, streams, store, rows, draws, job.work, each)
    distributed.by_first(lambda: write(streams, recipe.steps))


def hold_out(rows: Rows, count: int) -> tuple[tuple[Row, ...], Rows]:
    """Rows for the sheets, and the others. Few rows: at most one in ten is kept."""
    found = [*rows.frames, *rows.stills]
    count = min(count, len(found) // FEWEST_TO_HOLD_OUT)
    kept = set(found[:: max(1, len(found) // count)][:count]) if count else set()
    stills, frames = (
        tuple(row for row in kind if row not in kept) for kind in (rows.stills, rows.frames)
    )
    return tuple(row for row in found if row in kept), replace(rows, stills=stills, frames=frames)


def begin(job: Job, base: UNetBase, store: FeatureStore) -> FlexIPStreams:
    """Streams of the base's sizes, fresh or from an IP-Adapter file."""
    torch.manual_seed(job.seed)
    seen = store.picture(0)
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
    if job.learn_gates:
        learn_gates(streams, job.draws)
    return streams


def base_name(model: ModelPatcher) -> str:
    """The kind of base that a file states, for messages: "sd15", "sdxl", ..."""
    config: Any = getattr(model.model, "model_config", None)
    return type(config).__name__.lower()


def open_models(job: Job, device: torch.device) -> Models:
    """Through ComfyUI's own loaders. Raises ValueError for a file of another kind."""
    options = {"dtype": fastest_dtype(device)}
    model, clip, vae, _ = comfy.sd.load_checkpoint_guess_config(
        str(job.base), model_options=options
    )
    if model is None or clip is None or vae is None:
        parts = {"a UNet": model, "a text encoder": clip, "a VAE": vae}
        missing = " and ".join(name for name, part in parts.items() if part is None)
        raise ValueError(
            f"{job.base.name} has no {missing.removeprefix('a ')}, a whole checkpoint is needed. "
            "Name a checkpoint of SD 1.5 or SDXL."
        )
    dino = _open_vision(job.dino) if job.context == "dino" and job.dino else None
    files = (job.base, job.clip_vision, job.dino) if dino else (job.base, job.clip_vision)
    facts = (*(digest(file) for file in files if file), job.size, CONTEXT_SIZE)
    vision = _open_vision(job.clip_vision)
    makers = FeatureMakers(vae, clip, vision, dino, job.size, CONTEXT_SIZE, repr(facts))
    return Models(model, makers)


def _open_vision(path: Path) -> Any:
    vision = comfy.clip_vision.load(str(path))
    if vision is None:
        raise ValueError(
            f"{path.name} is no vision encoder that ComfyUI knows. Use the file that Load CLIP "
            "Vision opens (for DINOv2 the one with Hugging Face's names, without registers)."
        )
    return vision


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()
