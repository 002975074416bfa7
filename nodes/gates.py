"""Gates: how strongly an injection works, over the run."""

from comfy_api.latest import io

from ..model_patches.gates.gate import OPEN, Gate
from ..model_patches.gates.window import AXES, SHAPES, Window, parse_points, window
from . import types
from .types import Number
from .validation import validate


def axis_input() -> io.Input:
    """On which clock start and end stand."""
    return io.Combo.Input(
        "axis",
        options=list(AXES),
        default="percent",
        tooltip="percent: the model's noise level, as in core's start/end percent. progress: "
        "steps of this run; differs when denoise is below 1.",
        advanced=True,
    )


class FlexIDWindow(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDWindow",
            display_name="Make Window Gate",
            category="FlexID/gates",
            description=(
                "A weight over time, 0 outside a window. Connect it to Apply VFA to let the "
                "prompt lead early and the likeness follow late, or the other way round."
            ),
            search_aliases=["schedule", "start end", "fade", "timestep", "keyframe", "curve"],
            inputs=[
                io.Combo.Input(
                    "shape",
                    options=list(SHAPES),
                    default="constant",
                    tooltip="constant: weight_start all the way. linear, cosine: from "
                    "weight_start to weight_end. points: the curve written in points.",
                ),
                Number(
                    "start",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Where the window opens, share of the time axis. 0: at once.",
                ),
                Number(
                    "end",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="Where the window closes, share of the time axis. 1: never; 0: only "
                    "the very first step can be inside.",
                ),
                Number(
                    "weight_start",
                    default=1.0,
                    min=-5.0,
                    max=5.0,
                    step=0.05,
                    tooltip="Factor at start (constant: everywhere inside). 0: no effect there.",
                ),
                Number(
                    "weight_end",
                    default=1.0,
                    min=-5.0,
                    max=5.0,
                    step=0.05,
                    tooltip="Factor at end; linear and cosine only. 0: fades out.",
                ),
                io.String.Input(
                    "points",
                    default="0:1, 0.5:0.6, 1:0",
                    tooltip="time:weight pairs, times from 0 to 1 rising, straight lines between "
                    "them; shape points only. A weight of 0 means no effect there.",
                ),
                axis_input(),
                types.Gate.Input(
                    "gate",
                    optional=True,
                    tooltip="Another gate to multiply with. Not connected: factor 1.",
                ),
            ],
            outputs=[types.Gate.Output("gate_out", display_name="gate")],
        )

    @classmethod
    def validate_inputs(
        cls,
        shape: str | None = None,
        start: float | None = None,
        end: float | None = None,
        points: str | None = None,
    ) -> bool | str:
        if shape is not None and shape not in SHAPES:
            return f"shape is {shape!r}; choose one of {', '.join(SHAPES)}."
        span = validate(Window, start, end)
        if span is True and shape == "points":
            return validate(parse_points, points)
        return span

    @classmethod
    def execute(
        cls, shape, start, end, weight_start, weight_end, points, axis, gate=OPEN
    ) -> io.NodeOutput:
        factor = window(shape, start, end, weight_start, weight_end, points, axis)
        return io.NodeOutput(Gate((factor,)) * gate)


NODES = [FlexIDWindow]
