"""Apply FlexID is the three nodes, bit for bit, and says what the prompt did."""

import json

import pytest
import sip_sources
import tiny
import torch
from flexid.model_patches.identity.identity import Identity
from flexid.nodes.cag import BUILTIN, FlexIDContextAwareGate
from flexid.nodes.flexid import FlexIDApply
from flexid.nodes.gates import FlexIDWindow
from flexid.nodes.sip import FlexIDApplySIP
from flexid.nodes.vfa import FlexIDApplyVFA

pytestmark = pytest.mark.comfy

PROMPT = "portrait of a woman laughing, watercolor painting"
KNOBS = {
    "alpha_base": 0.1,
    "w_base": 1.0,
    "override_intent": -1.0,
    "mode": "recommended",
    "scope": "auto",
    "negative": "unconditional",
}


@pytest.fixture(scope="module")
def parts():
    visual, semantic = tiny.identity(), sip_sources.person()
    identity = Identity({**visual.encodings, **semantic.encodings})
    return {
        "model": tiny.flux(),
        "conditioning": tiny.conditioning(10),
        "adapter": tiny.adapter(),
        "projector": sip_sources.Fixed(),
        "identity": identity,
    }


def defaults(node):
    return {
        one.id: one.as_dict()["default"]
        for one in node.define_schema().inputs
        if "default" in one.as_dict()
    }


def separate(parts, gate=None, alpha=1.0, **changes):
    """The same graph with the three nodes at their defaults."""
    settings = {**defaults(FlexIDContextAwareGate), "dictionary": BUILTIN, **changes}
    settings |= {"prompt": PROMPT} | ({"gate": gate} if gate else {})
    semantic, visual = FlexIDContextAwareGate.execute(**settings).result[:2]
    shared = {"identity": parts["identity"]}
    conditioning, model, _ = FlexIDApplySIP.execute(
        parts["conditioning"],
        parts["projector"],
        alpha=alpha,
        scope="auto",
        norm="token",
        model=parts["model"],
        gate=semantic,
        text=PROMPT,
        **shared,
    ).result
    window = {"weight": 1.0, "start": 0.0, "end": 1.0, "axis": "percent"}
    patched = FlexIDApplyVFA.execute(
        model, parts["adapter"], negative="unconditional", gate=visual, **window, **shared
    ).result[0]
    return patched, conditioning


@pytest.mark.parametrize("cfg", [1.0, 3.0])
@pytest.mark.parametrize("mode", ["recommended", "literal"])
def test_equals_the_separate_nodes(parts, cfg, mode):
    whole = FlexIDApply.execute(**parts, prompt=PROMPT, **{**KNOBS, "mode": mode}).result
    model, conditioning = separate(parts, mode=mode)
    out = tiny.sample(whole[0], positive=whole[1], cfg=cfg)
    assert torch.equal(out, tiny.sample(model, positive=conditioning, cfg=cfg))
    assert not torch.equal(out, tiny.sample(parts["model"], cfg=cfg))


@pytest.mark.parametrize("mode", ["recommended", "literal"])
def test_bases_in_the_nodes_draw_the_same_picture(parts, mode):
    whole = FlexIDApply.execute(**parts, prompt=PROMPT, **{**KNOBS, "mode": mode}).result
    model, conditioning = separate(parts, alpha=0.1, mode=mode, bases="nodes")
    out = tiny.sample(whole[0], positive=whole[1])
    assert torch.equal(out, tiny.sample(model, positive=conditioning))


def test_a_further_gate_multiplies_both_streams(parts):
    gate = FlexIDWindow.execute("constant", 0.0, 0.5, 0.5, 1.0, "0:1", "percent").result[0]
    whole = FlexIDApply.execute(**parts, prompt=PROMPT, **KNOBS, gate=gate).result
    model, conditioning = separate(parts, gate=gate)
    out = tiny.sample(whole[0], positive=whole[1])
    assert torch.equal(out, tiny.sample(model, positive=conditioning))
    open_gate = FlexIDApply.execute(**parts, prompt=PROMPT, **KNOBS).result
    assert not torch.equal(out, tiny.sample(open_gate[0], positive=open_gate[1]))


def test_both_bases_at_zero_change_nothing(parts):
    closed = {**KNOBS, "alpha_base": 0.0, "w_base": 0.0}
    model, conditioning, *_ = FlexIDApply.execute(**parts, prompt=PROMPT, **closed).result
    base = tiny.sample(parts["model"], cfg=3.0)
    assert torch.equal(tiny.sample(model, positive=conditioning, cfg=3.0), base)


def test_the_inputs_stay_as_they_were(parts):
    base = tiny.sample(parts["model"], positive=parts["conditioning"])
    before = parts["conditioning"][0][0].clone()
    FlexIDApply.execute(**parts, prompt=PROMPT, **KNOBS)
    assert torch.equal(parts["conditioning"][0][0], before)
    assert "model_conds" not in parts["conditioning"][0][1]
    assert torch.equal(tiny.sample(parts["model"], positive=parts["conditioning"]), base)


def test_reports_what_the_prompt_did(parts):
    output = FlexIDApply.execute(**parts, prompt=PROMPT, **KNOBS)
    _, _, intent, report = output.result
    assert 0.2 < intent <= 1.0
    assert "laughing" in report and "watercolor" in report and "fixed source" in report
    assert "in the whole picture" in report
    empty = FlexIDApply.execute(**parts, prompt=PROMPT, **KNOBS, mask=torch.zeros(8, 8))
    assert "the mask covers 0 % of the picture" in empty.result[3]
    summary = json.loads(json.dumps(output.ui))["flexid_gate"][0]
    assert summary["intent"] == intent
    assert {match["category"] for match in summary["terms"]} == {"expression", "style"}
    assert summary["curve"][0]["percent"] == 0.0 and summary["curve"][-1]["percent"] == 1.0


def test_override_replaces_the_prompt(parts):
    calm = FlexIDApply.execute(**parts, prompt=PROMPT, **{**KNOBS, "override_intent": 0.0}).result
    assert calm[2] == 0.0
