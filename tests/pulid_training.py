"""A few drawn people and the small world's weights, for trainings of identity adapters."""

from __future__ import annotations

import runpy
from pathlib import Path

from flexid.mini import world
from flexid.mini.training.people_folder import write_people
from flexid.model_patches.training.pulid_job import Job
from pack import ROOT

SHOTS = 3
WEIGHTS = world.WEIGHTS


def words(folder: Path) -> list[str]:
    """The options that must be named."""
    files = {
        "data": folder / "people",
        "base": WEIGHTS / world.FLUX,
        "adapter": WEIGHTS / world.PULID,
        "eva": WEIGHTS / world.EVA,
        "faces": (WEIGHTS / world.RECOGNISER).parent,
        "vae": WEIGHTS / world.VAE,
        "t5": WEIGHTS / world.T5,
        "clip-l": WEIGHTS / world.CLIP_L,
        "out": folder / "out.safetensors",
        "work": folder / "work",
    }
    return [word for name, path in files.items() for word in (f"--{name}", str(path))]


def job(folder: Path, people: int = 3, **options: object) -> Job:
    """Of two steps and small, unless options say otherwise; the rest as the script has it."""
    script = runpy.run_path(str(ROOT / "setup/train_identity_adapter.py"), run_name="script")
    if not (folder / "people").exists():
        write_people(folder / "people", range(11, 11 + people), SHOTS)
    chosen = vars(script["parse"](words(folder)))
    small = {"steps": 2, "batch": 2, "warmup": 0, "size": 128, "export_every": 0, "sheet_rows": 0}
    given = {name: value for name, value in chosen.items() if name not in script["OWN"]}
    return Job(**{**given, **small, **options})
