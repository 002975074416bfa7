"""The feature mix: vectors from the authors' encoder, its ends, what it refuses."""

import pytest
import torch
from flexid.model_patches.adapters.perceiver import PerceiverAttention
from flexid.model_patches.identity.mix import (
    FAITHFUL,
    PRESETS,
    FeatureMix,
    parse_levels,
    parse_local_weights,
    pool_patches,
)
from idformer_world import reference, seeded_idformer
from safetensors.torch import load_file

pytestmark = pytest.mark.pure

CLOSE = {"atol": 5e-5, "rtol": 0}


@pytest.fixture(scope="module")
def expected(golden):
    return load_file(golden / "editidv2_mapping.safetensors")


@pytest.fixture(scope="module")
def encoder(golden):
    return seeded_idformer(golden)


@pytest.fixture(scope="module")
def answer(encoder):
    """(mix, condition, hidden) -> tokens; one photo where no inputs are given."""

    @torch.no_grad()
    def run(mix=FAITHFUL, condition=None, hidden=None):
        own_condition, own_hidden = reference()
        condition = own_condition if condition is None else condition
        hidden = own_hidden if hidden is None else hidden
        return encoder(condition, mix.shape_levels(hidden), mix.weights)

    return run


def without(*slots):
    return FeatureMix(local_weight=tuple(0.0 if slot in slots else 1.0 for slot in range(5)))


MIXES = {
    **{
        f"map_{digits}": FeatureMix(layer_map=tuple(map(int, digits)))
        for digits in ("00000", "00224", "43210", "44444")
    },
    "cls_only": FeatureMix(cls_only=True),
    **{f"pool{side}": FeatureMix(local_pool=side) for side in (1, 6, 12)},
    "shift_deep0.5": FeatureMix(depth_shift=0.5),
    "drop_slot0": without(0),
    "drop_slot4": without(4),
    "drop_all": without(*range(5)),
    **{
        f"derived.local_weight{weight}": FeatureMix(local_weight=(weight,) * 5)
        for weight in (0.25, 4.0)
    },
}


def _change(hidden=None, condition=None):
    """Inputs of one photo, changed in place."""
    own_condition, own_hidden = reference()
    if hidden is not None:
        hidden(own_hidden)
    if condition is not None:
        condition(own_condition)
    return {"condition": own_condition, "hidden": own_hidden}


PITFALLS = {
    "zero_hidden0": lambda: _change(lambda h: h[:, 0].zero_()),
    "zero_hidden4": lambda: _change(lambda h: h[:, 4].zero_()),
    "real_cond_zero_hidden": lambda: _change(torch.Tensor.zero_),
    "uncond_cond_real_hidden": lambda: _change(condition=torch.Tensor.zero_),
    "local_scale0.5": lambda: _change(lambda h: h.mul_(0.5)),
}
"""What looks like a control and is none: the authors' numbers for it."""


def test_every_vector_is_compared(expected):
    names = {*MIXES, *PITFALLS, "blend_uncond0.5"}
    assert {f"{name}.s8" for name in names} == set(expected)


@pytest.mark.parametrize("name", MIXES)
def test_controls(answer, expected, name):
    got = answer(MIXES[name])[:, :, ::8]
    torch.testing.assert_close(got, expected[f"{name}.s8"], **CLOSE)


@pytest.mark.parametrize("name", PITFALLS)
def test_inputs_of_the_pitfalls(answer, expected, name):
    got = answer(**PITFALLS[name]())[:, :, ::8]
    torch.testing.assert_close(got, expected[f"{name}.s8"], **CLOSE)


def test_a_zero_level_is_not_a_level_left_out(expected):
    """And half of all levels is nearly the whole: the first layers normalise."""
    for level in (0, 4):
        zero, dropped = (expected[f"{name}{level}.s8"] for name in ("zero_hidden", "drop_slot"))
        assert (zero - dropped).abs().max() > 0.5
    assert (expected["local_scale0.5.s8"] - expected["drop_all.s8"]).abs().max() > 2


def test_the_identity_is_scaled_about_nobody(answer, expected):
    condition, hidden = reference()
    nobody = answer(condition=torch.zeros_like(condition), hidden=torch.zeros_like(hidden))
    person = answer()
    half = FeatureMix(id_scale=0.5).scale_identity(person, nobody)
    torch.testing.assert_close(half[:, :, ::8], expected["blend_uncond0.5.s8"], **CLOSE)
    assert FAITHFUL.scale_identity(person, nobody) is person
    assert torch.equal(FeatureMix(id_scale=0.0).scale_identity(person, nobody), nobody)


# Ends


def test_defaults_hand_everything_on():
    hidden = reference()[1]
    assert FAITHFUL.shape_levels(hidden) is hidden
    assert FAITHFUL.weights is None and FAITHFUL.encoder_facts == ()
    assert FAITHFUL.is_neutral and FAITHFUL.describe() == "as PuLID encodes"


