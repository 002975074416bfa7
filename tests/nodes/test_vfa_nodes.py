"""Gate and VFA nodes: their schema, their error messages, and old graphs that become new ones."""

import asyncio

import pytest
import tiny
import torch
from flexid.model_patches.gates.gate import Moment
from flexid.nodes.gates import FlexIDWindow
from flexid.nodes.replacements import REPLACEMENTS
from flexid.nodes.vfa import FlexIDApplyVFA
from identities import identity_of

pytestmark = pytest.mark.comfy

WINDOW = {
    "shape": "constant",
    "start": 0.0,
    "end": 1.0,
    "weight_start": 1.0,
    "weight_end": 1.0,
    "points": "0:1",
    "axis": "percent",
}
APPLY = {"weight": 1.0, "start": 0.0, "end": 1.0, "axis": "percent", "negative": "unconditional"}


@pytest.fixture(scope="module")
def parts():
    return {"model": tiny.flux(), "adapter": tiny.adapter(), "identity": tiny.identity()}


def at(percent):
    return Moment(0.5, percent, percent, 0.5)


def test_window_node_makes_the_gate_it_describes():
    options = {**WINDOW, "shape": "linear", "start": 0.2, "end": 0.6, "weight_end": 0.0}
    gate = FlexIDWindow.execute(**options)[0]
    assert [gate.weight(at(p)) for p in (0.1, 0.2, 0.7)] == [0, 1, 0]
    assert gate.weight(at(0.4)) == pytest.approx(0.5)


def test_window_nodes_multiply():
    half = FlexIDWindow.execute(**{**WINDOW, "weight_start": 0.5})[0]
    both = FlexIDWindow.execute(**{**WINDOW, "end": 0.5, "weight_start": 0.5}, gate=half)[0]
    assert [both.weight(at(p)) for p in (0.3, 0.7)] == [0.25, 0.0]


def said(parts, **changes):
    (text,) = FlexIDApplyVFA.execute(**parts, **{**APPLY, **changes}).ui.as_dict()["text"]
    return text


def test_the_node_says_what_the_mask_covers(parts):
    mask = torch.zeros(8, 8)
    assert said(parts, mask=mask) == "the mask covers 0 % of the picture: the model is unchanged"
    mask[:2] = 0.5
    assert said(parts, mask=mask) == "w 1.000 → 1.000; the mask covers 25 % of the picture"
    thin = torch.zeros(20, 100)
    thin[0, 0] = 1
    assert "covers 0.05 % of" in said(parts, mask=thin)


def test_the_node_says_its_weight_over_the_run(parts):
    assert said(parts, weight=0.0) == "weight is 0: the model is unchanged"
    fade = FlexIDWindow.execute(**{**WINDOW, "shape": "linear", "weight_end": 0.0})[0]
    assert said(parts, weight=0.8, gate=fade) == "w 0.800 → 0.000 in the whole picture"


def test_apply_node_is_gate_times_window(parts):
    gate = FlexIDWindow.execute(**{**WINDOW, "end": 0.5})[0]
    through_gate = FlexIDApplyVFA.execute(**parts, **APPLY, gate=gate)[0]
    through_widget = FlexIDApplyVFA.execute(**parts, **{**APPLY, "end": 0.5})[0]
    assert torch.equal(tiny.sample(through_gate), tiny.sample(through_widget))
    assert not torch.equal(
        tiny.sample(through_gate), tiny.sample(FlexIDApplyVFA.execute(**parts, **APPLY)[0])
    )


def _family(family):
    return identity_of({family: torch.zeros(1, 4, 64)})


class _Renamed:
    """A model of another architecture, as far as Apply VFA can see."""

    def __init__(self, model, image_model, dit=None):
        self._model, self._dit = model, dit
        config = type("Config", (), {"unet_config": {"image_model": image_model}})
        self.model = type(image_model or "SDXL", (), {"model_config": config})()

    def get_model_object(self, name):
        return self._dit or self._model.get_model_object(name)


