"""The LoRA in a file for a Flux: what Apply VFA and Apply SAA do with it, in real ComfyUI."""

from dataclasses import replace

import pytest
import tiny
import torch
from flexid.mini.tiny_flux import flux_state, open_flux
from flexid.model_patches.adapters.flux_lora import DOWN, LORA, UP
from flexid.model_patches.inject.saa import apply_saa
from flexid.model_patches.inject.saa_people import make_person
from flexid.model_patches.inject.vfa import apply_vfa

pytestmark = pytest.mark.comfy

LAYERS = {
    "double_blocks.0.img_attn.qkv": (768, 256),
    "double_blocks.1.txt_attn.proj": (256, 256),
    "single_blocks.3.linear2": (256, 1280),
}
RANK = 4


def lora_of(scale=1.0):
    generator = torch.Generator().manual_seed(5)
    found = {}
    for name, (out, entry) in LAYERS.items():
        down = torch.randn(RANK, entry, generator=generator) / entry**0.5
        found[f"{LORA}{name}{DOWN}"] = down
        found[f"{LORA}{name}{UP}"] = scale * torch.randn(out, RANK, generator=generator) / 4
    return found


@pytest.fixture(scope="module")
def model():
    return tiny.flux()


@pytest.fixture(scope="module")
def bare():
    return tiny.adapter()


@pytest.fixture(scope="module")
def adapter(bare):
    return replace(bare, lora=lora_of(), digest="with a LoRA")


def sample(model, **options):
    return tiny.sample(model, **{"steps": 2, **options})


def saa(model, adapter, *people, **options):
    return apply_saa(model, adapter, people or [make_person(tiny.identity(1))], **options).model


def merged(dtype=torch.float32):
    """The Flux with up times down in its weights, without any patch."""
    state, lora = flux_state(), lora_of()
    for name in LAYERS:
        state[f"{name}.weight"] += lora[f"{LORA}{name}{UP}"] @ lora[f"{LORA}{name}{DOWN}"]
    return open_flux(state, dtype)


def close(one, other, atol=2e-4):
    torch.testing.assert_close(one, other, atol=atol, rtol=1e-3)


@pytest.mark.parametrize("node", ["vfa", "saa"])
def test_it_is_added_to_the_weights_of_the_base(model, bare, adapter, node):
    def drawn(model, adapter):
        if node == "vfa":
            return sample(apply_vfa(model, adapter, tiny.identity(1)))
        return sample(saa(model, adapter))

    found = drawn(model, adapter)
    close(found, drawn(merged(), bare))
    assert (found - drawn(model, bare)).norm() > 0.05 * found.norm()


def test_without_people_and_at_weight_0_the_base_is_untouched(model, adapter):
    base = sample(model)
    assert torch.equal(sample(apply_vfa(model, adapter, tiny.identity(1), weight=0.0)), base)
    empty = torch.zeros(1, 64, 64)
    assert torch.equal(sample(apply_vfa(model, adapter, tiny.identity(1), mask=empty)), base)
    assert saa(model, adapter, make_person(tiny.identity(1), weight=0.0)) is model
    apply_vfa(model, adapter, tiny.identity(1))
    assert not model.patches and torch.equal(sample(model), base)


def test_its_strength_is_apply_saas_and_0_leaves_it_out(model, bare, adapter):
    off = sample(saa(model, adapter, lora_strength=0.0))
    assert torch.equal(off, sample(saa(model, bare)))
    half = replace(adapter, lora=lora_of(0.5), digest="half")
    close(sample(saa(model, adapter, lora_strength=0.5)), sample(saa(model, half)))


def test_apply_vfa_has_all_of_it_at_any_weight(model, bare, adapter):
    one = sample(apply_vfa(model, adapter, tiny.identity(1), weight=0.3))
    close(one, sample(apply_vfa(merged(), bare, tiny.identity(1), weight=0.3)))


def test_a_second_node_with_the_same_file_adds_no_more(model, adapter):
    first = apply_vfa(model, adapter, tiny.identity(1))
    both = apply_vfa(first, adapter, tiny.identity(2))
    mixed = saa(first, adapter, make_person(tiny.identity(2)))
    for patched in (first, both, mixed):
        assert {key: len(found) for key, found in patched.patches.items()} == {
            f"{LORA}{name}.weight": 1 for name in LAYERS
        }
    other = apply_vfa(apply_vfa(model, adapter, tiny.identity(2)), adapter, tiny.identity(1))
    assert torch.equal(sample(both), sample(other))
    swapped = apply_vfa(saa(model, adapter, make_person(tiny.identity(2))), adapter,
                        tiny.identity(1))  # fmt: skip
    assert torch.equal(sample(mixed), sample(swapped))


def test_another_file_adds_its_own(model, adapter):
    other = replace(adapter, digest="another", lora=lora_of(0.5))
    both = apply_vfa(apply_vfa(model, adapter, tiny.identity(1)), other, tiny.identity(2))
    assert {len(found) for found in both.patches.values()} == {2}


@pytest.mark.parametrize("saa_first", [True, False])
def test_two_strengths_are_refused_in_either_order(model, adapter, saa_first):
    with pytest.raises(ValueError, match=r"LoRA of 'tiny.safetensors'.*Apply VFA has 1"):
        if saa_first:
            apply_vfa(saa(model, adapter, lora_strength=0.5), adapter, tiny.identity(2))
        else:
            saa(apply_vfa(model, adapter, tiny.identity(2)), adapter, lora_strength=0.5)
    saa(apply_vfa(model, adapter, tiny.identity(2)), adapter, lora_strength=0.0)  # asks for none


def test_a_model_without_the_layer_is_refused(model, adapter):
    lora = {key.replace("single_blocks.3", "single_blocks.9"): v for key, v in adapter.lora.items()}
    with pytest.raises(ValueError, match=r"1 of 3 LoRA weights.*single_blocks.9.linear2"):
        apply_vfa(model, replace(adapter, lora=lora, digest="nine"), tiny.identity(1))


def test_fp8_weights_get_it_too(bare, adapter):
    patched = open_flux(flux_state(), torch.float8_e4m3fn)
    without = sample(apply_vfa(patched, bare, tiny.identity(1)))
    drawn = sample(apply_vfa(patched, adapter, tiny.identity(1)))
    wanted = sample(apply_vfa(merged(torch.float8_e4m3fn), bare, tiny.identity(1)))
    assert drawn.isfinite().all()
    assert (drawn - wanted).norm() < 0.5 * (without - wanted).norm()


def test_another_lora_of_the_base_stays(model, bare, adapter):
    name = f"{LORA}double_blocks.0.img_attn.qkv.weight"
    change = torch.randn(768, 256, generator=torch.Generator().manual_seed(3))
    patched = model.clone()
    patched.add_patches({name: ("diff", (change,))}, 0.05)
    state = merged().model.diffusion_model.state_dict()
    state["double_blocks.0.img_attn.qkv.weight"] = (
        state["double_blocks.0.img_attn.qkv.weight"] + 0.05 * change
    )
    wanted = sample(apply_vfa(open_flux(state, torch.float32), bare, tiny.identity(1)))
    close(sample(apply_vfa(patched, adapter, tiny.identity(1))), wanted)
