"""Apply ID CFG: predictions are moved away from nobody, without a recogniser."""

from comfy_api.latest import io

from ..model_patches.gates.gate import OPEN, Gate
from ..model_patches.gates.window import Window
from ..model_patches.inject.id_cfg import LABEL, LARGEST_SCALE, apply_id_cfg
from . import types
from .gates import axis_input
from .types import Number
from .validation import validate


class FlexIDApplyIDCFG(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDApplyIDCFG",
            display_name=LABEL,
            category="FlexID/inject",
            description="Classifier-free guidance for the person: predicts the prompt with and "
            "without the person of Apply VFA, and moves further in the same direction. Needs no "
            "recogniser; takes a second prediction in each step while it is on.",
            search_aliases=["face", "faceid", "likeness", "editid", "identity guidance"],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="A model with Apply VFA (before or after this node), whose negative is "
                    "unconditional or none. Only the returned model is patched.",
                ),
                Number(
                    "scale",
                    default=0.5,
                    min=0.0,
                    max=LARGEST_SCALE,
                    step=0.05,
                    tooltip="How far beyond the prediction with the person. 0: the model as it "
                    "was, at no cost; 1: adds the difference between the predictions with and "
                    "without the person once more.",
                ),
                Number(
                    "start",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Where on the time axis it starts. 0: at the first step.",
                    advanced=True,
                ),
                Number(
                    "end",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Where it ends. 1: at the last step; 0: only the very first step can "
                    "be inside.",
                    advanced=True,
                ),
                axis_input(),
                types.Gate.Input(
                    "gate",
                    optional=True,
                    tooltip="A weight over time that multiplies scale. Not connected: 1 "
                    "everywhere.",
                ),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip="Where in the picture it works: 1 here, 0 not here. Not connected: "
                    "everywhere.",
                ),
            ],
            outputs=[io.Model.Output("model_out", display_name="model")],
        )

    @classmethod
    def validate_inputs(cls, start: float | None = None, end: float | None = None) -> bool | str:
        return validate(Window, start, end)

    @classmethod
    def execute(cls, model, scale, start, end, axis, gate=OPEN, mask=None) -> io.NodeOutput:
        whole = Gate((Window(start, end, axis),)) * gate
        return io.NodeOutput(apply_id_cfg(model, scale=scale, gate=whole, mask=mask))


NODES = [FlexIDApplyIDCFG]
