"""Reference guidance on every kind of model that takes reference pictures, and on those without."""

import inspect

import comfy.ldm.flux.model
import pytest
import tiny_edit
import tiny_unet
import torch
from flexid.model_patches.inject.guidance.apply import apply_reference_guidance
from flexid.model_patches.inject.guidance.attention import COUNTS, weigh_keys
from flexid.model_patches.inject.guidance.supported import TESTED
from flexid.model_patches.inject.region import region_of

KINDS = sorted(tiny_edit.KINDS)
ANNOUNCING = sorted(set(KINDS) - {"omnigen2"})


class Models(dict):
    """Each made when it is asked for."""

    def __missing__(self, name):
        self[name] = tiny_edit.KINDS[name].model()
        return self[name]


@pytest.fixture(scope="module")
def models():
    return Models()


def guide(model, conditioning, **options):
    return apply_reference_guidance(model, conditioning, **options).model


def test_every_tested_class_is_tested(models):
    assert {type(models[name].model).__name__ for name in KINDS} == set(TESTED)


@pytest.mark.parametrize("name", KINDS)
def test_the_ends_are_exact_and_the_middle_is_linear(models, name):
    kind, model = tiny_edit.KINDS[name], models[name]
    with_, bare, negative = kind.prompt(1, (5, 6)), kind.prompt(1), kind.prompt(2)
    whole = kind.sample(model, with_, negative, cfg=3.0)
    assert torch.equal(kind.sample(guide(model, with_), with_, negative, cfg=3.0), whole)
    none = kind.sample(model, bare, negative, cfg=3.0)
    zero = guide(model, with_, weight=0.0)
    assert torch.equal(kind.sample(zero, with_, negative, cfg=3.0), none)
    assert not torch.equal(whole, none)
    half = kind.sample(guide(model, with_, weight=0.5), with_, negative, steps=1, cfg=3.0)
    ends = [kind.sample(model, one, negative, steps=1, cfg=3.0) for one in (with_, bare)]
    torch.testing.assert_close(half, sum(ends) / 2, atol=5e-5, rtol=0)


@pytest.mark.parametrize("name", KINDS)
def test_a_mask_for_the_left_half(models, name):
    kind, model = tiny_edit.KINDS[name], models[name]
    with_, bare, negative = kind.prompt(1, (5,)), kind.prompt(1), kind.prompt(2)
    left = torch.zeros(1, 64, 64)
    left[..., :32] = 1.0
    out = kind.sample(guide(model, with_, region=region_of(left)), with_, negative, steps=1)
    whole, none = (kind.sample(model, one, negative, steps=1) for one in (with_, bare))
    torch.testing.assert_close(out[..., :4], whole[..., :4], atol=2e-5, rtol=0)
    torch.testing.assert_close(out[..., 4:], none[..., 4:], atol=2e-5, rtol=0)


@pytest.mark.parametrize("name", ANNOUNCING)
def test_attention_has_the_same_exact_ends_and_keeps_places(models, name):
    kind, model = tiny_edit.KINDS[name], models[name]
    with_, negative = kind.prompt(1, (5, 6)), kind.prompt(2)

    def run(weight, **options):
        guided = guide(model, with_, weight=weight, method="attention", **options)
        return kind.sample(guided, with_, negative)

    if COUNTS not in inspect.getsource(comfy.ldm.flux.model):  # an older ComfyUI
        with pytest.raises(RuntimeError, match="0 attentions of .* Set method to two predictions"):
            run(0.5)
        return
    whole = kind.sample(model, with_, negative)
    none = kind.sample(model, kind.prompt(1), negative)
    assert torch.equal(run(1.0), whole)
    torch.testing.assert_close(run(0.0), none, atol=2e-5, rtol=0)
    middle = run(0.5)
    assert not torch.equal(middle, whole) and not torch.equal(middle, none)
    first = kind.sample(model, kind.prompt(1, (5,)), negative)
    torch.testing.assert_close(run(0.0, reference=2), first, atol=2e-5, rtol=0)


def test_a_weight_multiplies_the_share_of_attention():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 9, 4, generator=generator) for _ in range(3))
    plain = (q @ k.transpose(-1, -2) / 2).exp()
    plain[..., 5:7] *= 0.3
    plain[..., 7:] *= 0.0
    wanted = plain / plain.sum(-1, keepdim=True) @ v
    for mask in (None, torch.ones(9, 9, dtype=torch.bool), torch.zeros(1, 1, 9, 9)):
        keys, values, bias = weigh_keys(q, k, v, mask, (2, 2), (0.3, 0.0))
        found = torch.nn.functional.scaled_dot_product_attention(q, keys, values, attn_mask=bias)
        torch.testing.assert_close(found, wanted)


def test_krea_2_without_a_method_is_refused(models):
    kind, model = tiny_edit.KINDS["krea2"], models["krea2"]
    with_ = kind.prompt(1, (5,))
    del with_[0][1]["reference_latents_method"]
    with pytest.raises(RuntimeError, match="1 of 1 prompts with references have none"):
        kind.sample(guide(model, with_, weight=0.5), with_, kind.prompt(2))


def test_models_without_references_are_refused_by_name():
    text = tiny_unet.conditioning(1)
    with pytest.raises(ValueError, match="got BaseModel, which takes no reference latents"):
        guide(tiny_unet.sd15(), text, weight=0.5)
    with pytest.raises(ValueError, match="got SDXL, which"):
        guide(tiny_unet.sdxl(), text, weight=0.5)


def test_attention_refuses_what_it_cannot_do(models):
    kind, model = tiny_edit.KINDS["flux"], models["flux"]
    with_ = kind.prompt(1, (5,))
    with pytest.raises(ValueError, match="takes no mask"):
        guide(model, with_, method="attention", region=region_of(torch.ones(1, 8, 8)))
    first = guide(model, with_, weight=0.5, reference=1)
    with pytest.raises(ValueError, match="has method attention, but an earlier one"):
        guide(first, with_, weight=0.5, reference=2, method="attention")
    with pytest.raises(ValueError, match="Omnigen2 does not say which of its keys"):
        guide(models["omnigen2"], with_, weight=0.5, method="attention")
