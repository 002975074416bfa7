"""DynamicID's second stage of training as a whole: files in, both files of the reconfigurator and
sample sheets out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..adapters.dynamicid import DynamicIDAdapter, load_dynamicid
from ..adapters.imr import MotionEditor, load_editor
from ..face.analyser import FaceAnalyser
from ..face.mesh import MeshFinder
from ..files.tensor_file import digest
from . import distributed
from .dynamicid_base import SAMPLING, Models, open_models
from .export import TYPES, run_of
from .face_features import FaceEncoder, FeatureStore
from .held_out import hold_out
from .imr_features import (
    ImrFaces,
    find_points,
    is_usable,
    photos_of,
    with_words,
    words_of,
)
from .imr_people import Draws, People, keep_usable, read_subjects
from .imr_recipe import Course, ImrLoss
from .imr_sheet import write_sheet
from .imr_trained import WIDTHS, TrainedImr, export_imr, published_dims
from .loop import Recipe, checkpoint_of, train
from .milestones import every, say
from .optimisers import adamw_recipe
from .pictures import square_of
from .run_folder import check_free, open_run
from .saa_sheet import Painter
from .saa_trained import begin_with
from .unet_base import UNetBase

NAME = "dynamicid_reconfigure"


@dataclass(frozen=True)
class Job:
    """The options of `start.py train dynamicid-reconfigure`; setup/train_dynamicid.py has their
    defaults."""

    data: Path
    base: Path
    saa: Path
    clip_vision: Path
    faces: Path
    landmarker: Path | None
    init: Path | None
    init_keypoints: Path | None
    out: Path
    out_keypoints: Path
    work: Path
    features: Path | None
    dim: int
    depth: int
    motion: int
    steps: int
    batch: int
    targets: int
    part: int
    kdef_share: float
    rate: float
    last_rate: float
    warmup: int
    decay: float
    average: float
    size: int
    weight: float
    perturb: float
    threshold: float
    dtype: str
    export_every: int
    sheet_people: int
    seed: int

    @property
    def draws(self) -> Draws:
        return Draws(self.seed, self.batch, self.targets, self.kdef_share)

    @property
    def course(self) -> Course:
        return Course(self.weight, self.part, self.perturb, self.threshold)

    @property
    def files(self) -> tuple[Path, Path]:
        return self.out, self.out_keypoints

    @property
    def recipe(self) -> Recipe:
        return adamw_recipe(NAME, self, self.last_rate)


def run_job(job: Job, device: torch.device, finder: MeshFinder | None = None) -> None:
    """Check everything, make features, train, and write both files.

    finder: names the expressions of pictures that have no words. Raises DataError for the data,
    FileNotFoundError, FileExistsError, ValueError or OSError for files and options.
    """
    distributed.share(job.batch)
    adapter = load_dynamicid(job.saa)
    parent = load_editor(job.init, job.init_keypoints) if job.init and job.init_keypoints else None
    net = begin(job, adapter, parent)
    people = read_subjects(job.data)
    facts = facts_of(job, adapter, parent)
    run = open_run(job.work, checkpoint_of(job.recipe, job.work), facts)
    for path in job.files:
        check_free(path, run, run_of(path))

    def encode(vision: object, analyser: FaceAnalyser) -> FaceEncoder:
        check_landmarks(job, people, analyser)
        return ImrFaces(adapter, finder, vision, analyser)

    made_by = repr((adapter.encoder_digest, job.landmarker and digest(job.landmarker)))
    models = open_models(job.base, job.clip_vision, job.faces, device, encode, made_by)
    notes = {**facts, **notes_of(job), "run": run}
    work_through(job, models, people, adapter, net, notes, device)


def work_through(
    job: Job,
    models: Models,
    people: People,
    adapter: DynamicIDAdapter,
    net: TrainedImr,
    notes: Mapping[str, Any],
    device: torch.device,
) -> None:
    """As `run_job`, with everything at hand. notes: for the files' metadata."""
    store = make_store(job, models, people)
    faces = [store.face(number) for number in range(len(people.shots))]
    points = find_motions(people, faces)
    shown, subjects = hold_out(keep_usable(people, points), job.sheet_people)
    base = UNetBase(models.base.model, device)
    saa = begin_with(base, adapter).requires_grad_(False).to(device)
    net = net.to(device)
    loss = ImrLoss(base, saa, net, store, points, subjects, job.draws, job.course)
    vae = models.base.vae
    painter = Painter(models.base.model, base, vae, saa, job.threshold, SAMPLING, job.seed)
    sheet = partial(write_sheet, painter, adapter, store, points, shown, job.files)

    def write(step: int) -> None:
        export_imr(*job.files, net, TYPES[job.dtype], {**notes, "step": step})
        say(f"step {step}: {job.out}, {job.out_keypoints}")
        if shown:
            path = job.work / "sheets" / f"{step:07}.png"
            sheet(path)
            say(f"step {step}: {path}")

    train(job.recipe, net, loss, job.work, device, every(job.export_every, write))
    distributed.by_first(lambda: write(job.steps))


