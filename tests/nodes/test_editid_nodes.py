"""EditID's nodes: what they set, what they say, and where they are refused."""

import pulid_world
import pytest
import sip_sources
import tiny
import tiny_unet
import torch
from flexid.mini.random_adapter import write_adapter, write_eva_clip
from flexid.model_patches.adapters.pulid_flux import load_adapter
from flexid.model_patches.encoders.eva_clip import load_eva_clip
from flexid.model_patches.gates.schedule import Schedule
from flexid.model_patches.identity.identity import Identity
from flexid.model_patches.identity.mix import PRESETS, FeatureMix
from flexid.model_patches.inject.editid import PRESETS as EDITID
from flexid.model_patches.inject.query import QueryControl
from flexid.nodes import vfa
from flexid.nodes.editid import FlexIDEditIDPreset, FlexIDFeatureMix, FlexIDQueryControl
from flexid.nodes.flexid import FlexIDApply
from flexid.nodes.identity import FlexIDEncodeIdentity
from flexid.nodes.vfa import FlexIDApplyVFA, FlexIDApplyVFAFromPhoto
from people import face

pytestmark = pytest.mark.comfy

QUERY = {
    "mode": "off",
    "alpha": 1.0,
    "schedule": "constant",
    "alpha_end": 1.0,
    "start": 0.0,
    "end": 1.0,
    "axis": "percent",
    "blocks": "all",
    "tokens": 4,
}
APPLY = {"weight": 1.0, "start": 0.0, "end": 1.0, "axis": "percent", "negative": "unconditional"}


@pytest.fixture(scope="module")
def parts():
    return {"model": tiny.flux(), "adapter": tiny.adapter(), "identity": tiny.identity()}


def query_of(**changes):
    return FlexIDQueryControl.execute(**{**QUERY, **changes})[0]


def text_of(output):
    (text,) = output.ui.as_dict()["text"]
    return text


def test_the_node_is_neutral_as_it_comes(parts):
    defaults = {
        one.id: one.as_dict()["default"] for one in FlexIDQueryControl.define_schema().inputs
    }
    assert defaults == QUERY
    plain = FlexIDApplyVFA.execute(**parts, **APPLY)[0]
    neutral = FlexIDApplyVFA.execute(**parts, **APPLY, query=query_of())[0]
    assert torch.equal(tiny.sample(neutral), tiny.sample(plain))


def test_every_widget_reaches_the_control():
    changes = {"mode": "zero", "alpha": 0.4, "schedule": "range", "alpha_end": 0.8, "start": 0.1}
    changes |= {"end": 0.9, "axis": "progress", "blocks": "double", "tokens": 7}
    schedule = Schedule("range", 0.4, 0.8, 0.1, 0.9, "progress")
    assert query_of(**changes) == QueryControl("zero", schedule, "double", 7)


def test_the_nodes_say_what_is_mixed(parts):
    output = FlexIDQueryControl.execute(**{**QUERY, "mode": "zero", "schedule": "sigma_rise"})
    assert text_of(output) == "zero: alpha 0.000 → 1.000 at blocks all"
    said = text_of(FlexIDApplyVFA.execute(**parts, **APPLY, query=output[0]))
    assert said.splitlines()[1] == "queries, zero: alpha 0.000 → 1.000 at blocks all"
    off = text_of(FlexIDApplyVFA.execute(**parts, **APPLY, query=query_of()))
    assert off.splitlines()[1] == "queries, mode is off: the queries stay as they are"
    masked = text_of(
        FlexIDApplyVFA.execute(**parts, **APPLY, query=query_of(), mask=torch.ones(8, 8))
    )
    assert "covers 100 % of the picture\nqueries" in masked


def test_apply_vfa_mixes(parts):
    plain = tiny.sample(FlexIDApplyVFA.execute(**parts, **APPLY)[0])
    query = query_of(mode="token_mean", alpha=0.2)
    out = tiny.sample(FlexIDApplyVFA.execute(**parts, **APPLY, query=query)[0])
    assert out.isfinite().all() and not torch.equal(out, plain)


def test_from_photo_hands_the_query_on(monkeypatch, parts):
    """As Apply VFA with the same identity."""

    class Found:
        faces, report = (), "1 face"

    class Encoded:
        identity, report = parts["identity"], "encoded"

    monkeypatch.setattr(vfa, "detect_faces", lambda *_: Found)
    monkeypatch.setattr(vfa, "encode_identity", lambda *_, **__: Encoded)
    query = query_of(mode="zero", alpha=0.2)
    output = FlexIDApplyVFAFromPhoto.execute(
        parts["model"], parts["adapter"], 0, 0, 0, **APPLY, query=query
    )
    separate = FlexIDApplyVFA.execute(**parts, **APPLY, query=query)
    assert torch.equal(tiny.sample(output[0]), tiny.sample(separate[0]))
    assert text_of(output) == f"{text_of(separate)}\n1 face\nencoded"


