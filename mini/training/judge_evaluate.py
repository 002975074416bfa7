"""What both judges of the evaluation are worth, side by side, on held-out people."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ...model_patches.face.analyser import load_analyser
from ...model_patches.face.boxes import Detection
from .. import portraits
from ..study.evaluation import measure
from ..study.judge import Judge
from ..study.judges import open_judges
from ..study.options import SPLITS
from ..study.people import reference
from ..study.prompts import Prompt, all_prompts
from ..world import DETECTOR
from .data import SIZE
from .faces_evaluate import damage_pictures, estimation, find, recognition
from .faces_held_out import PEOPLE, Drawn, draw_singles
from .options import Options, curves, models

FILE = "judges.json"
SITTERS = 24
"""People of the tuning split whom the renderer draws by the prompts."""
SEED = 102


def evaluate_judges(work: Path, device: torch.device, options: Options) -> None:
    """Write the figures beside the curves and show them. Runs on the CPU.

    options.people: so many held-out people in place of all. Raises FileNotFoundError when a
    network has not been trained.
    """
    pack = (models(work) / DETECTOR).parent
    judges = open_judges(load_analyser(pack, "pack", ["CPU"], None), models(work))
    singles = draw_singles(people=options.people or PEOPLE)
    sets = {"drawn": singles, "drawn, degraded": damage_pictures(singles)}
    detector = next(iter(judges.values())).detector  # of both
    faces = {kind: [one[:1] for one in find(detector, drawn)] for kind, drawn in sets.items()}
    first = SPLITS["tune"]
    sitters = [draw_sitting(first + n) for n in range(min(SITTERS, options.people or SITTERS))]
    figures = {
        name: {kind: accuracy(judge, faces[kind], drawn) for kind, drawn in sets.items()}
        | {"drawn by the prompts": ceiling(judge, sitters)}
        for name, judge in judges.items()
    }
    path = curves(work) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({"pictures": len(singles), "sitters": len(sitters)} | figures, indent=1)
    path.write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(f"{text}\n{path}\n")


def accuracy(
    judge: Judge, faces: Sequence[Sequence[Detection]], drawn: Sequence[Drawn]
) -> dict[str, dict]:
    """Verification, and what is read of expression, pose and style; at most one face each."""
    first = [one[0] if one else None for one in faces]
    return {
        "recognition": recognition(judge, first, drawn),
        "estimation": estimation(judge, first, drawn),
    }


Sitting = tuple[np.ndarray, list[np.ndarray]]
"""A reference photo, and a picture of the same person for each of the prompts."""


def draw_sitting(seed: int) -> Sitting:
    return reference(seed, SIZE), [draw_prompt(seed, prompt) for prompt in all_prompts()]


def ceiling(judge: Judge, sitters: Sequence[Sitting]) -> dict[str, float]:
    """What the evaluation would say of a painter that keeps the person and obeys every prompt: the
    renderer draws them."""
    found: dict[str, list[float]] = {}
    for photo, pictures in sitters:
        known = judge.remember(photo)
        for prompt, picture in zip(all_prompts(), pictures, strict=True):
            seen = judge.look(picture, known)
            for name, value in measure(prompt, seen).items():
                if value is not None:
                    found.setdefault(name, []).append(float(value))
    return {name: float(np.mean(values)) for name, values in found.items()}


def draw_prompt(seed: int, prompt: Prompt) -> np.ndarray:
    """(128, 128, 3) uint8: the person as the prompt asks; the rest is drawn as for a photo."""
    rng = np.random.default_rng((SEED, seed, all_prompts().index(prompt)))
    tilt = (prompt.tilt or 0.0) * float(rng.choice((-1, 1)))
    shot = portraits.shot(
        rng,
        expression=prompt.expression or "neutral",
        style=prompt.style or "photo",
        yaw=float(prompt.yaw or rng.uniform(-8, 8)),
        pitch=float(prompt.pitch or rng.uniform(-5, 5)),
        roll=tilt or float(rng.uniform(-5, 5)),
    )
    return portraits.render(portraits.picture(rng, ((portraits.person(seed), shot),)), SIZE).image
