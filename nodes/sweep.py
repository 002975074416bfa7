"""One number of a graph over several values: the values, and a report of what they gave."""

import math

from comfy_api.latest import io, ui

from ..model_patches.evaluate import sweep as core
from ..model_patches.evaluate.charts import draw_note, draw_trade_off
from ..model_patches.evaluate.sheet import draw_sheet
from .sweep_progress import watch_sweep
from .types import Number
from .validation import validate

LABEL = "Sweep Report"
ALIASES = ["xy plot", "x/y plot", "grid", "parameter scan", "contact sheet", "trade-off"]
LIMIT = 10000.0


class FlexIDSweepValues(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDSweepValues",
            display_name="Sweep Values",
            category="FlexID/evaluate",
            description="Gives several numbers one after the other: connect it to a weight, or "
            "to any other number, and everything behind it runs once for each value, in one "
            "queue entry. What lies before it runs once.",
            search_aliases=ALIASES,
            inputs=[
                Number(
                    "first",
                    default=0.0,
                    min=-LIMIT,
                    max=LIMIT,
                    step=0.05,
                    tooltip="The first value. 0 is a value like any other; a weight of 0 shows "
                    "the picture without the person.",
                ),
                Number(
                    "last",
                    default=1.0,
                    min=-LIMIT,
                    max=LIMIT,
                    step=0.05,
                    tooltip="The last value; it may be below the first. 0 is a value like any "
                    "other.",
                ),
                io.Int.Input(
                    "count",
                    default=5,
                    min=2,
                    max=core.MOST_VALUES,
                    tooltip="How many values, both ends included; each paints a picture. 0 and 1 "
                    "are no sweep.",
                ),
                io.Combo.Input(
                    "spacing",
                    options=list(core.SPACINGS),
                    default=core.EVEN,
                    tooltip="even: equal differences. geometric: equal ratios, for numbers that "
                    "work by factors; both ends must be above 0, or both below.",
                ),
                io.String.Input(
                    "values",
                    default="",
                    tooltip="Your own values by commas, such as 0, 0.3, 1; then the inputs above "
                    "are not read. Empty: the inputs above.",
                ),
            ],
            outputs=[
                io.Float.Output(
                    "value",
                    is_output_list=True,
                    tooltip="Connect it to the number to sweep, and to Sweep Report.",
                )
            ],
        )

    @classmethod
    def validate_inputs(
        cls,
        first: float | None = None,
        last: float | None = None,
        count: int | None = None,
        spacing: str | None = None,
        values: str | None = None,
    ) -> bool | str:
        return validate(core.list_values, first, last, count, spacing, values)

    @classmethod
    def fingerprint_inputs(
        cls,
        first: float | None = None,
        last: float | None = None,
        count: int | None = None,
        spacing: str | None = None,
        values: str | None = None,
    ) -> str:
        """Always the same: the widgets say all. ComfyUI asks at the start of each run, also when it
        has the values in its cache and does not call `execute`; the nodes behind may run then."""
        if first is None or last is None or count is None or spacing is None or values is None:
            return ""  # linked, and not known yet
        watch_sweep(len(core.list_values(first, last, count, spacing, values)))
        return ""

    @classmethod
    def execute(
        cls, first: float, last: float, count: int, spacing: str, values: str
    ) -> io.NodeOutput:
        found = core.list_values(first, last, count, spacing, values)
        watch_sweep(len(found))
        text = ", ".join(f"{value:g}" for value in found)
        return io.NodeOutput(found, ui=ui.PreviewText(f"{len(found)} values: {text}"))


class FlexIDSweepReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FlexIDSweepReport",
            display_name="Sweep Report",
            category="FlexID/evaluate",
            description="Collects what a sweep painted and measured: a contact sheet, a table, "
            "and a chart of two figures against each other with the knee marked, where more of "
            "one begins to cost too much of the other.",
            search_aliases=ALIASES,
            is_output_node=True,
            is_input_list=True,
            inputs=[
                Number(
                    "values",
                    force_input=True,
                    tooltip="From Sweep Values, which gives the order. 0 is a value like any "
                    "other.",
                ),
                io.Image.Input(
                    "images",
                    tooltip="The pictures that the swept graph paints; of a batch, each gets a "
                    "row.",
                ),
                io.String.Input(
                    "name", default="weight", tooltip="What is swept, for captions and the table."
                ),
                Number(
                    "x",
                    optional=True,
                    force_input=True,
                    tooltip="One figure for each value, such as likeness of Compare Identity. 0 "
                    "is a figure like any other. Not connected: no trade-off and no knee.",
                ),
                io.String.Input("x_name", default="likeness", tooltip="What x is called."),
                io.Combo.Input(
                    "x_better",
                    options=list(core.DIRECTIONS),
                    default=core.HIGHER,
                    tooltip="higher: more of x is better. lower: less of it.",
                ),
                Number(
                    "y",
                    optional=True,
                    force_input=True,
                    tooltip="The figure that gets worse as x gets better, such as change_outside "
                    "of Compare Identity. 0 is a figure like any other. Not connected: no "
                    "trade-off and no knee.",
                ),
                io.String.Input("y_name", default="change outside", tooltip="What y is called."),
                io.Combo.Input(
                    "y_better",
                    options=list(core.DIRECTIONS),
                    default=core.LOWER,
                    tooltip="higher: more of y is better, such as pose_change where the prompt "
                    "asks for another pose. lower: less of it.",
                ),
            ],
            outputs=[
                io.Image.Output("sheet", tooltip="A column for each value, the knee framed."),
                io.Image.Output("chart", tooltip="y over x, the knee ringed."),
                io.String.Output("report"),
                io.String.Output("table", tooltip="CSV, one line for each value."),
                io.Float.Output("knee", tooltip="The value at the knee; NaN where there is none."),
            ],
        )

    @classmethod
    def execute(
        cls, values, images, name, x_name, x_better, y_name, y_better, x=None, y=None
    ) -> io.NodeOutput:
        """Every argument is a list: ComfyUI collects what the swept graph gave."""
        measured = [
            core.Measured(title[0], tuple(numbers), better[0])
            for numbers, title, better in ((x, x_name, x_better), (y, y_name, y_better))
            if numbers is not None
        ]
        core.check_count(values, len(images), "batches of pictures")
        swept = core.Sweep(name[0], tuple(values), tuple(measured))
        best = swept.find_knee()
        sheet = draw_sheet(images, core.caption(swept), best)
        chart = _draw_chart(swept, best)
        text = core.write_report(swept)
        previews = [ui.PreviewImage(one, cls=cls).as_dict() for one in (sheet, chart)]
        return io.NodeOutput(
            sheet,
            chart,
            text,
            core.write_table(swept),
            math.nan if best is None else values[best],
            ui={
                "images": [one for each in previews for one in each["images"]],
                **ui.PreviewText(text).as_dict(),
            },
        )


def _draw_chart(swept: core.Sweep, best: int | None):
    """Of two figures against each other, or of one over the values."""
    points, titles = core.place_points(swept)
    if not any(math.isfinite(a) and math.isfinite(b) for a, b in points):
        return draw_note("No chart: connect x and y, one figure for each value.")
    return draw_trade_off(points, swept.labels, titles, best)


NODES = [FlexIDSweepValues, FlexIDSweepReport]
