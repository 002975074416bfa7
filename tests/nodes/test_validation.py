"""What ComfyUI refuses before anything runs: wrong widgets, but never what a link will bring."""

import asyncio

import execution
import pytest
from comfy_api.latest import io
from flexid.nodes import NODES

import nodes as core

pytestmark = pytest.mark.comfy

SOURCE = "TestSource"
KINDS = {node.__name__: node for node in NODES}


GROWING = {
    "FlexIDMergeAdapters": {"adapters": ("adapter", 1)},
    "FlexIDCombineIdentities": {"identities": ("identity", 2)},
    "FlexIDApplySAA": {"people": ("person", 1)},
    "FlexIDWhoIsWhere": {"people": ("person", 1)},
    "FlexIDSearchMerge": {"adapters": ("adapter", 1), "identities": ("identity", 1)},
}
"""Nodes with sockets that grow: the input -> the sockets' prefix, and how many there must be."""

GROWING_ENDS = {
    "FlexIDMergeAdapters": ("adapters.adapter", 8),
    "FlexIDCombineIdentities": ("identities.identity", 16),
    "FlexIDApplySAA": ("people.person", 8),
    "FlexIDWhoIsWhere": ("people.person", 8),
    "FlexIDSearchMerge": ("adapters.adapter", 8),
    "FlexIDCompareIdentity": ("identities.identity", 8),
}
"""The sockets' name without its number, and how many the node can have."""


class Source:
    """Any value for a socket; it would fail if it ran."""

    RETURN_TYPES = ("*",)
    FUNCTION = "run"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}


class Anything(str):
    """Equal to every type, so that the source fits every socket."""

    def __eq__(self, other):
        return True

    def __ne__(self, other):
        return False

    __hash__ = str.__hash__


@pytest.fixture(autouse=True)
def registered(monkeypatch):
    source = type("Source", (Source,), {"RETURN_TYPES": (Anything("*"),)})
    monkeypatch.setattr(core, "NODE_CLASS_MAPPINGS", {**KINDS, SOURCE: source})


def errors(kind, **changes):
    """What ComfyUI says about the node with its default widgets and these; None links an input."""
    prompt = {"1": {"class_type": SOURCE, "inputs": {}}}
    inputs = {}
    for one in KINDS[kind].define_schema().inputs:
        if not one.optional:
            default = getattr(one, "default", None)
            options = getattr(one, "options", None)
            first = options[0] if default is None and options else default
            inputs[one.id] = ["1", 0] if first is None else first
    for name, value in changes.items():
        inputs[name] = ["1", 0] if value is None else value
    for growing, (prefix, least) in GROWING.get(kind, {}).items():
        del inputs[growing]
        inputs |= {f"{growing}.{prefix}{number}": ["1", 0] for number in range(least)}
    prompt["2"] = {"class_type": kind, "inputs": inputs}
    valid, found, _ = asyncio.run(execution.validate_inputs("test", prompt, "2", {}))
    assert valid == (not found)
    return " ".join(f"{one['message']}: {one['details']}" for one in found)