def make_store(job: Job, models: Models, people: People) -> FeatureStore:
    """Features of all pictures: first their faces, of which words are estimated, then the rest."""
    folder, data = job.features or job.work / "features", photos_of(people)
    found = FeatureStore(folder, data, models.prints, job.size, square_of)
    distributed.by_first(lambda: found.fill_faces(models.encoders))
    faces = [found.face(number) for number in range(len(people.shots))]
    worded = with_words(data, words_of(people.shots, faces))
    store = FeatureStore(folder, worded, models.prints, job.size, square_of)
    distributed.by_first(lambda: store.fill_rest(models.encoders))
    return store


def find_motions(people: People, faces: Sequence[Mapping[str, Tensor]]) -> dict[int, Tensor]:
    """Landmarks of each picture that can be used; says how many cannot."""
    usable = [n for n, shot in enumerate(people.shots) if is_usable(shot, faces[n])]
    left = sorted({*range(len(people.shots))} - {*usable})
    if left and not distributed.rank():
        say(
            f"{len(left)} of {len(people.shots)} pictures show no face and are left out; first "
            f"{people.shots[left[0]].place}"
        )
    return {number: find_points(people.shots[number], faces[number]) for number in usable}


def begin(job: Job, adapter: DynamicIDAdapter, parent: MotionEditor | None) -> TrainedImr:
    """What is trained, fresh or as files have it. Raises ValueError where these do not fit."""
    torch.manual_seed(job.seed)
    net = TrainedImr(published_dims(adapter.width, job.dim, job.depth, job.motion), WIDTHS)
    if parent is not None:
        net.begin_with(parent)
    return net


def check_landmarks(job: Job, people: People, analyser: FaceAnalyser) -> None:
    """Raise ValueError where landmarks are to be detected and nothing detects them."""
    without = [shot for shot in people.shots if shot.landmarks is None]
    if without and analyser.landmarks is None:
        raise ValueError(
            f"{job.faces} has 0 landmark models, and {len(without)} pictures have no picture of "
            f"their landmarks (first {without[0].place}), expected 1. Name buffalo_l's folder, "
            "with 2d106det.onnx in it."
        )


def facts_of(job: Job, adapter: DynamicIDAdapter, parent: MotionEditor | None) -> dict[str, Any]:
    """What must stay the same when a run goes on: it decides what its weights mean."""
    begun = {"init": parent.name, "init_digest": parent.digest} if parent else {}
    return {
        "base": job.base.name,
        "base_digest": digest(job.base),
        "saa": adapter.name,
        "saa_digest": adapter.digest,
        "dim": job.dim,
        "depth": job.depth,
        "motion": job.motion,
        **begun,
    }


def notes_of(job: Job) -> dict[str, Any]:
    """The other options, for the files' metadata."""
    names = (
        "steps", "batch", "targets", "kdef_share", "rate", "size", "weight", "perturb",
        "threshold", "seed",
    )  # fmt: skip
    return {"data": job.data.name, **{name: getattr(job, name) for name in names}}
