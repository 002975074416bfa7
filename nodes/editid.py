"""EditIDv2's controls: how freely a picture asks about the person that an anchor holds."""

from comfy_api.latest import io, ui

from ..model_patches.gates.schedule import COURSES, Course, Schedule
from ..model_patches.gates.window import AXES, Axis
from ..model_patches.inject.query import MODES, MOST_TOKENS, Mode, QueryControl
from . import types
from .validation import validate

ALIASES = ["editid", "editidv2", "editability", "faceid", "pulid"]
QUERY_TOOLTIP = (
    "From Make Query Control, for Flux.1 only: how freely the picture asks about the person. "
    "Not connected: as trained."
)


def _alpha(name: str, tooltip: str) -> io.Input:
    return io.Float.Input(name, default=1.0, min=0.0, max=1.5, step=0.01, tooltip=tooltip)


def _time(name: str, default: float, tooltip: str) -> io.Input:
    return io.Float.Input(
        name, default=default, min=0.0, max=1.0, step=0.01, tooltip=tooltip, advanced=True
    )


class FlexIDQueryControl(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDQueryControl",
            display_name="Make Query Control",
            category="FlexID/inject",
            description=(
                "EditIDv2's control of an anchor's queries, for Apply VFA on Flux.1: mixes what "
                "each place of the picture asks with a compensation term, so that pose, expression "
                "and scene are freer. Experimental: the paper leaves the term open."
            ),
            search_aliases=[*ALIASES, "query compensation", "alpha schedule", "attention"],
            inputs=[
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default="off",
                    tooltip="What queries are mixed with. off: nothing, as trained. initial: those "
                    "of the first step. token_mean: their mean over the picture. zero: nothing, "
                    "which makes the person generic, not weaker. soft_append: they stay, and a "
                    "summary of the picture stands beside the face.",
                ),
                _alpha(
                    "alpha",
                    "Share of the picture's own queries, α0 in the paper. 1: as trained; 0: the "
                    "compensation alone; above 1: away from it.",
                ),
                io.Combo.Input(
                    "schedule",
                    options=list(COURSES),
                    default="constant",
                    tooltip="How alpha goes over the run. constant: the same. paper_decay: falls "
                    "to 0 by the end. sigma_rise: rises from 0 with the noise's fall, so layout is "
                    "free early and likeness comes late. range: from alpha to alpha_end.",
                ),
                _alpha(
                    "alpha_end",
                    "alpha where the range ends; schedule range only. 1: as trained; 0: the "
                    "compensation alone.",
                ),
                _time(
                    "start",
                    0.0,
                    "Where on the time axis the mix begins; before it, alpha is 1. 0: at the first "
                    "step.",
                ),
                _time(
                    "end",
                    1.0,
                    "Where it ends; after it, alpha is 1. 1: at the last step; 0: only the very "
                    "first step can be inside.",
                ),
                io.Combo.Input(
                    "axis",
                    options=list(AXES),
                    default="percent",
                    tooltip="Of start, end, paper_decay and range. percent: the model's noise "
                    "level. progress: steps of this run; differs when denoise is below 1.",
                    advanced=True,
                ),
                io.String.Input(
                    "blocks",
                    default="all",
                    tooltip="Which of the adapter's layers are mixed: all, double, single, or "
                    "numbers such as 0-9, 12. A number after a colon is an alpha of their own: "
                    "double, 12:0.5. The last item that names a layer decides.",
                    advanced=True,
                ),
                io.Int.Input(
                    "tokens",
                    default=4,
                    min=1,
                    max=MOST_TOKENS,
                    tooltip="How many tokens summarise the picture; soft_append only. More dilute "
                    "the face more; 0 is not possible, set mode to off instead.",
                    advanced=True,
                ),
            ],
            outputs=[types.QueryControl.Output("query")],
        )

    @classmethod
    def validate_inputs(
        cls,
        mode=None,
        alpha=None,
        schedule=None,
        alpha_end=None,
        start=None,
        end=None,
        axis=None,
        blocks=None,
        tokens=None,
    ) -> bool | str:
        widgets = (mode, alpha, schedule, alpha_end, start, end, axis, blocks, tokens)
        return validate(_query_control, *widgets)

    @classmethod
    def execute(
        cls, mode, alpha, schedule, alpha_end, start, end, axis, blocks, tokens
    ) -> io.NodeOutput:
        query = _query_control(mode, alpha, schedule, alpha_end, start, end, axis, blocks, tokens)
        return io.NodeOutput(query, ui=ui.PreviewText(query.describe()))


def _query_control(
    mode: Mode,
    alpha: float,
    course: Course,
    alpha_end: float,
    start: float,
    end: float,
    axis: Axis,
    blocks: str,
    tokens: int,
) -> QueryControl:
    schedule = Schedule(course, alpha, alpha_end, start, end, axis)
    return QueryControl(mode, schedule, blocks, tokens)


NODES = [FlexIDQueryControl]
