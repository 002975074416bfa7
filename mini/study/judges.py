"""The two judges of an evaluation: training's own networks, and those that nothing is trained with.

Both look for faces with the same detector. What the figures stand on is the independent one; the
other shows how much of a figure only pleases the networks that adapter and projector learnt from.
"""

from __future__ import annotations

from pathlib import Path

from ...model_patches.face.analyser import FaceAnalyser
from .. import world
from ..estimators import load_estimator
from ..judge_nets import load_judge_estimator, load_judge_recogniser
from .judge import Judge, training_judge

INDEPENDENT, TRAINING = "independent", "training"


def open_judges(analyser: FaceAnalyser, models: Path) -> dict[str, Judge]:
    """By name, the one to trust first; random models have no independent one."""
    estimators = models / world.ESTIMATORS
    known = load_estimator(estimators) if estimators.is_file() else None
    judges = {TRAINING: training_judge(analyser, known)}
    if (models / world.JUDGE_RECOGNISER).is_file():
        judges = {INDEPENDENT: independent_judge(analyser, models)} | judges
    return judges


def independent_judge(analyser: FaceAnalyser, models: Path) -> Judge:
    """Raises FileNotFoundError or ValueError for its files."""
    recogniser = load_judge_recogniser(models / world.JUDGE_RECOGNISER)
    estimator = load_judge_estimator(models / world.JUDGE_ESTIMATORS)
    return Judge(
        analyser.detector,
        lambda rgb, face: recogniser.embed(rgb, face.points),
        lambda rgb, face: estimator.face(rgb, face.points),
        estimator.style,
    )
