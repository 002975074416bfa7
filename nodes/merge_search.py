"""Search Merge: which weights of a merge are best, one picture for each queue entry."""

from pathlib import Path

import folder_paths
from comfy_api.latest import io, ui
from comfy_execution.graph import ExecutionBlocker

from ..model_patches.adapters.merge_rules import METHODS
from ..model_patches.adapters.merge_scope import ENCODERS, PATHS, Scope
from ..model_patches.evaluate import merge_search as core
from ..model_patches.evaluate.charts import draw_note, draw_trade_off
from ..model_patches.evaluate.sweep import DIRECTIONS, HIGHER, LOWER
from ..model_patches.identity.merge_results import check_name, digest_graph, keep_score
from ..model_patches.identity.merge_search import MOST_PEOPLE, Setup, prepare_trial
from . import types
from .editid import ALIASES
from .identity import list_choices, preview_both
from .merge import MOST
from .progress import show_progress
from .types import Number
from .validation import refuse_more, validate

FOLDER = "merge_search"
SEARCHED = ("lerp", "task_arithmetic", "slerp")
ENCODER_RULES = ("equal", "first")
FREE = {"FlexIDSearchMerge": "trial"}
SEARCH_ALIASES = [*ALIASES, "merge", "fusion", "hyperparameter", "grid search", "sweep"]


def _scope_inputs() -> list[io.Input]:
    return [
        io.String.Input(
            "layers",
            default="all",
            tooltip="Which cross-attention layers are merged: all, or numbers and ranges such as "
            "0-9, 12. The others are copied from base, or from the first adapter.",
            advanced=True,
        ),
        io.String.Input(
            "paths",
            default="all",
            tooltip=f"Which parts of those layers: all, or some of {', '.join(PATHS)}.",
            advanced=True,
        ),
        io.Combo.Input(
            "encoder",
            options=list(ENCODER_RULES),
            default="equal",
            tooltip="What becomes of the encoder. "
            f"{list_choices({key: ENCODERS[key] for key in ENCODER_RULES})}",
            advanced=True,
        ),
    ]


def _adapters() -> io.Autogrow.TemplatePrefix:
    return io.Autogrow.TemplatePrefix(
        types.IdentityAdapter.Input("adapter", tooltip="From Load Identity Adapter, for Flux."),
        prefix="adapter",
        min=1,
        max=MOST,
    )


def _people() -> io.Autogrow.TemplatePrefix:
    return io.Autogrow.TemplatePrefix(
        types.Identity.Input("identity", tooltip="From Encode Identity, or Load Identity."),
        prefix="identity",
        min=1,
        max=MOST_PEOPLE,
    )


class FlexIDSearchMerge(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDSearchMerge",
            display_name="Search Merge",
            category="FlexID/evaluate",
            description="Tries several weights of Merge Identity Adapters on several people and "
            "prompts, one picture for each queue entry, without writing a file. Measure the "
            "picture and connect Search Merge Report.",
            search_aliases=SEARCH_ALIASES,
            inputs=[
                io.Autogrow.Input(
                    "adapters",
                    template=_adapters(),
                    tooltip="As in Merge Identity Adapters: two or more; task_arithmetic: one is "
                    "enough, with base.",
                ),
                io.Autogrow.Input(
                    "identities",
                    template=_people(),
                    tooltip="The people to try, encoded with the first adapter, or with base. "
                    "Intervals need two people or more.",
                ),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default="a photo of a laughing person in a park\n"
                    "a pencil sketch of a person looking to the left",
                    tooltip="One prompt a line; each person is painted with each of them.",
                ),
                io.Int.Input(
                    "trial",
                    default=0,
                    min=0,
                    max=99999,
                    control_after_generate=io.ControlAfterGenerate.increment,
                    tooltip="Which trial this queue entry is. 0: the first. It counts up by "
                    "itself: queue as many as the report says.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFF,
                    control_after_generate=False,  # the page would draw another for each trial
                    tooltip="Of the first person and prompt; the others follow. 0 is a seed like "
                    "any other. All weights get the same noise.",
                ),
                io.Combo.Input(
                    "method",
                    options=list(SEARCHED),
                    default="lerp",
                    tooltip="How the files are merged. "
                    f"{list_choices({key: METHODS[key] for key in SEARCHED})}",
                ),
                io.Int.Input(
                    "steps",
                    default=6,
                    min=2,
                    max=64,
                    tooltip="How many values of each weight are tried, 0 and 1 included. 6: 0, "
                    "0.2, 0.4, 0.6, 0.8, 1. Not read where weights are written.",
                ),
                io.String.Input(
                    "weights",
                    multiline=True,
                    default="",
                    tooltip="Your own weights, one set a line, one number for each adapter, such "
                    "as 0.7, 0.3. Empty: steps.",
                ),
                *_scope_inputs(),
                types.IdentityAdapter.Input(
                    "base",
                    optional=True,
                    tooltip="The file that the others were trained from. task_arithmetic needs "
                    "it. Not connected: the first.",
                ),
            ],
            outputs=[
                types.IdentityAdapter.Output(
                    "adapter", tooltip="Merged in memory; for Apply VFA or Apply FlexID."
                ),
                types.Identity.Output("identity", tooltip="For Apply VFA and Compare Identity."),
                io.String.Output("prompt", tooltip="For the text encoder."),
                io.Int.Output("noise_seed", display_name="seed", tooltip="For the sampler."),
                types.MergeTrial.Output("trial_out", display_name="trial"),
                io.String.Output("report"),
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        prompts: str | None = None,
        layers: str | None = None,
        paths: str | None = None,
        adapters=None,
        identities=None,
    ) -> bool | str:
        """`adapters` and `identities`: ComfyUI passes the growing sockets in any case."""

        def check(prompts: str, layers: str, paths: str) -> None:
            Setup("lerp", "", 2, prompts, 0).list_prompts()
            Scope(layers=layers, paths=paths)

        return validate(check, prompts, layers, paths)

    @classmethod
    def execute(
        cls,
        adapters: dict,
        identities: dict,
        prompts: str,
        trial: int,
        seed: int,
        method,
        steps: int,
        weights: str,
        layers: str,
        paths: str,
        encoder,
        base=None,
        **more,
    ) -> io.NodeOutput:
        refuse_more("Search Merge", f"{MOST} adapters and {MOST_PEOPLE} identities", more)
        setup = Setup(method, weights, steps, prompts, seed, layers, paths, encoder)
        files, people = list(adapters.values()), list(identities.values())
        made = prepare_trial(setup, trial, files, people, base, show_progress())
        report = made.trial.describe()
        return io.NodeOutput(
            made.adapter,
            made.identity,
            made.prompt,
            made.seed,
            made.trial,
            report,
            ui=ui.PreviewText(report),
        )


