"""DynamicID's nodes: from files and photos to a patched model."""

import itertools

import dynamicid_world
import folder_paths
import pytest
import tiny
import tiny_unet
import torch
from flexid.model_patches.gates.gate import Gate
from flexid.model_patches.gates.window import Window
from flexid.nodes import dynamicid as nodes
from flexid.nodes import saa

pytestmark = pytest.mark.comfy


@pytest.fixture(scope="module")
def model():
    return tiny_unet.sd15()


@pytest.fixture(scope="module")
def adapter(model, tmp_path_factory):
    return dynamicid_world.adapter(tmp_path_factory.mktemp("saa"), model)


def test_files_are_listed_opened_and_converted(dynamicid_home, model):
    label = nodes.ADAPTERS.labels()[0]
    assert "none found. Put SAA.bin into models/dynamicid" in label
    assert "meteorite2023/DynamicID" in label and "Fetch Models" not in label
    dynamicid_world.adapter(dynamicid_home, model)
    (dynamicid_home / "aaa.bin").write_bytes(b"something else")
    folder_paths.filename_list_cache.clear()
    assert nodes.ADAPTERS.labels() == ["SAA.bin", "aaa.bin"]
    opened = nodes.FlexIDLoadDynamicID.execute("SAA.bin")
    assert opened[1] == (
        "DynamicID SAA: 4 blocks, text of 64 channels, 4 face tokens, LoRA of rank 4 on 8 "
        "attention layers"
    )
    assert nodes.FlexIDConvertDynamicID.execute("SAA.bin", "")[0] == "SAA.safetensors"
    assert nodes.FlexIDConvertDynamicID.execute("SAA.bin", "../mine")[0] == "mine.safetensors"
    folder_paths.filename_list_cache.clear()
    again = nodes.FlexIDLoadDynamicID.execute("mine.safetensors")
    assert again[0].encoder_digest == opened[0].encoder_digest
    prints = {
        nodes.FlexIDLoadDynamicID.fingerprint_inputs(name)
        for name in ("SAA.bin", "mine.safetensors")
    }
    assert len(prints) == 2


def test_a_portrait_becomes_an_identity(adapter):
    photo = torch.rand(1, 300, 260, 3, generator=torch.Generator().manual_seed(4))
    vision, analyser = dynamicid_world.vision(), dynamicid_world.analyser()
    done = {
        colours: nodes.FlexIDEncodeDynamicID.execute(adapter, vision, analyser, photo, colours)
        for colours in nodes.COLOURS
    }
    tokens = [one[0].encodings["dynamicid"].tokens for one in done.values()]
    assert not torch.equal(*tokens)
    assert done["corrected"][1].shape == (1, 256, 256, 3)
    assert done["published"][2].startswith("1 face(s) -> 4 tokens for SAA.bin, published colours")


# People


def draw(model):
    return tiny_unet.sample(
        model, tiny_unet.conditioning(1), tiny_unet.conditioning(2), steps=1, cfg=3.0
    )


def make(adapter, seed=1, weight=1.0, name="", prompt="", **options):
    person = dynamicid_world.person(adapter, seed)
    return saa.FlexIDMakePerson.execute(person, weight, name, prompt, **options)


def apply(model, adapter, *people, **changed):
    defaults = {
        one.id: one.default
        for one in saa.FlexIDApplySAA.define_schema().inputs
        if getattr(one, "default", None) is not None
    }
    slots = {f"person{number}": person for number, person in enumerate(people)}
    return saa.FlexIDApplySAA.execute(model, adapter, slots, **{**defaults, **changed})


