"""Sweep Values and Sweep Report as nodes; tests/server runs them in ComfyUI's own queue."""

import math

import pytest
import torch
from comfy_execution import progress
from comfy_execution.graph import DynamicPrompt
from comfy_execution.utils import CurrentNodeContext
from flexid.nodes.sweep import FlexIDSweepReport, FlexIDSweepValues
from flexid.nodes.sweep_progress import find_swept

import nodes

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


class Each:
    """Runs once for each value."""


class Together:
    """Takes all values as lists."""

    INPUT_IS_LIST = True


@pytest.fixture
def swept(monkeypatch):
    """sweep -> each -> last, and both into a report, behind which stands another node."""
    kinds = {"Each": Each, "Together": Together, "FlexIDSweepValues": FlexIDSweepValues}
    monkeypatch.setattr(nodes, "NODE_CLASS_MAPPINGS", kinds)

    def node(kind, *sources):
        return {"class_type": kind, "inputs": {str(n): [one, 0] for n, one in enumerate(sources)}}

    return {
        "report": node("Together", "each", "last"),
        "behind": node("Each", "report"),
        "last": node("Each", "each", "before"),
        "each": node("Each", "sweep"),
        "before": node("Each"),
        "sweep": node("FlexIDSweepValues"),
    }


def test_a_sweep_ends_where_lists_are_collected(swept):
    assert find_swept(swept, "sweep") == {"each", "last"}
    assert find_swept(swept, "report") == {"behind"}


@pytest.mark.parametrize("cached", [False, True])
def test_the_bar_follows_the_nodes_behind_the_sweep(swept, monkeypatch, cached):
    monkeypatch.setattr(progress, "global_progress_registry", None)
    progress.reset_progress_state("run", DynamicPrompt(swept))
    state = progress.get_progress_state()
    with CurrentNodeContext("run", "sweep", 0):
        if cached:
            assert FlexIDSweepValues.fingerprint_inputs(0.0, 1.0, 5, "even", "") == ""
        else:
            FlexIDSweepValues.execute(0.0, 1.0, 5, "even", "")
    bars = []
    for node, index, value in [
        ("each", 0, 1), ("each", 2, 2), ("each", 4, 4), ("before", 3, 2), ("last", 7, 0)
    ]:  # fmt: skip
        with CurrentNodeContext("run", node, index):
            state.update_progress(node, value, 4)
        bars.append(state.nodes["sweep"]["value"])
    assert bars == [0.25, 2.5, 5.0, 5.0, 4.0], "the list of another node may be longer"
    assert state.nodes["sweep"]["max"] == 5
    assert state.nodes["sweep"]["state"] == progress.NodeState.Running
    state.finish_progress("last")
    assert state.nodes["sweep"]["state"] == progress.NodeState.Finished


def test_linked_values_are_known_when_the_node_runs(swept, monkeypatch):
    monkeypatch.setattr(progress, "global_progress_registry", None)
    progress.reset_progress_state("run", DynamicPrompt(swept))
    with CurrentNodeContext("run", "sweep", 0):
        assert FlexIDSweepValues.fingerprint_inputs(0.0, None, 5, "even", "") == ""
    assert progress.get_progress_state().handlers == {}