def test_a_weight_near_0_is_a_weight_of_0(answer):
    near = answer(FeatureMix(local_weight=(1e-6,) * 5))
    torch.testing.assert_close(near, answer(without(*range(5))), atol=1e-3, rtol=0)
    exact = answer(FeatureMix(local_weight=(1.0, 1.0, 0.5, 1.0, 1.0)))
    assert not torch.allclose(exact, answer(), atol=1e-3)


def test_a_weight_of_1_beside_others_is_exact(encoder):
    """A bias of 0 would take another kernel: the layers of weight 1 get none."""
    seen = []
    hooks = [
        layer[0].register_forward_pre_hook(lambda m, args: seen.append(args[2] is None))
        for layer in encoder.layers
    ]
    with torch.no_grad():
        encoder(*reference(), (1.0, 0.5, 1.0, 0.0, 1.0))
    for hook in hooks:
        hook.remove()
    assert seen == [True, True, False, False, True, True, True, True, True, True]


def test_a_bias_of_logarithms_repeats_tokens():
    """ln 2 on a token counts as that token twice."""
    layer = PerceiverAttention(48, 3, 20).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, 4, 48, generator=generator)
    context = torch.randn(2, 3, 48, generator=generator)
    bias = torch.tensor([0.0, 0.0, 2.0]).log1p() * torch.tensor([0.0, 0.0, 1.0])
    repeated = torch.cat((context, context[:, 2:], context[:, 2:]), dim=1)
    torch.testing.assert_close(layer(latents, context, bias), layer(latents, repeated))


def test_two_photos_are_pooled_each_on_its_own():
    one, two = reference()[1], reference(".ref1")[1]
    both = FeatureMix(local_pool=6, depth_shift=0.3).shape_levels(torch.cat((one, two)))
    for row, alone in enumerate((one, two)):
        expected = FeatureMix(local_pool=6, depth_shift=0.3).shape_levels(alone)
        torch.testing.assert_close(both[row : row + 1], expected)


def test_pooling_averages_neighbours_and_keeps_the_class_token():
    rows = torch.arange(4.0).repeat_interleave(4)
    hidden = torch.cat((torch.tensor([9.0]), rows))[None, None, :, None]
    pooled = pool_patches(hidden, 2)
    assert pooled.flatten().tolist() == [9.0, 0.5, 0.5, 2.5, 2.5]
    assert pool_patches(hidden, 4) is hidden and pool_patches(hidden, 24) is hidden


# Settings


def test_presets_are_the_reference_values():
    assert list(PRESETS) == ["faithful", "balanced", "editable", "loose"]
    assert PRESETS["faithful"].is_neutral
    assert PRESETS["balanced"].describe() == "local_weight 1, 1, 0.7, 0.7, 0.7; local_pool 12"
    assert PRESETS["editable"].describe() == ("local_weight 0.5, 0.5, 0.5, 0.5, 0.5; local_pool 6")
    assert PRESETS["loose"].describe() == "cls_only on"


def test_the_identity_scale_costs_no_run_of_the_encoder():
    assert FeatureMix(id_scale=0.5).encoder_facts == ()
    assert FeatureMix(id_scale=0.5, local_pool=6).encoder_facts == (
        FeatureMix(local_pool=6).encoder_facts
    )
    assert FeatureMix(arcface_scale=0.5).encoder_facts != ()


def test_texts_are_lists_of_numbers():
    assert parse_levels("4, 3,2,1 , 0") == (4, 3, 2, 1, 0)
    assert parse_local_weights("0.5") == (0.5,) * 5
    assert parse_local_weights("1, 1, .7, 0.7, 7e-1") == (1.0, 1.0, 0.7, 0.7, 0.7)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: parse_levels("0, 1, x"), "layer_map is '0, 1, x', expected 5 whole numbers"),
        (lambda: parse_levels(""), "layer_map is ''"),
        (lambda: parse_levels("-1, 0, 1, 2, 3"), "layer_map is"),
        (lambda: parse_local_weights("half"), "local_weight is 'half', expected one number"),
        (lambda: FeatureMix(layer_map=(0, 1)), "layer_map has 2 numbers, expected 5"),
        (lambda: FeatureMix(layer_map=(0, 1, 2, 3, 5)), r"level of layer_map is 5.*\[0, 4\]"),
        (lambda: FeatureMix(local_weight=(1.0,) * 4), "local_weight has 4 numbers, expected 5"),
        (lambda: FeatureMix(local_weight=(-1.0,) * 5), "weight of local_weight is -1"),
        (lambda: FeatureMix(local_weight=(float("nan"),) * 5), "is nan"),
        (lambda: FeatureMix(local_pool=0), r"local_pool is 0.*\[1, 24\]"),
        (lambda: FeatureMix(depth_shift=1.5), r"depth_shift is 1.5.*\[-1, 1\]"),
        (lambda: FeatureMix(id_scale=3.0), r"id_scale is 3.*\[-1, 2\]"),
        (lambda: FeatureMix(arcface_scale=-1.0), r"arcface_scale is -1.*\[0, 5\]"),
        (
            lambda: FAITHFUL.shape_levels(torch.zeros(1, 3, 17, 8)),
            "gives 3 levels; a feature mix names 5",
        ),
    ],
)
def test_other_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make()