def test_apply_flexid_hands_the_query_on(parts):
    identity = Identity({**parts["identity"].encodings, **sip_sources.person().encodings})
    whole = {**parts, "identity": identity, "conditioning": tiny.conditioning(10)}
    whole |= {"projector": sip_sources.Fixed(), "prompt": "a person laughing"}
    knobs = {"alpha_base": 0.1, "w_base": 1.0, "override_intent": -1.0, "mode": "recommended"}
    knobs |= {"scope": "auto", "negative": "unconditional"}
    plain, neutral, mixed = (
        FlexIDApply.execute(**whole, **knobs, query=query).result
        for query in (None, query_of(), query_of(mode="zero", alpha=0.2))
    )
    out = tiny.sample(plain[0], positive=plain[1])
    assert torch.equal(tiny.sample(neutral[0], positive=neutral[1]), out)
    assert not torch.equal(tiny.sample(mixed[0], positive=mixed[1]), out)
    assert "queries, zero: alpha 0.200 → 0.200" in mixed[3] and "queries" not in plain[3]


# Feature mix


MIX = {
    "preset": "faithful",
    "layer_map": "0, 1, 2, 3, 4",
    "local_weight": "1",
    "local_pool": 24,
    "cls_only": False,
    "depth_shift": 0.0,
    "id_scale": 1.0,
    "arcface_scale": 1.0,
}


def test_the_mix_is_neutral_as_it_comes_and_as_custom():
    defaults = {one.id: one.as_dict()["default"] for one in FlexIDFeatureMix.define_schema().inputs}
    assert defaults == MIX
    for preset in ("faithful", "custom"):
        output = FlexIDFeatureMix.execute(**{**MIX, "preset": preset})
        assert output[0].is_neutral and text_of(output) == "as PuLID encodes"


def test_presets_do_not_read_the_other_widgets_and_custom_does():
    changes = {"layer_map": "0, 0, 1, 2, 4", "local_weight": "1, 1, 0.5, 0.5, 0"}
    changes |= {"local_pool": 8, "cls_only": True, "depth_shift": 0.25, "id_scale": 0.5}
    changes |= {"arcface_scale": 0.75}
    for name, preset in PRESETS.items():
        assert FlexIDFeatureMix.execute(**{**MIX, **changes, "preset": name})[0] == preset
    output = FlexIDFeatureMix.execute(**{**MIX, **changes, "preset": "custom"})
    weights = (1.0, 1.0, 0.5, 0.5, 0.0)
    assert output[0] == FeatureMix((0, 0, 1, 2, 4), weights, 8, True, 0.25, 0.5, 0.75)
    assert text_of(output) == (
        "layer_map 0, 0, 1, 2, 4; local_weight 1, 1, 0.5, 0.5, 0; local_pool 8; cls_only on; "
        "depth_shift 0.25; id_scale 0.5; arcface_scale 0.75"
    )


def test_encode_identity_follows_the_mix(tmp_path):
    adapter = load_adapter(write_adapter(tmp_path / "pulid.safetensors"))
    vision = load_eva_clip(write_eva_clip(tmp_path / "eva.safetensors"))
    facts = (adapter, vision, (face(1),), "mean", "auto", True)
    plain, neutral, loose = (
        FlexIDEncodeIdentity.execute(*facts, **mix)
        for mix in ({}, {"mix": FeatureMix()}, {"mix": PRESETS["loose"]})
    )
    tokens = [one[0].encodings["pulid_flux"].tokens for one in (plain, neutral, loose)]
    assert torch.equal(tokens[0], tokens[1]) and not torch.allclose(tokens[0], tokens[2])
    assert loose[2].endswith("mix: cls_only on") and "mix" not in plain[2]


# The one choice


def test_the_presets_choice_is_neutral_as_it_comes(parts):
    (choice,) = FlexIDEditIDPreset.define_schema().inputs
    assert choice.as_dict()["default"] == "consistency"
    mix, query, report = FlexIDEditIDPreset.execute("consistency").result
    assert mix.is_neutral and query.is_neutral
    assert report == "queries, mode is off: the queries stay as they are\nmix: as PuLID encodes"
    plain = FlexIDApplyVFA.execute(**parts, **APPLY)[0]
    neutral = FlexIDApplyVFA.execute(**parts, **APPLY, query=query)[0]
    assert torch.equal(tiny.sample(neutral), tiny.sample(plain))


def test_a_preset_is_the_two_nodes_set_by_hand():
    by_hand = {
        "balanced": (
            {"preset": "balanced"},
            {"mode": "token_mean", "alpha": 0.9},
        ),
        "editability": ({"preset": "editable"}, {"mode": "token_mean", "alpha": 0.8}),
    }
    assert {"consistency", *by_hand} == set(EDITID)
    for name, (mix, query) in by_hand.items():
        output = FlexIDEditIDPreset.execute(name)
        assert output[0] == FlexIDFeatureMix.execute(**{**MIX, **mix})[0]
        assert output[1] == query_of(**query)
        assert text_of(output) == output[2]


def test_sdxl_is_refused_by_name(tmp_path):
    unet = tiny_unet.sdxl()
    adapter = pulid_world.sdxl_adapter(tmp_path, unet)
    person = pulid_world.somebody(adapter)
    with pytest.raises(ValueError, match="query control of Apply VFA.*mode zero.*for SDXL.*Flux"):
        FlexIDApplyVFA.execute(
            unet, adapter, person, **APPLY, query=query_of(mode="zero", alpha=0.5)
        )
