"""Measures the face networks' files on held-out people, through the pack's own loaders."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from ...model_patches.evaluate.statistics import verification_area
from ...model_patches.face.analyser import load_analyser
from ...model_patches.face.boxes import Detection, Detector, overlap
from ..estimators import ANGLES, load_estimator
from ..study.judge import Judge, training_judge
from ..world import DETECTOR, ESTIMATORS
from .faces_degrade import degrade
from .faces_held_out import GROUPS, PEOPLE, SHOTS, Drawn, draw_groups, draw_singles
from .options import Options, models

FILE = Path("flexid/flexid_mini_faces.json")
MATCH = 0.5
"""Overlap from which a detection counts as the face."""
Figures = dict[str, float]


def evaluate_faces(work: Path, device: torch.device, options: Options) -> None:
    """Write the figures beside the weights and show them. Runs on the CPU.

    options.people, options.groups: so many held-out people and groups in place of all. Raises
    FileNotFoundError when a network has not been trained.
    """
    pack = (models(work) / DETECTOR).parent
    analyser = load_analyser(pack, "pack", ["CPU"], None)
    judge = training_judge(analyser, load_estimator(models(work) / ESTIMATORS))
    singles = draw_singles(people=options.people or PEOPLE)
    figures = measure(judge, singles, draw_groups(pictures=options.groups or GROUPS))
    path = models(work) / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(figures, indent=1)
    path.write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(f"{text}\n{path}\n")


def measure(judge: Judge, singles: Sequence[Drawn], groups: Sequence[Drawn]) -> dict[str, dict]:
    """All figures. `singles` as `draw_singles` gives them."""
    return {
        "pictures": {"singles": len(singles), "groups": len(groups)},
        "singles": _measure_all(judge, singles),
        "singles, degraded": _measure_all(judge, damage_pictures(singles)),
        "groups, detection": detection(find(judge.detector, groups), groups),
        "small faces, detection": _detect_small_faces(judge.detector, singles),
    }


def _measure_all(judge: Judge, drawn: Sequence[Drawn]) -> dict[str, Figures]:
    found = find(judge.detector, drawn)
    first = [one[0] if one else None for one in found]
    return {
        "detection": detection(found, drawn),
        "recognition": recognition(judge, first, drawn),
        "estimation": estimation(judge, first, drawn),
    }


def find(detector: Detector, drawn: Sequence[Drawn]) -> list[list[Detection]]:
    """The faces of each picture, the surest first."""
    return [detector.find(one.image) for one in drawn]


def damage_pictures(drawn: Sequence[Drawn]) -> list[Drawn]:
    """As in training, each the same way every time."""
    randoms = (np.random.default_rng((5, number)) for number in range(len(drawn)))
    return [
        _replace_image(one, degrade(random, one.image, wobble=False))
        for one, random in zip(drawn, randoms, strict=True)
    ]


def _replace_image(one: Drawn, image: np.ndarray, shift: float = 0.0) -> Drawn:
    return Drawn(image, one.seeds, one.shots, one.boxes + shift, one.points + shift)


def _detect_small_faces(detector: Detector, drawn: Sequence[Drawn]) -> Figures:
    """The first picture of each person in the middle of a grey one of four times its side."""
    pad = drawn[0].image.shape[0] * 3 // 2
    edges = ((pad, pad), (pad, pad), (0, 0))
    wide = [
        _replace_image(one, np.pad(one.image, edges, constant_values=128), pad)
        for one in drawn[::SHOTS]
    ]
    return detection(find(detector, wide), wide)


def detection(found: Sequence[Sequence[Detection]], drawn: Sequence[Drawn]) -> Figures:
    """Recall at an overlap of one half, spurious detections per picture, overlap, point error."""
    overlaps, errors, wanted, extra = [], [], 0, 0
    for detections, truth in zip(found, drawn, strict=True):
        left = list(detections)
        for box, points in zip(truth.boxes, truth.points, strict=True):
            wanted += 1
            best = max(left, key=lambda one, box=box: _overlap(one, box), default=None)
            if best is None or _overlap(best, box) < MATCH:
                continue
            left.remove(best)
            overlaps.append(_overlap(best, box))
            side = np.sqrt(np.prod(box[2:] - box[:2]))
            errors.append(float(np.linalg.norm(best.points - points, axis=1).mean() / side))
        extra += len(left)
    return {
        "faces": wanted,
        "recall": len(overlaps) / wanted,
        "spurious per picture": extra / len(drawn),
        "overlap": _mean(overlaps),
        "point error in face sides": _mean(errors),
    }


def _overlap(one: Detection, box: np.ndarray) -> float:
    return float(overlap(np.array(one.box), box[None])[0])


def recognition(
    judge: Judge, found: Sequence[Detection | None], drawn: Sequence[Drawn]
) -> dict[str, Figures]:
    """Verification over all pairs of pictures, of all styles and of photos alone."""
    pairs = [(one, truth) for one, truth in zip(found, drawn, strict=True) if one]
    units = np.stack([_embed(judge, truth.image, one) for one, truth in pairs])
    people = np.array([truth.seeds[0] for _, truth in pairs])
    photos = np.array([truth.style == "photo" for _, truth in pairs])
    return {
        "all styles": verification(units, people),
        "photos": verification(units[photos], people[photos]),
        "between photos and other styles": verification(units, people, photos),
    }


def _embed(judge: Judge, rgb: np.ndarray, one: Detection) -> np.ndarray:
    raw = judge.embed(rgb, one).numpy()
    return raw / np.linalg.norm(raw)


def verification(
    units: np.ndarray, people: np.ndarray, photos: np.ndarray | None = None
) -> Figures:
    """units (N, D) of length 1. `photos`: only pairs of a photo and another style count."""
    cosines = units @ units.T
    pairs = np.triu(np.ones(cosines.shape, bool), 1)
    if photos is not None:
        pairs &= photos[:, None] != photos
    alike = people[:, None] == people
    same, different = cosines[pairs & alike], cosines[pairs & ~alike]
    strict = np.quantile(different, 0.999)
    return {
        "area under the curve": verification_area(same, different),
        "same person, mean cosine": _mean(same),
        "different people, mean cosine": _mean(different),
        "different people, deviation": float(different.std()),
        "told same at 0.1 % false": float((same > strict).mean()),
    }


def estimation(judge: Judge, found: Sequence[Detection | None], drawn: Sequence[Drawn]) -> Figures:
    """Shares that are right, and mean absolute angles in degrees, in the faces that were found."""
    right, errors = [], []
    styles = [judge.style(one.image) == one.style for one in drawn]
    for one, truth in zip(found, drawn, strict=True):
        if one is None:
            continue
        seen, shot = judge.estimate(truth.image, one), truth.shots[0]
        right.append(seen.expression == shot.expression)
        errors.append([abs(getattr(seen, angle) - getattr(shot, angle)) for angle in ANGLES])
    angles = dict(zip(ANGLES, np.mean(errors, 0).tolist(), strict=True))
    pose = {f"{angle}, degrees": value for angle, value in angles.items()}
    return {"expression": _mean(right), "style": _mean(styles), "pose": _mean(errors)} | pose


def _mean(values: Sequence[float] | np.ndarray) -> float:
    return float(np.mean(values)) if len(values) else float("nan")