def _figure_inputs() -> list[io.Input]:
    return [
        io.String.Input("x_name", default="likeness", tooltip="What x is called."),
        io.Combo.Input(
            "x_better",
            options=list(DIRECTIONS),
            default=HIGHER,
            tooltip="higher: more of x is better. lower: less of it.",
        ),
        io.String.Input("y_name", default="change outside", tooltip="What y is called."),
        io.Combo.Input(
            "y_better",
            options=list(DIRECTIONS),
            default=LOWER,
            tooltip="higher: more of y is better, such as a score of how the prompt is obeyed. "
            "lower: less of it.",
        ),
        Number(
            "tolerance",
            default=0.05,
            min=0.0,
            max=10000.0,
            step=0.01,
            tooltip="How much of x may be lost against the best x: of those weights, the ones "
            "with the best y are chosen. 0: the best x alone decides.",
        ),
    ]


class FlexIDSearchMergeReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDSearchMergeReport",
            display_name="Search Merge Report",
            category="FlexID/evaluate",
            description="Keeps the figures of every trial of Search Merge on disk and sums them "
            "up: a table and a chart with intervals over people, and the best weights. An "
            "interrupted search goes on where it stopped.",
            search_aliases=SEARCH_ALIASES,
            is_output_node=True,
            hidden=[io.Hidden.prompt, io.Hidden.unique_id],
            inputs=[
                types.MergeTrial.Input("trial", tooltip="From Search Merge."),
                Number(
                    "x",
                    force_input=True,
                    tooltip="What should not be lost, such as likeness of Compare Identity. 0 is "
                    "a figure like any other.",
                ),
                io.String.Input(
                    "name",
                    default="search",
                    tooltip="Name of the record in output/merge_search. A changed graph or search "
                    "begins another record under the same name; none is overwritten.",
                ),
                *_figure_inputs(),
                Number(
                    "y",
                    optional=True,
                    force_input=True,
                    tooltip="What is to be gained, such as change_outside of Compare Identity or "
                    "a score of the prompt. 0 is a figure like any other. Not connected: the best "
                    "x is chosen.",
                ),
            ],
            outputs=[
                io.Image.Output("chart", tooltip="y over x with intervals, the best ringed."),
                io.String.Output("report"),
                io.String.Output("table", tooltip="CSV, one line for each set of weights."),
                io.String.Output(
                    "weights",
                    tooltip="The best weights, for Merge Identity Adapters. Nothing behind it "
                    "runs before the last trial is done.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, name: str | None = None) -> bool | str:
        return validate(check_name, name)

    @classmethod
    def execute(
        cls, trial, x, name, x_name, x_better, y_name, y_better, tolerance, y=None
    ) -> io.NodeOutput:
        axes = core.Axis(x_name, x_better), None if y is None else core.Axis(y_name, y_better)
        folder = Path(folder_paths.get_output_directory()) / FOLDER
        graph = digest_graph(cls.hidden.prompt, cls.hidden.unique_id, FREE)
        found = keep_score(folder, name, graph, trial, (x, y), axes, tolerance)
        chart, best = _draw_chart(found.search), found.final_weights
        return io.NodeOutput(
            chart,
            found.report,
            core.write_table(found.search),
            ExecutionBlocker(None) if best is None else best,
            ui=preview_both(cls, chart, found.report),
        )


def _draw_chart(search: core.Search):
    if search.best is None:
        return draw_note("No chart yet: no person and prompt has all its weights.")
    points, figures, titles = core.place_points(search)
    ends = [((a.low, a.high), (b.low, b.high)) for a, b in figures]
    return draw_trade_off(points, search.labels, titles, search.best, "best", ends)


NODES = [FlexIDSearchMerge, FlexIDSearchMergeReport]
