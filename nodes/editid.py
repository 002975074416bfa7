"""EditID's controls: what an identity is made of, and how freely a picture asks about it."""

from comfy_api.latest import io, ui

from ..model_patches.gates.schedule import COURSES, Course, Schedule
from ..model_patches.gates.window import AXES, Axis
from ..model_patches.identity.mix import (
    GRID,
    PRESETS,
    FeatureMix,
    parse_levels,
    parse_local_weights,
)
from ..model_patches.inject.editid import PRESETS as EDITID
from ..model_patches.inject.query import MODES, MOST_TOKENS, Mode, QueryControl
from . import types
from .types import Number
from .validation import validate

CUSTOM = "custom"
ALIASES = ["editid", "editidv2", "editability"]
QUERY_TOOLTIP = (
    "From Make Query Control or Choose EditID Preset, for Flux.1 only: "
    "how far the picture's queries depart from their trained values. Not connected: as trained."
)
MIX_TOOLTIP = (
    "From Make Feature Mix or Choose EditID Preset: which of the photo's features Encode Identity "
    "reads. Not connected: all, as PuLID does."
)


def _alpha(name: str, tooltip: str) -> io.Input:
    return Number(name, default=1.0, min=0.0, max=1.5, step=0.01, tooltip=tooltip)


def _time(name: str, default: float, tooltip: str) -> io.Input:
    return Number(
        name, default=default, min=0.0, max=1.0, step=0.01, tooltip=tooltip, advanced=True
    )


