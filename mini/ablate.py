"""`start.py train editid-ablation`: EditIDv2's ablation in the small world, by the trainer of
identity adapters.

3,000 drawn pictures of 20 people whom no model has seen; from the small world's adapter, six
trainings that differ in the weight of the identity loss (0, 0.1, 0.5) and in the reference (the
picture itself, another photo). Every finished training is skipped, so the same command goes on
where it was stopped. Judge the files on held-out people with judges that no training has seen.
"""

from __future__ import annotations

import argparse
import runpy
import sys
from itertools import product
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FIRST = 700_000
"""Seed of the first person: of no recipe's people, nor of those to tune with or to measure with."""
PEOPLE, SHOTS = 20, 150
WEIGHTS = (0.0, 0.1, 0.5)
REFERENCES = ("target", "other")


def parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="editid-ablation",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--work", type=Path, required=True, help="folder for pictures, features and files")
    add("--people", type=int, default=PEOPLE, help=f"default {PEOPLE}")
    add("--shots", type=int, default=SHOTS, help=f"pictures of each person; default {SHOTS}")
    add("--steps", type=int, default=2000, help="of each training; default 2000")
    add("--batch", type=int, default=8, help="rows of a step, computed at once; default 8")
    add("--rate", type=float, default=1e-4, help="learning rate; default 1e-4")
    add("--device", default="cpu", help="torch device: cpu (default), cuda, ...")
    chosen = parser.parse_args(arguments)
    for name, low in (("people", 1), ("shots", 2), ("steps", 1), ("batch", 1)):
        value = getattr(chosen, name)
        if value < low:
            parser.error(f"--{name} is {value}, expected at least {low}")
    return chosen


def name_of(weight: float, reference: str) -> str:
    return f"lambda_{weight:g}_{reference}"


def words_of(chosen: argparse.Namespace, weight: float, reference: str) -> list[str]:
    """The options of one training."""
    from flexid.mini import world

    files, work = world.WEIGHTS, chosen.work
    name = name_of(weight, reference)
    given = {
        "data": work / "people",
        "base": files / world.FLUX,
        "adapter": files / world.PULID,
        "eva": files / world.EVA,
        "faces": (files / world.RECOGNISER).parent,
        "vae": files / world.VAE,
        "t5": files / world.T5,
        "clip-l": files / world.CLIP_L,
        "out": work / f"{name}.safetensors",
        "work": work / name,
        "features": work / "features",
        "likeness": weight,
        "reference": reference,
        "steps": chosen.steps,
        "batch": chosen.batch,
        "part": chosen.batch,
        "rate": chosen.rate,
        "size": 128,
        "export-every": 0,
        "sheet-rows": 4,
        "device": chosen.device,
    }
    return [*(f"--{key}={value}" for key, value in given.items()), "--no-checkpointing"]


def main() -> None:
    chosen = parse(sys.argv[1:])
    trainer = runpy.run_path(str(ROOT / "setup" / "train_identity_adapter.py"))
    trainer["BOOTSTRAP"]["open_comfyui"](cpu=chosen.device == "cpu")
    from flexid.mini import world
    from flexid.mini.training.people_folder import write_people
    from flexid.model_patches.face.analyser import load_analyser
    from flexid.model_patches.training.script import STOPPED, raise_on_term

    raise_on_term()
    try:
        people = range(FIRST, FIRST + chosen.people)
        pack = (world.WEIGHTS / world.RECOGNISER).parent
        finder = load_analyser(pack, "pack", ["CPU"], None).detector
        write_people(chosen.work / "people", people, chosen.shots, keep=finder.find)
        for weight, reference in product(WEIGHTS, REFERENCES):
            out = chosen.work / f"{name_of(weight, reference)}.safetensors"
            if out.exists():
                sys.stdout.write(f"{out}: done\n")
                continue
            trainer["run"](trainer["parse"](words_of(chosen, weight, reference)))
    except KeyboardInterrupt:
        sys.exit(STOPPED)
    except (FloatingPointError, OSError, ValueError) as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
