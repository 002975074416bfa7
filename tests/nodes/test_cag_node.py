"""The context-aware gate node: its schema, what it returns and shows, what it refuses."""

import inspect
import json

import folder_paths
import pytest
from flexid.model_patches.gates.cag import Knobs, compute_gates
from flexid.model_patches.gates.gate import Gate, Moment
from flexid.model_patches.gates.window import window
from flexid.nodes.cag import BUILTIN, FlexIDContextAwareGate

pytestmark = pytest.mark.comfy

LAUGH = "a woman laughing, oil painting"


def defaults():
    schema = FlexIDContextAwareGate.define_schema()
    return {one.id: one.default for one in schema.inputs if not one.optional}


def run(prompt, **changes):
    return FlexIDContextAwareGate.execute(**{**defaults(), "prompt": prompt, **changes})


def at(sigma):
    return Moment(sigma, 1 - sigma, 1 - sigma, sigma)


def weights(gate):
    return [gate.weight(at(sigma)) for sigma in (1.0, 0.6, 0.0)]


def test_schema_ids_are_the_arguments_in_order():
    schema = FlexIDContextAwareGate.define_schema()
    arguments = list(inspect.signature(FlexIDContextAwareGate.execute).parameters)
    assert [one.id for one in schema.inputs] == arguments
    assert schema.node_id == "FlexIDContextAwareGate"
    assert schema.category == "FlexID/gates"


def test_every_input_has_a_tooltip_that_says_what_nothing_means():
    for one in FlexIDContextAwareGate.define_schema().inputs:
        assert one.tooltip, one.id
        if one.get_io_type() == "FLOAT":
            assert "0:" in one.tooltip or "Below 0" in one.tooltip, one.id


def test_defaults_are_the_knobs_defaults():
    schema, knobs = FlexIDContextAwareGate.define_schema(), Knobs()
    values = {one.id: getattr(one, "default", None) for one in schema.inputs}
    for name in vars(knobs):
        assert values[name] == getattr(knobs, name), name


def test_outputs_are_those_of_the_room():
    semantic, visual, intent, report = run(LAUGH).args
    expected = compute_gates(LAUGH, Knobs())
    assert weights(semantic) == weights(expected.semantic)
    assert weights(visual) == weights(expected.visual)
    assert intent == expected.intent > 0.9
    assert report == expected.report()
    assert "laughing: expression 0.90" in report


def test_the_ui_carries_curves_and_terms_as_json():
    output = run(LAUGH)
    assert output.ui["text"] == (output.args[3],)
    (shown,) = json.loads(json.dumps(output.ui["flexid_gate"]))
    assert shown["intent"] == output.args[2]
    assert [term["text"] for term in shown["terms"]] == ["laughing", "oil painting"]
    term = shown["terms"][0]
    assert LAUGH[term["start"] : term["end"]] == "laughing" and term["score"] == 0.9
    assert shown["curve"][0]["percent"] == 0 and shown["curve"][-1]["percent"] == 1
    assert shown["bases"] == {"semantic": 0.1, "visual": 1.0}
    for course in shown["courses"].values():
        assert course in output.args[3], "the chart's figures are the report's"
    last = shown["curve"][-1]
    assert last["visual"] == pytest.approx(output.args[1].weight(at(0.0)), abs=1e-5)


def test_every_widget_reaches_its_constant():
    base = weights(run(LAUGH).args[0]) + weights(run(LAUGH).args[1])
    changed = {
        "mode": "literal",
        "intent_mode": "binary",
        "alpha_base": 0.05,
        "w_base": 0.5,
        "lambda_up": 0.0,
        "lambda_down": 0.0,
        "kappa_sem": 0.1,
        "kappa_vis": 0.1,
        "expression_factor": 0.0,
        "style_factor": 0.0,
        "override_intent": 0.0,
        "alpha_max": 0.1,
        "w_max": 0.6,
        "external_score": 0.1,
        "bases": "nodes",
    }
    for name, value in changed.items():
        output = run(LAUGH, **{name: value})
        assert weights(output.args[0]) + weights(output.args[1]) != base, name
    assert run("a man jumping", pose_factor=0.0).args[2] == 0.0
    assert run("fisheye portrait of a man", camera_factor=0.0).args[2] == 0.0