class FlexIDQueryControl(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDQueryControl",
            display_name="Make Query Control",
            category="FlexID/inject",
            description="EditIDv2's control of an anchor's queries, for Apply VFA on Flux.1: "
            "mixes the queries of the picture with a compensation term, so that pose, expression "
            "and scene are freer. Experimental: the paper leaves the term open.",
            search_aliases=[*ALIASES, "query compensation", "alpha schedule", "attention"],
            inputs=[
                io.Combo.Input(
                    "mode",
                    options=list(MODES),
                    default="off",
                    tooltip="What queries are mixed with. off: nothing, as trained. initial: "
                    "those of the first step. token_mean: their mean over the picture. zero: 0, "
                    "which makes the face generic rather than weaker. soft_append: they stay as "
                    "they are; tokens that summarise the picture are added to those of the face.",
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
                    "to 0 by the end. sigma_rise: rises from 0 as the noise falls, so the face "
                    "acts little in the early steps. range: from alpha to alpha_end.",
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
                    tooltip="Time axis of start, end, paper_decay and range. percent: the model's "
                    "noise level. progress: steps of this run; differs when denoise is below 1.",
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
                    tooltip="How many tokens summarise the picture; soft_append only. More tokens "
                    "weaken the face more; 0 is not possible, set mode to off instead.",
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


class FlexIDFeatureMix(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDFeatureMix",
            display_name="Make Feature Mix",
            category="FlexID/identity",
            description=(
                "Which features of the photos Encode Identity reads: fewer local details leave the "
                "prompt more freedom in pose, expression and light. Costs nothing while sampling. "
                "Experimental: EditID's own choice of features is not published."
            ),
            search_aliases=[*ALIASES, "mapping", "shift", "local features", "eva clip levels"],
            inputs=[
                io.Combo.Input(
                    "preset",
                    options=[*PRESETS, CUSTOM],
                    default="faithful",
                    tooltip="faithful: all features, as PuLID encodes. balanced: local details on "
                    "half the grid, and weaker. editable: on a quarter, at half the weight. "
                    "loose: no local details. custom: the inputs below; the other presets ignore "
                    "them.",
                ),
                io.String.Input(
                    "layer_map",
                    default="0, 1, 2, 3, 4",
                    tooltip="custom: which level of the vision tower each of the encoder's five "
                    "slots reads, from 0 (texture) to 4 (meaning).",
                    advanced=True,
                ),
                io.String.Input(
                    "local_weight",
                    default="1",
                    tooltip="custom: how much the local details of each slot count, one number or "
                    "five by commas. 1: as trained; 0: left out.",
                    advanced=True,
                ),
                io.Int.Input(
                    "local_pool",
                    default=GRID,
                    min=1,
                    max=GRID,
                    tooltip="custom: patches a side that are left after averaging. 24: all; 1: one "
                    "for the whole face; 0 is not possible, switch cls_only on instead.",
                    advanced=True,
                ),
                io.Boolean.Input(
                    "cls_only",
                    default=False,
                    tooltip="custom: on: no patches at all, one token for each level. Off: patches "
                    "too.",
                    advanced=True,
                ),
                Number(
                    "depth_shift",
                    default=0.0,
                    min=-1.0,
                    max=1.0,
                    step=0.05,
                    tooltip="custom: how far shallow levels move towards the deepest. 0: not at "
                    "all; 1: all the way; below 0: away from it.",
                    advanced=True,
                ),
                Number(
                    "id_scale",
                    default=1.0,
                    min=-1.0,
                    max=2.0,
                    step=0.05,
                    tooltip="custom: how much of the person is in the tokens. 1: all; 0: nobody; "
                    "above 1: exaggerated; below 0: the opposite.",
                    advanced=True,
                ),
                Number(
                    "arcface_scale",
                    default=1.0,
                    min=0.0,
                    max=5.0,
                    step=0.05,
                    tooltip="custom: factor on the recogniser's embedding. 1: as trained; 0: "
                    "without it. Weak, because the encoder normalises.",
                    advanced=True,
                ),
            ],
            outputs=[types.FeatureMix.Output("mix")],
        )

    @classmethod
    def validate_inputs(
        cls,
        preset=None,
        layer_map=None,
        local_weight=None,
        local_pool=None,
        cls_only=None,
        depth_shift=None,
        id_scale=None,
        arcface_scale=None,
    ) -> bool | str:
        widgets = (layer_map, local_weight, local_pool, cls_only)
        return validate(_feature_mix, preset, *widgets, depth_shift, id_scale, arcface_scale)

    @classmethod
    def execute(
        cls,
        preset,
        layer_map,
        local_weight,
        local_pool,
        cls_only,
        depth_shift,
        id_scale,
        arcface_scale,
    ) -> io.NodeOutput:
        widgets = (layer_map, local_weight, local_pool, cls_only)
        mix = _feature_mix(preset, *widgets, depth_shift, id_scale, arcface_scale)
        return io.NodeOutput(mix, ui=ui.PreviewText(mix.describe()))


def _feature_mix(
    preset: str,
    layer_map: str,
    local_weight: str,
    local_pool: int,
    cls_only: bool,
    depth_shift: float,
    id_scale: float,
    arcface_scale: float,
) -> FeatureMix:
    if preset in PRESETS:
        return PRESETS[preset]
    if preset != CUSTOM:
        raise ValueError(f"preset is {preset!r}; choose one of {', '.join((*PRESETS, CUSTOM))}.")
    return FeatureMix(
        parse_levels(layer_map),
        parse_local_weights(local_weight),
        local_pool,
        cls_only,
        depth_shift,
        id_scale,
        arcface_scale,
    )


class FlexIDEditIDPreset(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDEditIDPreset",
            display_name="Choose EditID Preset",
            category="FlexID/identity",
            description=(
                "One choice between likeness and freedom, for Flux.1: sets Make Feature Mix and "
                "Make Query Control together. Connect mix to Encode Identity and query to Apply "
                "VFA. Experimental: the values are starting points."
            ),
            search_aliases=[*ALIASES, "consistency", "preset", "one choice"],
            inputs=[
                io.Combo.Input(
                    "preset",
                    options=list(EDITID),
                    default="consistency",
                    tooltip="consistency: the photo's person as PuLID keeps it, nothing changes. "
                    "balanced: pose and expression are freer. editability: the prompt first, for "
                    "long prompts in which much happens.",
                ),
            ],
            outputs=[
                types.FeatureMix.Output("mix"),
                types.QueryControl.Output("query"),
                io.String.Output("report"),
            ],
        )

    @classmethod
    def execute(cls, preset) -> io.NodeOutput:
        chosen = EDITID[preset]
        report = chosen.describe()
        return io.NodeOutput(chosen.mix, chosen.query, report, ui=ui.PreviewText(report))


NODES = [FlexIDQueryControl, FlexIDFeatureMix, FlexIDEditIDPreset]