def test_the_widgets_are_the_published_defaults(model, adapter):
    left, right = (0, 0, 1000, 500), (0, 500, 1000, 1000)
    elements = [
        {"type": "obj", "bbox": list(right), "desc": "Ann at the window"},
        {"type": "obj", "bbox": list(left), "desc": ""},
    ]
    bob, ann = make(adapter)[0], make(adapter, 2, name="Ann", weight=0.5)[0]
    done = apply(model, adapter, bob, ann, elements=elements)
    assert done[1] == (
        "2 people, mode corrected, activation threshold 0.3, beta 2 in the first 24% of the "
        "steps\nperson 1: weight 1.000 → 1.000, region 50 % of the picture\n"
        "Ann: weight 0.500 → 0.500, region 50 % of the picture"
    )
    masks = torch.zeros(2, 1, 8, 8)
    masks[0, :, :, :4], masks[1, :, :, 4:] = 1, 1
    masked = apply(
        model, adapter, make(adapter, mask=masks[0])[0], make(adapter, 2, 0.5, mask=masks[1])[0]
    )
    torch.testing.assert_close(draw(done[0]), draw(masked[0]), atol=1e-4, rtol=1e-4)


def test_every_setting_reaches_the_model(model, adapter):
    box = [{"bbox": [0, 0, 1000, 500], "desc": ""}]
    people = make(adapter)[0], make(adapter, 2)[0]
    plain = draw(apply(model, adapter, *people)[0])
    placed = draw(apply(model, adapter, *people, elements=box)[0])
    changes = [
        {"threshold": 0.8},
        {"activation": False},
        {"lora_strength": 0.0},
        {"without_regions": "strips"},
    ]
    for change in changes:
        assert not torch.equal(draw(apply(model, adapter, *people, **change)[0]), plain), change
    for change in ({"beta": 0.0}, {"alpha": 0.0}, {"mode": "published"}):
        out = draw(apply(model, adapter, *people, **change, elements=box)[0])
        assert not torch.equal(out, placed), change
    mixed = [
        draw(apply(model, adapter, *people, mode="published", elements=box, mix=mix)[0])
        for mix in (0.2, 0.8)
    ]
    assert not torch.equal(*mixed)


def test_on_flux_boxes_and_settings_reach_the_model():
    flux, pulid = tiny.flux(), tiny.adapter()
    boxes = [{"bbox": [0, 500, 1000, 1000], "desc": "Ann"}, {"bbox": [0, 0, 1000, 500]}]
    bob, ann = (
        saa.FlexIDMakePerson.execute(tiny.identity(seed), 1.0, name, "")[0]
        for seed, name in ((1, ""), (2, "Ann"))
    )
    done = apply(flux, pulid, bob, ann, elements=boxes)
    assert done[1].splitlines()[1:] == [
        "person 1: weight 1.000 → 1.000, region 50 % of the picture",
        "Ann: weight 1.000 → 1.000, region 50 % of the picture",
    ]
    drawn = {
        str(change): tiny.sample(apply(flux, pulid, bob, ann, elements=boxes, **change)[0], steps=1)
        for change in (
            {},
            {"threshold": 0.8},
            {"activation": False},
            {"beta": 0.0},
            {"alpha": 0.0},
            {"lora_strength": 0.5},
        )
    }
    # A PuLID file has no LoRA; alpha 0 takes beta away.
    same = {"{}": "{'lora_strength': 0.5}", "{'beta': 0.0}": "{'alpha': 0.0}"}
    for one, other in itertools.combinations(drawn, 2):
        assert torch.equal(drawn[one], drawn[other]) == (same.get(one) == other), (one, other)


def test_nobody_left_is_said(model, adapter):
    done = apply(model, adapter, make(adapter, weight=0.0)[0])
    assert done[0] is model and done[1].endswith("Nobody is left: the model is unchanged.")


def test_a_persons_own_prompt_and_gate_are_theirs(model, adapter):
    calm = draw(apply(model, adapter, make(adapter)[0])[0])
    loosened = make(adapter, prompt="laughing out loud, in profile")
    assert not torch.equal(draw(apply(model, adapter, loosened[0])[0]), calm)
    assert " → 1.000" not in loosened[1]
    late = Gate((Window(0.5, 1.0),))
    assert make(adapter, gate=late)[1] == ("a person: weight 0.000 → 1.000, no region of their own")


def test_wrong_numbers_are_refused_before_anything_runs():
    check = saa.FlexIDApplySAA.validate_inputs
    assert check(0.3, 2.0, 0.24, 0.5) is True
    assert "The threshold is 2; expected" in check(2.0, 2.0, 0.24, 0.5)
    assert check(None, 2.0, 0.24, 0.5) is True