def test_graphs_from_before_the_bases_could_lie_in_the_nodes_are_as_they_were():
    """Their prompts do not have the input; their pages get its default."""
    plain, named = run(LAUGH), run(LAUGH, bases="gate")
    for one, other in zip(plain.args[:2], named.args[:2], strict=True):
        assert weights(one) == weights(other)
    (bases,) = (one for one in FlexIDContextAwareGate.define_schema().inputs if one.id == "bases")
    assert bases.optional and bases.default == "gate"


def test_bases_in_the_nodes_are_said_in_the_report():
    output = run(LAUGH, bases="nodes")
    report = output.args[3]
    assert "α × 2.228 → 0.742, w × 0.355 → 1.064" in report
    assert "times alpha of Apply SIP and weight of Apply VFA; at most α 0.15, w 1.5" in report
    (shown,) = output.ui["flexid_gate"]
    assert shown["bases"] == {"semantic": 1.0, "visual": 1.0}
    assert shown["courses"]["semantic"] == "α × 2.228 → 0.742"


def test_percent_time_serves_models_whose_sigma_is_not_a_share():
    moment = Moment(14.6, 0.0, 0.0, 1.0)
    assert run(LAUGH, time="percent").args[1].weight(moment) > 0
    assert run(LAUGH).args[1].weight(moment) > 0, "auto"
    with pytest.raises(ValueError, match="14.6.*Set time to auto"):
        run(LAUGH, time="sigma").args[1].weight(moment)


def test_another_gate_multiplies_both():
    half = Gate((window("constant", 0.0, 1.0, first=0.5),))
    wide = {"alpha_max": 1.0, "w_max": 5.0}
    plain, halved = run(LAUGH, **wide).args, run(LAUGH, gate=half, **wide).args
    for one, other in zip(plain[:2], halved[:2], strict=True):
        assert weights(other) == pytest.approx([w / 2 for w in weights(one)])


def test_a_dictionary_from_the_input_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(folder_paths, "get_input_directory", lambda: str(tmp_path))
    prompt, label = "a man doing parkour", "mine.json [input]"
    assert run(prompt).args[2] == 0.0
    path = tmp_path / "mine.json"
    path.write_text('{"terms": {"pose": {"parkour": 0.6}}}', encoding="utf-8")
    assert run(prompt, dictionary=label).args[2] == pytest.approx(0.6)
    before = FlexIDContextAwareGate.fingerprint_inputs(dictionary=label, prompt="")
    path.write_text('{"terms": {"pose": {"parkour": 7}}}', encoding="utf-8")
    with pytest.raises(ValueError, match="mine.json: terms.pose.parkour is 7; expected a number"):
        run(prompt, dictionary=label)
    assert before[0] == FlexIDContextAwareGate.fingerprint_inputs(dictionary=label)[0]
    assert FlexIDContextAwareGate.fingerprint_inputs(dictionary=BUILTIN) == ["None", ""]


def test_a_dictionary_from_the_models_folder(tmp_path, monkeypatch):
    path = tmp_path / "dictionaries" / "mine.json"
    path.parent.mkdir()
    path.write_text('{"remove": ["laugh"]}', encoding="utf-8")
    monkeypatch.setitem(folder_paths.folder_names_and_paths, "flexid", ([str(tmp_path)], set()))
    folder_paths.filename_list_cache.pop("flexid", None)
    assert run("a woman laughing", dictionary="dictionaries/mine.json").args[2] == 0.0
    folder_paths.filename_list_cache.pop("flexid", None)


BAD = {
    "no such dictionary": ({"dictionary": "none.json [input]"}, ["none.json", "press R"]),
    "outside the folder": ({"dictionary": "../x.json [input]"}, ["../x.json", "press R"]),
    "external score": ({"external_score": 3.0}, ["external_score is 3", "[0, 1]"]),
    "override": ({"override_intent": 1.5}, ["override_intent is 1.5", "[0, 1]"]),
    "mode": ({"mode": "paper"}, ["paper", "recommended, literal"]),
    "kappa": ({"kappa_vis": 2.0}, ["kappa_vis is 2", "[0, 1]"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_says_what_is_wrong(case):
    changes, facts = BAD[case]
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        run(LAUGH, **changes)
    for fact in facts:
        assert fact in str(error.value), str(error.value)