WRONG = {
    "start after end": ("FlexIDApplyVFA", {"start": 0.8, "end": 0.2}, "starts at 0.8 and ends"),
    "photo": ("FlexIDApplyVFAFromPhoto", {"start": 0.8, "end": 0.2}, "starts at 0.8 and ends"),
    "beyond the axis": ("FlexIDApplyVFA", {"end": 1.5}, "ends at 1.5"),
    "nan": ("FlexIDApplyVFA", {"start": float("nan")}, "starts at nan"),
    "window": ("FlexIDWindow", {"start": 0.8, "end": 0.2}, "starts at 0.8"),
    "shape": ("FlexIDWindow", {"shape": "square"}, "constant, linear, cosine, points"),
    "points": ("FlexIDWindow", {"shape": "points", "points": "0:x"}, "a point is time:weight"),
    "index": ("FlexIDDetectFaces", {"index": "first"}, "must be a number from 0"),
    "weights": ("FlexIDCombineIdentities", {"weights": "1; half"}, "numbers separated by commas"),
    "manual": ("FlexIDMakeAttributeProjector", {"manual": "mood: blue"}, "no switched-on group"),
    "prefix": ("FlexIDSaveIdentity", {"filename_prefix": "../../x"}, "leads out of output"),
    "constant alpha": ("FlexIDApplySIP", {"alpha": 1.0}, "no gate"),
    "large alpha": ("FlexIDApplySIP", {"alpha": 3.0, "gate": None}, "[-2, 2]"),
    "norm": ("FlexIDApplySIP", {"norm": "loud"}, "token, prompt, none"),
    "SAA": ("FlexIDApplySAA", {"threshold": 1.5}, "The threshold is 1.5; expected"),
    "SAA, nan": ("FlexIDApplySAA", {"beta": float("nan")}, "Beta is nan"),
    "targets": ("FlexIDEditExpressionAndPose", {"targets": "sad; grin 1"}, "sets 'grin'"),
    "slider": ("FlexIDEditExpressionAndPose", {"smile": 2.0}, "smile is 2, expected -1 to 1"),
    "query blocks": ("FlexIDQueryControl", {"blocks": "half"}, "Cannot read 'half' in blocks"),
    "query alpha": ("FlexIDQueryControl", {"alpha": float("nan")}, "alpha is nan"),
    "query tokens": ("FlexIDQueryControl", {"tokens": 17}, "tokens of the query control is 17"),
    "query mode": ("FlexIDQueryControl", {"mode": "first"}, "off, initial, token_mean"),
    "summary beyond 1": (
        "FlexIDQueryControl",
        {"mode": "soft_append", "alpha": 1.2},
        "alpha reaches 1.2",
    ),
    "mix levels": (
        "FlexIDFeatureMix",
        {"preset": "custom", "layer_map": "0, 1, 2"},
        "layer_map has 3 numbers",
    ),
    "mix weights": (
        "FlexIDFeatureMix",
        {"preset": "custom", "local_weight": "half"},
        "local_weight is 'half'",
    ),
    "mix pool": ("FlexIDFeatureMix", {"preset": "custom", "local_pool": 0}, "local_pool is 0"),
    "mix preset": ("FlexIDFeatureMix", {"preset": "free"}, "faithful, balanced, editable, loose"),
    "merge layers": ("FlexIDMergeAdapters", {"layers": "5-1"}, "runs from 5 to 1"),
    "merge paths": ("FlexIDMergeAdapters", {"paths": "q, kv"}, "Cannot read 'kv' in paths"),
    "merge weights": ("FlexIDMergeAdapters", {"weights": "0.5, x"}, "numbers separated by commas"),
    "weight": ("FlexIDApplyVFA", {"weight": 9.0}, "The weight of the anchor is 9; expected"),
    "weight, nan": ("FlexIDApplyVFA", {"weight": float("nan")}, "is nan; expected"),
    "photo's weight, nan": ("FlexIDApplyVFAFromPhoto", {"weight": float("nan")}, "is nan"),
    "start beside a linked weight": (
        "FlexIDApplyVFA",
        {"weight": None, "start": 0.8, "end": 0.2},
        "starts at 0.8 and ends",
    ),
    "person's weight, nan": ("FlexIDMakePerson", {"weight": float("nan")}, "[0, 5]"),
    "core's own check": ("FlexIDBalance", {"balance": 9.0}, "bigger than max"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_widgets_are_refused_before_anything_runs(case):
    kind, changes, said = WRONG[case]
    assert said in errors(kind, **changes)


NUMBERS = [
    (kind, one.id)
    for kind, node in KINDS.items()
    for one in node.define_schema().inputs
    if isinstance(one, io.Float.Input) and not one.force_input
]
"""Those of widgets; a figure that comes by a link may be NaN, where nothing could be measured."""


@pytest.mark.parametrize(("kind", "name"), NUMBERS)
def test_a_number_that_is_none_is_refused_before_anything_runs(kind, name):
    """Once, also for nodes that check nothing themselves."""
    read = {"preset": "custom"} if kind == "FlexIDFeatureMix" else {}
    said = errors(kind, **read, **{name: float("nan")})
    assert "nan" in said, said


RIGHT = {
    "linked start": ("FlexIDApplyVFA", {"start": None, "end": 0.2}),
    "linked shape": ("FlexIDWindow", {"shape": None, "points": "0:x"}),
    "unused points": ("FlexIDWindow", {"shape": "linear", "points": "0:x"}),
    "linked points": ("FlexIDWindow", {"shape": "points", "points": None}),
    "linked index": ("FlexIDDetectFaces", {"index": None}),
    "linked weights": ("FlexIDCombineIdentities", {"weights": None}),
    "subfolder": ("FlexIDSaveIdentity", {"filename_prefix": "family/%year%/ann"}),
    "empty prefix": ("FlexIDSaveIdentity", {"filename_prefix": ""}),
    "gated alpha": ("FlexIDApplySIP", {"alpha": 1.0, "gate": None}),
    "linked threshold": ("FlexIDApplySAA", {"threshold": None}),
    "linked alpha": ("FlexIDApplySIP", {"alpha": None}),
    "linked targets": ("FlexIDEditExpressionAndPose", {"targets": None, "yaw": 20.0}),
    "unused levels": ("FlexIDFeatureMix", {"preset": "loose", "layer_map": "x"}),
    "linked preset": ("FlexIDFeatureMix", {"preset": None, "layer_map": "x"}),
    "linked blocks": ("FlexIDQueryControl", {"blocks": None, "alpha": 0.5}),
    "linked layers": ("FlexIDMergeAdapters", {"layers": None, "weights": "0.7, 0.3"}),
    "alpha as it comes": ("FlexIDApplySIP", {"alpha": 1.0, "norm": "none"}),
}


@pytest.mark.parametrize("case", RIGHT)
def test_right_widgets_and_links_pass(case):
    kind, changes = RIGHT[case]
    assert errors(kind, **changes) == ""


@pytest.mark.parametrize("kind", [name for name in KINDS if "Load" not in name])
def test_the_widgets_of_a_new_node_pass(kind):
    """Loaders and converters are left out: their lists are empty here, which is an error."""
    if "Convert" not in kind:
        assert errors(kind) == ""


@pytest.mark.parametrize("kind", GROWING_ENDS)
def test_a_link_beyond_the_last_socket_is_named(kind):
    """ComfyUI checks the sockets that the schema has and passes any other link on to the node."""
    socket, most = GROWING_ENDS[kind]
    extra = f"{socket}{most}"
    schema = KINDS[kind].define_schema()
    given = {one.id: None for one in schema.inputs if not one.optional}
    with pytest.raises(ValueError, match=rf"takes at most {most} .*{extra}\. Remove"):
        KINDS[kind].execute(**given, **{extra: object()})
