"""What Apply ID Guidance puts on a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...face.analyser import FaceAnalyser
from ...gates.beta import Beta
from ...gates.gate import Gate
from ...gates.numbers import check_number
from ..region import Region
from ..run import WholePrediction

ID_GUIDANCE = "id_guidance"
LABEL = "Apply ID Guidance"
LARGEST_STRENGTH = 0.5
LARGEST_EVERY = 8
LARGEST_LOW_PASS = 4.0
MOST_JITTERS = 8


@dataclass(frozen=True)
class Guiding:
    """How strongly, when and how carefully predictions are moved.

    Raises ValueError for a number out of its range.
    """

    strength: float = 0.1
    """In root mean squares of the gradient, within ±LARGEST_STRENGTH; negative moves away."""
    beta: Beta = Beta("constant", 0.2, 0.9)
    every: int = 1
    """Evaluations from one gradient to the next, 1 to LARGEST_EVERY."""
    low_pass: float = 1.0
    """Sigma of a Gaussian on the gradient, 0 to LARGEST_LOW_PASS cells of the latent."""
    jitters: int = 2
    """Crops of the face that the gradient is the mean of, 1 to MOST_JITTERS."""

    def __post_init__(self) -> None:
        name = f"The strength of {LABEL}"
        check_number(name, self.strength, -LARGEST_STRENGTH, LARGEST_STRENGTH)
        check_number("every", self.every, 1, LARGEST_EVERY)
        check_number("low_pass", self.low_pass, 0.0, LARGEST_LOW_PASS)
        check_number("jitters", self.jitters, 1, MOST_JITTERS)

    def describe(self) -> str:
        """One line for the user."""
        if self.strength == 0.0:
            return "strength is 0: the model is unchanged, and nothing is decoded"
        often = "every evaluation" if self.every == 1 else f"one of {self.every} evaluations"
        beta = self.beta
        return (
            f"strength {self.strength:g}, {beta.shape} from {beta.start:g} to {beta.end:g} "
            f"({beta.axis}); a gradient in {often}, low-pass {self.low_pass:g}, "
            f"jitters {self.jitters}"
        )


@dataclass(frozen=True, eq=False)
class IdGuidance(WholePrediction):
    """One person whom a recogniser should see: an Injection that acts on whole predictions."""

    wanted: Tensor
    """(D,) float32, a unit vector."""
    analyser: FaceAnalyser
    recogniser: ModelPatcher
    """A FaceNetwork."""
    vae: Any
    """A comfy.sd.VAE."""
    guiding: Guiding
    gate: Gate
    """β times the user's own."""
    region: Region | None
    order: str

    kind = ID_GUIDANCE
    label = LABEL
    wraps = "prediction of a step"

    def models(self) -> list[ModelPatcher]:
        return [self.recogniser, self.vae.patcher]