def _person(tokens=None, null=None, encoder="", **recipe):
    tokens = torch.zeros(1, 4, 64) if tokens is None else tokens
    null = tokens if null is None else null
    return identity_of({"pulid_flux": tokens}, {"pulid_flux": null}, encoder, recipe)


BAD = {
    "chroma": (
        lambda p: {"model": _Renamed(p["model"], "chroma")},
        ["chroma", "Flux.1", "Connect"],
    ),
    "flux2": (lambda p: {"model": _Renamed(p["model"], "flux2")}, ["flux2", "Flux.1"]),
    "unet": (lambda p: {"model": _Renamed(p["model"], None)}, ["SDXL", "UNet", "Flux.1"]),
    "nunchaku": (
        lambda p: {"model": _Renamed(p["model"], "flux", dit=object())},
        ["object", "Nunchaku", "Load Diffusion Model"],
    ),
    "width": (lambda p: {"adapter": tiny.adapter(dim=384)}, ["384", "256", "Flux.1"]),
    "layers": (
        lambda p: {"adapter": tiny.adapter(layers=3)},
        ["3 cross-attention", "2 double", "4 single", "needs 2"],
    ),
    "family": (
        lambda p: {"identity": _family("faceclip")},
        ["faceclip", "pulid_flux", "Encode Identity"],
    ),
    "no tokens": (
        lambda p: {"identity": tiny.Identity()},
        ["none", "pulid_flux", "Encode Identity"],
    ),
    "token width": (
        lambda p: {"identity": identity_of({"pulid_flux": torch.zeros(1, 4, 48)})},
        ["48", "64", "Encode Identity"],
    ),
    "null token width": (
        lambda p: {"identity": _person(null=torch.zeros(1, 4, 48))},
        ["48", "64", "Encode Identity"],
    ),
    "another encoder": (
        lambda p: {"identity": _person(encoder="feedbeef" * 8, adapter="v0.9.0")},
        ["encoder feedbeeffeed (of v0.9.0)", "the encoder tiny-encoder", "Encode Identity"],
    ),
    "another file of version 1": (
        lambda p: {"identity": _person(adapter_digest="12345")},
        ["encoder 12345", "encoder tiny-256-2-1"],
    ),
    "tokens with NaN": (
        lambda p: {"identity": _person(torch.full((1, 4, 64), float("nan")))},
        ["nan", "finite"],
    ),
    "two rows of tokens": (lambda p: {"identity": _person(torch.zeros(2, 4, 64))}, ["(2, 4, 64)"]),
    "weight nan": (lambda p: {"weight": float("nan")}, ["weight of Apply VFA is nan", "-100"]),
    "weight 1e308": (lambda p: {"weight": 1e308}, ["1e+308", "[-100, 100]"]),
    "mask rank": (lambda p: {"mask": torch.zeros(2, 1, 8, 8)}, ["(2, 1, 8, 8)", "MASK"]),
    "mask range": (lambda p: {"mask": torch.full((1, 8, 8), 255.0)}, ["255", "[0, 1]"]),
    "mask nan": (lambda p: {"mask": torch.full((1, 8, 8), float("nan"))}, ["nan", "[0, 1]"]),
    "start after end": (lambda p: {"start": 0.8, "end": 0.2}, ["0.8", "0.2", "Swap"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_raises_before_sampling(parts, case):
    changes, facts = BAD[case]
    with pytest.raises(ValueError) as error:
        FlexIDApplyVFA.execute(**{**parts, **APPLY, **changes(parts)})
    for fact in facts:
        assert fact in str(error.value), str(error.value)


# Old graphs


def _apply(prompt):
    from app.node_replace_manager import NodeReplaceManager

    manager = NodeReplaceManager()
    for replacement in REPLACEMENTS:
        manager.register(replacement)
    manager.apply_replacements(prompt)
    return prompt


# ComfyUI replaces nodes in the order of a set of strings: names that sort every which way.
NAMES = [list("1234"), list("4321"), ["b:7", "12", "99", "3"], ["31", "a", "x:y", "0"]]

OLD = {
    "1": ("PulidFluxModelLoader", {"pulid_file": "pulid_flux_v0.9.1.safetensors"}),
    "2": ("PulidFluxInsightFaceLoader", {"provider": "CPU"}),
    "3": ("PulidFluxEvaClipLoader", {}),
    "4": (
        "ApplyPulidFlux",
        {
            "model": ["9", 0],
            "pulid_flux": ["1", 0],
            "eva_clip": ["3", 0],
            "face_analysis": ["2", 0],
            "image": ["8", 0],
            "weight": 0.8,
            "start_at": 0.1,
            "end_at": 0.9,
        },
    ),
    "5": ("KSampler", {"model": ["4", 0]}),
}


@pytest.mark.parametrize("names", NAMES, ids=" ".join)
def test_old_graphs_become_ours(monkeypatch, names):
    from flexid.nodes import NODES

    import nodes

    schemas = {node.define_schema().node_id: node.define_schema() for node in NODES}
    for node_id in schemas:
        monkeypatch.setitem(nodes.NODE_CLASS_MAPPINGS, node_id, object)
    prompt = _apply(_renamed(dict(zip("1234", names, strict=True))))
    loader, analyser, tower, apply = names
    replaced = {key: prompt[key]["class_type"] for key in names}
    assert replaced == {
        loader: "FlexIDLoadIdentityAdapter",
        analyser: "FlexIDLoadFaceAnalyser",
        tower: "FlexIDLoadEvaClip",
        apply: "FlexIDApplyVFAFromPhoto",
    }
    for key in names:
        required = {i.id for i in schemas[replaced[key]].inputs if not i.optional}
        given = set(prompt[key]["inputs"])
        assert required == given, f"{replaced[key]}: {required ^ given}"
    assert prompt[apply]["inputs"]["pulid_flux"] == [loader, 0]
    assert prompt[apply]["inputs"]["face_analysis"] == [analyser, 0]
    assert prompt[apply]["inputs"]["weight"] == 0.8
    assert prompt[apply]["inputs"]["negative"] == "same"
    assert prompt["5"]["inputs"]["model"] == [apply, 0]


def _renamed(names):
    def link(value):
        return [names.get(value[0], value[0]), value[1]] if isinstance(value, list) else value

    return {
        names.get(key, key): {
            "class_type": kind,
            "inputs": {name: link(value) for name, value in inputs.items()},
            "_meta": {},
        }
        for key, (kind, inputs) in OLD.items()
    }


def test_old_provider_values_are_still_choices():
    from flexid.nodes.face import FlexIDLoadFaceAnalyser

    provider = next(i for i in FlexIDLoadFaceAnalyser.define_schema().inputs if i.id == "provider")
    assert {"CPU", "CUDA", "ROCM"} <= set(provider.options)


def test_replacements_name_real_inputs():
    from flexid.nodes import NODES

    schemas = {node.define_schema().node_id: node.define_schema() for node in NODES}
    for replacement in REPLACEMENTS:
        ids = {i.id for i in schemas[replacement.new_node_id].inputs}
        for mapping in replacement.input_mapping:
            assert mapping["new_id"] in ids


def test_registering_reaches_the_core(monkeypatch):
    from comfy_api.latest import ComfyAPI
    from flexid.nodes import replacements

    seen = []

    async def register(self, replacement):
        seen.append(replacement.old_node_id)

    monkeypatch.setattr(ComfyAPI.NodeReplacement, "register", register)
    asyncio.run(replacements.register_replacements())
    assert seen == [replacement.old_node_id for replacement in REPLACEMENTS]
