"""Sweep Values and Sweep Report as nodes; tests/server runs them in ComfyUI's own queue."""

import math

import pytest
import torch
from flexid.nodes.sweep import FlexIDSweepReport, FlexIDSweepValues

pytestmark = pytest.mark.comfy

VALUES = [0.0, 0.25, 0.5, 0.75, 1.0]


def report(values=VALUES, images=None, **options):
    """As ComfyUI calls a node that takes lists: every argument is one."""
    texts = {"name": "weight", "x_name": "likeness", "x_better": "higher", "y_name": "change",
             "y_better": "lower"}  # fmt: skip
    pictures = [torch.full((1, 64, 64, 3), 0.5)] * len(values) if images is None else images
    arguments = {key: [text] for key, text in texts.items()}
    return FlexIDSweepReport.execute(values=values, images=pictures, **arguments, **options)


def test_values_come_out_as_a_list():
    done = FlexIDSweepValues.execute(0.0, 1.0, 5, "even", "")
    assert done.result == (VALUES,)
    assert done.ui.as_dict()["text"] == ("5 values: 0, 0.25, 0.5, 0.75, 1",)
    schema = FlexIDSweepValues.define_schema()
    assert schema.outputs[0].is_output_list and FlexIDSweepReport.define_schema().is_input_list


def test_wrong_values_are_refused_before_anything_runs():
    assert FlexIDSweepValues.validate_inputs(0.0, 1.0, 5, "even", "") is True
    assert "is no number" in FlexIDSweepValues.validate_inputs(0.0, 1.0, 5, "even", "a")
    assert "65 values" in FlexIDSweepValues.validate_inputs(0.0, 1.0, 65, "even", "")


def test_a_report_with_a_knee():
    likeness, change = [0.1, 0.5, 0.9, 0.95, 1.0], [0.0, 0.05, 0.1, 0.4, 0.8]
    sheet, chart, text, table, knee = (done := report(x=likeness, y=change)).result
    assert knee == 0.5 and "knee: weight 0.5" in text and table.startswith("weight,likeness,")
    assert sheet.shape[0] == chart.shape[0] == 1
    assert len(done.ui["images"]) == 2 and done.ui["text"] == (text,)


def test_without_figures_there_is_a_sheet_and_the_rest_is_said():
    sheet, chart, text, table, knee = report().result
    assert sheet.std() > 0 and chart.std() > 0 and math.isnan(knee)
    assert "knee: left out" in text and table.splitlines()[0] == "weight,knee"


def test_one_figure_is_drawn_over_the_values():
    _, chart, text, _, knee = report(x=[0.1, 0.2, math.nan, 0.4, 0.5]).result
    assert chart.shape[1] > 400 and math.isnan(knee) and "likeness not measured" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"images": [torch.zeros(5, 64, 64, 3)]}, "5 values and 1 batches of pictures"),
        ({"x": [0.5]}, "5 values and 1 numbers of likeness"),
        ({"x": [0.5] * 5, "y": [0.5] * 6}, "5 values and 6 numbers of change"),
        ({"images": [torch.full((1, 8, 8, 3), math.nan)] * 5}, "NaN or infinite"),
    ],
)
def test_lists_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        report(**options)
