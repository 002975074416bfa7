"""A small SD 1.5, small encoders and a few pictures, for both stages of DynamicID's training."""

from __future__ import annotations

import json
import runpy
from pathlib import Path
from typing import Any

import dynamicid_world
import flexip_training
import imr_world
import numpy as np
import tiny_unet
import torch
from comfy.model_patcher import ModelPatcher
from flexid.model_patches.adapters.dynamicid import DynamicIDAdapter
from flexid.model_patches.face.analyser import FaceAnalyser
from flexid.model_patches.face.landmark_image import landmark_image
from flexid.model_patches.face.mesh import Mesh
from flexid.model_patches.training import imr_job, saa_job
from flexid.model_patches.training.checkpoint import Checkpoint
from flexid.model_patches.training.dynamicid_base import Models
from flexid.model_patches.training.face_features import Encoders, FaceMaker, Prints
from flexid.model_patches.training.imr_features import ImrFaces
from flexid.model_patches.training.saa_job import SaaFaces
from pack import ROOT
from PIL import Image
from torch import Tensor

SIZE = 64
WIDTH = tiny_unet.UNET["context_dim"]


class Text(flexip_training.Text):
    """A pooled text as well."""

    def encode_from_tokens(self, caption: str, return_pooled: bool = False) -> tuple:
        text, _ = super().encode_from_tokens(caption)
        return text, text[:, 5]


def write_pictures(folder: Path, names: list[str]) -> None:
    """Noise, 96 x 80 pixels."""
    rng = np.random.default_rng(0)
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((96, 80)).save(folder / name)


def write_list(folder: Path, count: int = 6) -> Path:
    """A list as the authors' trainer reads it."""
    names = [f"{number}.png" for number in range(count)]
    write_pictures(folder, names)
    rows = [{"image_file": name, "text": f"a person, {name}"} for name in names]
    path = folder / "list.json"
    path.write_text(json.dumps(rows), encoding="utf-8")
    return path


def write_published(folder: Path) -> Path:
    """The published layout: two people, the first with words and drawn landmarks, one of KDEF."""
    base = [f"base_image_dataset/{person}/{shot}.png" for person in range(2) for shot in range(3)]
    kdef = [f"KDEF/AF01/AF01{code}.JPG" for code in ("HAHL", "SUS", "anfr")]
    write_pictures(folder, [*base, *kdef])
    for shot in range(3):
        path = folder / f"base_image_dataset/0/{shot}.txt"
        path.write_text(f"a happy expression {shot}, side view.", encoding="utf-8")
        points = 512 * torch.rand(106, 2, generator=torch.Generator().manual_seed(shot))
        drawn = Image.fromarray(landmark_image(points).numpy())
        drawn.save(path.with_name(f"{shot}_landmark.png"))
    return folder


class Smiling:
    """A MeshFinder that sees a smile all over the picture."""

    def find(self, rgb: np.ndarray) -> list[Mesh]:
        from flexid.model_patches.evaluate.expression import SCORER

        names = {name for table in SCORER.values() for name in table}
        sided = {f"{name.rstrip('*')}{side}" for name in names for side in ("Left", "Right")}
        shapes = dict.fromkeys(names | sided, 0.0)
        shapes |= {"mouthSmileLeft": 0.9, "mouthSmileRight": 0.9}
        height, width = rgb.shape[:2]
        none = np.zeros((478, 3))
        return [Mesh((0.0, 0.0, width / 2, height), none[:, :2], none, shapes, np.eye(4))]


def models(
    model: ModelPatcher | None = None,
    adapter: DynamicIDAdapter | None = None,
    finder: Any = None,
    analyser: FaceAnalyser | None = None,
) -> Models:
    """adapter: of the second stage; None: the first."""
    found = analyser or imr_world.analyser((20.0, 0.0, 0.0))

    def open_faces() -> FaceMaker:
        vision = dynamicid_world.vision()
        encoder = ImrFaces(adapter, finder, vision, found) if adapter else SaaFaces(vision)
        return FaceMaker(found, encoder)

    checkpoint = Checkpoint(model or tiny_unet.sd15(), Text(), flexip_training.Vae())
    encoders = Encoders(open_faces, lambda: checkpoint.vae, lambda: checkpoint.clip)
    return Models(checkpoint, encoders, Prints(f"faces {finder}", "latents", "texts"))


def script() -> dict[str, Any]:
    return runpy.run_path(str(ROOT / "setup/train_dynamicid.py"), run_name="script")


def words(folder: Path, stage: str, **files: Path) -> list[str]:
    """The options that must be named."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("base", "clip", "saa"):
        (folder / f"{name}.safetensors").touch()
    given = {
        "data": folder / "data",
        "base": folder / "base.safetensors",
        "clip-vision": folder / "clip.safetensors",
        "faces": folder,
        "out": folder / f"{stage}_IMR.safetensors",
        "work": folder / stage,
    }
    if stage == "reconfigure":
        given["saa"] = folder / "saa.safetensors"
    return [
        stage,
        *(word for name, path in {**given, **files}.items() for word in (f"--{name}", str(path))),
    ]


def _options(folder: Path, stage: str, small: dict[str, object], **files: Path) -> dict:
    loaded = script()
    chosen = vars(loaded["parse"](words(folder, stage, **files)))
    given = {name: value for name, value in chosen.items() if name not in loaded["OWN"]}
    common = {"steps": 2, "rate": 1e-3, "size": SIZE, "export_every": 0}
    return {**given, **common, **small}


def anchor_job(folder: Path, **options: object) -> saa_job.Job:
    """Of two steps and small, unless options say otherwise; the rest as the script has it."""
    small = {"rank": 4, "batch": 4, "sheet_rows": 0, **options}
    data = write_list(folder / "data")
    return saa_job.Job(**_options(folder, "anchor", small, data=data))


def reconfigure_job(folder: Path, **options: object) -> imr_job.Job:
    """As `anchor_job`."""
    small = {"dim": 64, "targets": 3, "batch": 2, "part": 2, "sheet_people": 0, **options}
    data = write_published(folder / "data")
    return imr_job.Job(**_options(folder, "reconfigure", small, data=data))


def weights_of(module: torch.nn.Module) -> dict[str, Tensor]:
    """Without what BatchNorm has seen and counted, which is each process's own."""
    state = module.state_dict()
    own = ("running_mean", "running_var", "num_batches_tracked")
    return {key: value.clone() for key, value in state.items() if not key.endswith(own)}
