"""DynamicID's first stage of training as a whole: files in, an SAA file and sample sheets out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..adapters.dynamicid import DynamicIDAdapter, load_dynamicid
from ..encoders.clip_vision import CLIP_SIZE, look_at_nothing, look_by_pillow
from ..face.face import Face
from ..face.pack import EMBEDDING
from ..files.tensor_file import digest
from . import distributed
from .data import read_data
from .dynamicid_base import SAMPLING, Models, open_models
from .export import TYPES, run_of
from .face_features import FeatureStore, Made, shrink
from .held_out import hold_out
from .loop import Recipe, checkpoint_of, train
from .milestones import every, say
from .optimisers import adamw_recipe
from .pictures import pixels_of, square_of
from .pulid_rows import Draws, Row, Rows, collect_rows
from .run_folder import check_free, open_run
from .saa_recipe import make_loss
from .saa_sheet import Painter, write_sheet
from .saa_trained import TrainedSaa, begin_with, export_saa, fresh_maker
from .unet_base import UNetBase

NAME = "dynamicid_anchor"
RANK = 128


@dataclass(frozen=True)
class Job:
    """The options of `start.py train dynamicid-anchor`; setup/train_dynamicid.py has their
    defaults."""

    data: Path
    base: Path
    clip_vision: Path
    faces: Path
    init: Path | None
    out: Path
    work: Path
    features: Path | None
    rank: int
    """0: that of `init`, else 128."""
    steps: int
    batch: int
    part: int
    rate: float
    last_rate: float
    warmup: int
    decay: float
    average: float
    size: int
    dropout: float
    threshold: float
    dtype: str
    export_every: int
    sheet_rows: int
    seed: int

    @property
    def draws(self) -> Draws:
        return Draws(self.seed, self.batch, self.dropout)

    @property
    def recipe(self) -> Recipe:
        return adamw_recipe(NAME, self, self.last_rate)


class SaaFaces:
    """What the face encoder reads: a FaceEncoder."""

    def __init__(self, vision: Any, _: object = None) -> None:
        self.vision = vision

    def of(self, face: Face, picture: Image.Image, name: str) -> Made:
        """patches (T, 1280) that CLIP sees of the whole picture."""
        seen = look_by_pillow(self.vision, pixels_of(picture))
        return {"patches": shrink(seen.patches[0], name)}

    def nobody(self) -> Made:
        """The same of pixels that are all zero, and an embedding of zeros."""
        seen = look_at_nothing(self.vision, CLIP_SIZE)
        embedding = torch.zeros(EMBEDDING)
        return {"patches": shrink(seen.patches[0], "nobody"), "embedding": embedding}


def run_job(job: Job, device: torch.device) -> None:
    """Check everything, make features, train, and write the file.

    Raises DataError for the data, FileNotFoundError, FileExistsError, ValueError or OSError for
    files and options.
    """
    distributed.share(job.batch)
    parent = None if job.init is None else load_dynamicid(job.init)
    check_rank(job, parent)
    data = collect_rows(read_data(job.data, fewest=1), job.data, other=False)
    facts = facts_of(job, parent)
    run = open_run(job.work, checkpoint_of(job.recipe, job.work), facts)
    check_free(job.out, run, run_of(job.out))
    models = open_models(job.base, job.clip_vision, job.faces, device, SaaFaces)
    work_through(job, models, data, parent, {**facts, **notes_of(job), "run": run}, device)


def work_through(
    job: Job,
    models: Models,
    data: Rows,
    parent: DynamicIDAdapter | None,
    notes: Mapping[str, Any],
    device: torch.device,
) -> None:
    """As `run_job`, with everything at hand. notes: for the file's metadata."""
    folder = job.features or job.work / "features"
    store = FeatureStore(folder, data, models.prints, job.size, square_of)
    distributed.by_first(lambda: store.fill_faces(models.encoders))
    distributed.by_first(lambda: store.fill_rest(models.encoders))
    shown, rows = hold_out(data.rows, job.sheet_rows)
    base = UNetBase(models.base.model, device)
    saa = begin(job, base, store.nobody, parent).to(device)
    loss = make_loss(base, saa, store, rows, job.draws, job.threshold, job.part)
    painter = Painter(
        models.base.model, base, models.base.vae, saa, job.threshold, SAMPLING, job.seed
    )
    write = partial(write_files, job, saa, notes, painter, store, shown)
    train(job.recipe, saa, loss, job.work, device, every(job.export_every, write))
    distributed.by_first(lambda: write(job.steps))


def check_rank(job: Job, parent: DynamicIDAdapter | None) -> None:
    """Raise ValueError where a rank is asked for that the file to begin with does not have."""
    if parent is None or not job.rank:
        return
    rank = parent.lora["0.to_q_lora.down.weight"].shape[0]
    if rank != job.rank:
        raise ValueError(
            f"--rank is {job.rank}, and the LoRA of {parent.name} has rank {rank}. Leave --rank "
            "out, or begin without --init."
        )


def begin(
    job: Job, base: UNetBase, seen: Mapping[str, Tensor], parent: DynamicIDAdapter | None
) -> TrainedSaa:
    """What is trained: fresh, or as a file has it. seen: the features of nobody.

    Raises ValueError where the file does not fit the base, or reads another CLIP.
    """
    torch.manual_seed(job.seed)
    channels = seen["patches"].shape[-1]
    if parent is None:
        maker = fresh_maker(base.text_width, EMBEDDING, channels)
        return TrainedSaa(base, maker, job.rank or RANK)
    if parent.clip != channels:
        raise ValueError(
            f"{parent.name} reads {parent.clip} channels of CLIP vision, {job.clip_vision.name} "
            f"gives {channels}. Name CLIP ViT-H/14."
        )
    return begin_with(base, parent)


def facts_of(job: Job, parent: DynamicIDAdapter | None) -> dict[str, Any]:
    """What must stay the same when a run goes on: it decides what its weights mean."""
    begun = {"init": parent.name, "init_digest": parent.digest} if parent else {}
    rank = {} if parent else {"rank": job.rank or RANK}
    return {"base": job.base.name, "base_digest": digest(job.base), **begun, **rank}


def notes_of(job: Job) -> dict[str, Any]:
    """The other options, for the file's metadata."""
    names = ("steps", "batch", "rate", "size", "dropout", "threshold", "seed")
    return {"data": job.data.name, **{name: getattr(job, name) for name in names}}


def write_files(
    job: Job,
    saa: TrainedSaa,
    notes: Mapping[str, Any],
    painter: Painter,
    store: FeatureStore,
    rows: tuple[Row, ...],
    step: int,
) -> None:
    """The file as it is by now, and a sheet of it."""
    export_saa(job.out, saa, TYPES[job.dtype], {**notes, "step": step})
    say(f"step {step}: {job.out}")
    if rows:
        sheet = job.work / "sheets" / f"{step:07}.png"
        write_sheet(painter, store, rows, job.out, sheet)
        say(f"step {step}: {sheet}")
