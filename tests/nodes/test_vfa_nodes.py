"""Gate and VFA nodes: what they do, and their error messages."""

from types import SimpleNamespace

import pytest
import tiny
import torch
from flexid.model_patches.face.choose import FaceChoice, NoSuchFace
from flexid.model_patches.gates.gate import Moment
from flexid.nodes import vfa
from flexid.nodes.editid import FlexIDEditIDPreset
from flexid.nodes.face import FlexIDChooseFace
from flexid.nodes.gates import FlexIDWindow
from flexid.nodes.vfa import FlexIDApplyVFA, FlexIDApplyVFAFromPhoto
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


@pytest.mark.parametrize("chosen", [None, ("left to right", 1)])
def test_from_photo_detects_the_chosen_face(monkeypatch, parts, chosen):
    seen = []

    def detect(analyser, image, choice, on_missing):
        seen.append(choice)
        raise NoSuchFace("stop here")

    monkeypatch.setattr(vfa, "detect_faces", detect)
    options = {"options": FlexIDChooseFace.execute(*chosen)[0]} if chosen else {}
    with pytest.raises(NoSuchFace):
        FlexIDApplyVFAFromPhoto.execute(parts["model"], 0, 0, 0, 0, **APPLY, **options)
    assert seen == [FaceChoice("left to right", "1") if chosen else FaceChoice()]


def test_from_photo_hands_on_mix_and_method(monkeypatch, parts):
    seen = {}
    identity = parts["identity"]

    def encode(*arguments, mix):
        seen["mix"] = mix
        return SimpleNamespace(identity=identity, report="encoded")

    def apply(*arguments, method, **options):
        seen["method"] = method
        return arguments[0]

    found = SimpleNamespace(faces=(), report="detected")
    monkeypatch.setattr(vfa, "detect_faces", lambda *arguments: found)
    monkeypatch.setattr(vfa, "encode_identity", encode)
    monkeypatch.setattr(vfa, "apply_vfa", apply)
    mix = FlexIDEditIDPreset.execute("editability")[0]
    options = {"mix": mix, "method": "style"}
    done = FlexIDApplyVFAFromPhoto.execute(parts["model"], 0, 0, 0, 0, **APPLY, **options)
    assert seen == {"mix": mix, "method": "style"} and done[1] is identity


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
