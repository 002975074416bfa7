"""Apply ID Guidance: predictions are moved to where a recogniser sees the person more."""

from comfy_api.latest import io, ui

from ..model_patches.face.choose import FaceChoice
from ..model_patches.face.detect import detect_faces
from ..model_patches.gates.beta import SHAPES, Beta
from ..model_patches.gates.gate import OPEN
from ..model_patches.gates.window import Window
from ..model_patches.identity.encode import recognise
from ..model_patches.identity.identity import Identity
from ..model_patches.inject.id_guidance.apply import apply_id_guidance, describe_guidance
from ..model_patches.inject.id_guidance.settings import (
    LABEL,
    LARGEST_EVERY,
    LARGEST_LOW_PASS,
    LARGEST_STRENGTH,
    MOST_JITTERS,
    Guiding,
)
from . import types
from .gates import axis_input
from .types import Number
from .validation import validate

DEFAULT = Guiding()


def _course_inputs() -> list[io.Input]:
    return [
        io.Combo.Input(
            "schedule",
            options=list(SHAPES),
            default=DEFAULT.beta.shape,
            tooltip="β between start and end. constant: 1. window: 0 at both, 1 in the middle. "
            "cosine_decay: strong early, as in the paper. rise: strong late.",
            advanced=True,
        ),
        Number(
            "start",
            default=DEFAULT.beta.start,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Where on the time axis guidance starts. 0: at the first step, where the "
            "prediction shows no face yet.",
            advanced=True,
        ),
        Number(
            "end",
            default=DEFAULT.beta.end,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Where it ends. 1: at the last step; earlier lets the model smooth what "
            "guidance did. 0: only the very first step can be inside.",
            advanced=True,
        ),
        axis_input(),
    ]


def _care_inputs() -> list[io.Input]:
    return [
        io.Int.Input(
            "every",
            default=DEFAULT.every,
            min=1,
            max=LARGEST_EVERY,
            tooltip="A gradient is computed in every n-th evaluation and reused in between. 1: "
            "computed in each; 0 is not possible: to switch guidance off, set strength to 0.",
            advanced=True,
        ),
        Number(
            "low_pass",
            default=DEFAULT.low_pass,
            min=0.0,
            max=LARGEST_LOW_PASS,
            step=0.1,
            tooltip="Blur of the gradient, in latent pixels (8 of the picture). 0: no blur; then "
            "fine texture gets through that only the recogniser counts as likeness.",
            advanced=True,
        ),
        io.Int.Input(
            "jitters",
            default=DEFAULT.jitters,
            min=1,
            max=MOST_JITTERS,
            tooltip="Number of crops of the face over which the gradient is averaged: the plain "
            "one, and mirrored, shifted, scaled and turned ones. 1: the plain one alone; 0 is not "
            "possible.",
            advanced=True,
        ),
    ]


class FlexIDApplyIDGuidance(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDApplyIDGuidance",
            display_name=LABEL,
            category="FlexID/inject",
            description="Moves every prediction a little in the direction that makes it more like "
            "the person for the face recogniser (EditIDv2, equation 11). Needs no adapter, and "
            "works beside one. Part of what the recogniser gains is texture that people do not "
            "see as likeness: keep the strength low, and measure with another recogniser.",
            search_aliases=["face", "faceid", "likeness", "editid", "classifier guidance"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="Flux.1, SDXL, SD 1.5 or another model of pictures, with or without "
                    "Apply VFA. Only the returned model is patched.",
                ),
                types.FaceAnalyser.Input(
                    "analyser",
                    tooltip="From Load Face Analyser: its detector finds the face in the "
                    "predictions, its recogniser measures the likeness.",
                ),
                io.Vae.Input(
                    "vae",
                    tooltip="Decodes the predictions. The model's own VAE, or a tiny one from Load "
                    "VAE, which costs far less: taef1 for Flux.1, taesdxl, taesd.",
                ),
                Number(
                    "strength",
                    default=DEFAULT.strength,
                    min=-LARGEST_STRENGTH,
                    max=LARGEST_STRENGTH,
                    step=0.01,
                    tooltip="How far a prediction is moved, in root mean squares of the gradient. "
                    "0: the model as it was, and nothing is decoded; negative moves away from the "
                    "person.",
                ),
                *_course_inputs(),
                *_care_inputs(),
                types.Identity.Input(
                    "identity",
                    optional=True,
                    tooltip="The person, from Encode Identity, made with the same face model pack. "
                    "Connect this or image.",
                ),
                io.Image.Input(
                    "image",
                    optional=True,
                    tooltip="One or several photos of the person, instead of an identity; the "
                    "largest face of each counts.",
                ),
                types.Gate.Input(
                    "gate",
                    optional=True,
                    tooltip="A weight over time that multiplies strength. Not connected: 1 "
                    "everywhere.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where this person's face is, for several people: 1 here, 0 not here. "
                    "Use one node for each. Not connected: the largest face.",
                ),
            ],
            outputs=[io.Model.Output("model_out", display_name="model")],
        )

    @classmethod
    def validate_inputs(cls, start: float | None = None, end: float | None = None) -> bool | str:
        return validate(Window, start, end)

    @classmethod
    def execute(
        cls,
        model,
        analyser,
        vae,
        strength,
        schedule,
        start,
        end,
        axis,
        every,
        low_pass,
        jitters,
        identity=None,
        image=None,
        gate=OPEN,
        mask=None,
    ) -> io.NodeOutput:
        guiding = Guiding(strength, Beta(schedule, start, end, axis), every, low_pass, jitters)
        person = _person(analyser, identity, image)
        patched = apply_id_guidance(model, analyser, person, vae, guiding, gate=gate, mask=mask)
        return io.NodeOutput(patched, ui=ui.PreviewText(describe_guidance(guiding, mask)))


def _person(analyser, identity, image) -> Identity:
    """Who is wanted. Raises ValueError unless one of both is connected."""
    if (identity is None) == (image is None):
        found = "neither" if identity is None else "both"
        raise ValueError(
            f"{LABEL} takes an identity or an image, got {found}. Connect one of the two."
        )
    if identity is not None:
        return identity
    return recognise(detect_faces(analyser, image, FaceChoice(), "error").faces)


NODES = [FlexIDApplyIDGuidance]
