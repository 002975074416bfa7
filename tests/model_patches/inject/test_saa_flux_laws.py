"""The laws every injection keeps, for several people by SAA, on a small Flux in real ComfyUI."""

import comfy.model_management
import pulid_world
import pytest
import tiny
import tiny_unet
import torch
import torch.nn.functional as F
from flexid.model_patches.gates.gate import Gate
from flexid.model_patches.gates.window import Window
from flexid.model_patches.inject.call import CALL
from flexid.model_patches.inject.pulid import layer_weights
from flexid.model_patches.inject.region import box_region
from flexid.model_patches.inject.run import KEY, RUN
from flexid.model_patches.inject.saa import apply_saa
from flexid.model_patches.inject.saa_people import Person, make_person
from flexid.model_patches.inject.saa_settings import SaaSettings
from flexid.model_patches.inject.vfa import apply_vfa
from torch_ops import watch_sites
from vfa_world import Control, after_first_block, doubling, left

pytestmark = pytest.mark.comfy

CLOSED = Gate((Window(points=((0.0, 0.0),)),))
LATE = Gate((Window(0.5, 1.0, "progress"),))
PLAIN = {"activation": False, "beta": 0.0}
LEFT, RIGHT = left(), 1 - left()


@pytest.fixture(scope="module")
def model():
    return tiny.flux()


@pytest.fixture(scope="module")
def adapter():
    return tiny.adapter()


@pytest.fixture(scope="module")
def base(model):
    return sample(model)


@pytest.fixture(scope="module")
def first(model):
    return after_first_block(model)


@pytest.fixture(scope="module")
def apply(model, adapter):
    def call(*people, on=None, **settings):
        return apply_saa(on or model, adapter, people, SaaSettings(**settings)).model

    return call


def sample(model, **options):
    return tiny.sample(model, **{"steps": 2, **options})


def somebody(seed=1, **options):
    return make_person(tiny.identity(seed), **options)


def boxed(seed, box):
    return Person(tiny.identity(seed), region=box_region(box))


def halves(image):
    """Tokens (R, 64, D) of the left and of the right half of the picture."""
    return image.unflatten(1, (8, 8)).split(4, dim=2)


def close(one, other, atol=1e-4):
    torch.testing.assert_close(one, other, atol=atol, rtol=1e-4)


# The definition


def test_one_person_without_activation_is_a_plain_anchor(model, adapter, apply):
    assert torch.equal(
        sample(apply(somebody(), **PLAIN)), sample(apply_vfa(model, adapter, tiny.identity(1)))
    )


@pytest.mark.parametrize("weights", [(1.0, 1.0), (1.0, 0.4)])
def test_equations_1_and_2_written_out(adapter, apply, first, weights):
    """Unfolded, with all people's tokens in one softmax, and the activation from its scores."""
    people = [somebody(seed, weight=weight) for seed, weight in zip((1, 2), weights, strict=True)]
    drawn = after_first_block(apply(*people, threshold=0.3)) - first
    layer = layer_weights(adapter.cross_attention, 0)
    tokens = torch.cat([one.identity.encodings["pulid_flux"].tokens for one in people], dim=1)
    normed = F.layer_norm(tokens, (tiny.TOKEN_DIM,), layer["norm1.weight"], layer["norm1.bias"])
    keys, values = (normed @ layer["to_kv.weight"].T).chunk(2, dim=-1)
    image = F.layer_norm(first, (256,), layer["norm2.weight"], layer["norm2.bias"])
    q, k, v = (
        x.unflatten(-1, (adapter.heads, -1)).transpose(1, 2)
        for x in (image @ layer["to_q.weight"].T, keys, values)
    )
    scores = q @ k.transpose(2, 3) * 128**-0.5
    each = torch.tensor(weights).repeat_interleave(tiny.TOKENS)
    found = (scores * each).sum((1, 3))
    low, high = found.amin(1, keepdim=True), found.amax(1, keepdim=True)
    active = (found - low) / (high - low)
    active = torch.where(active < 0.3, 0.0, active)
    shares = (scores + each.log()).softmax(-1) * active[:, None, :, None] * each
    expected = (shares @ v).transpose(1, 2).flatten(2) @ layer["to_out.weight"].T
    assert (active == 0).any() and active.max() == 1.0
    close(drawn, expected, atol=2e-3)


def test_activation_leaves_tokens_alone_that_do_not_ask(apply, first):
    change = (after_first_block(apply(somebody(), somebody(2), threshold=0.6)) - first).abs()
    touched = change.amax(-1) > 0
    assert 0.02 < touched.float().mean() < 0.8
    full = (after_first_block(apply(somebody(), somebody(2), **PLAIN)) - first).abs()
    assert (full.amax(-1) > 0).all()


# 1. Neutral is exact


@pytest.mark.parametrize(
    "options",
    [{"weight": 0.0}, {"gate": CLOSED}, {"mask": torch.zeros(1, 64, 64)}],
    ids=["weight 0", "closed gate", "empty mask"],
)
def test_neutral_is_bit_identical(base, apply, options):
    assert torch.equal(sample(apply(somebody(**options), somebody(2, weight=0.0))), base)


def test_nobody_left_hands_on_the_model(model, apply):
    assert apply(somebody(weight=0.0)) is model
    assert apply(boxed(1, (0, 1.2, 1, 1.5))) is model  # a box outside of the picture


def test_an_all_one_mask_and_a_whole_box_are_no_region(apply):
    plain = sample(apply(somebody(), somebody(2)))
    assert torch.equal(sample(apply(somebody(mask=torch.ones(3, 50)), somebody(2))), plain)
    assert torch.equal(sample(apply(boxed(1, (-0.1, 0, 1, 2)), somebody(2))), plain)


def test_somebody_left_out_is_as_if_absent(apply):
    alone = sample(apply(somebody()))
    for absent in ({"weight": 0.0}, {"mask": torch.zeros(1, 9, 9)}, {"gate": CLOSED}):
        options = {"mask": LEFT, **absent}
        assert torch.equal(sample(apply(somebody(), somebody(2, **options))), alone)


def test_closed_gates_reach_no_block(apply):
    steps = []

    def spy(args, extra):
        steps.append(len(args["transformer_options"][CALL].added))
        return extra["original_block"](args)

    patched = apply(somebody(gate=LATE), somebody(2, gate=CLOSED))
    patched.set_model_patch_replace(spy, "dit", "double_block", 1)
    tiny.sample(patched, steps=4)
    assert steps == [0, 0, 2, 2]


# Regions


def test_a_person_stays_out_of_others_regions(apply, first):
    """Where one person has the region, the picture does not depend on who the other is."""
    one, other = (
        halves(after_first_block(apply(somebody(mask=LEFT), somebody(n, mask=RIGHT), **PLAIN)))
        for n in (2, 3)
    )
    close(one[0], other[0], atol=1e-5)
    assert (one[1] - other[1]).abs().max() > 1e-2
    alone = halves(after_first_block(apply(somebody(), **PLAIN)))
    close(one[0], alone[0], atol=1e-5)


def test_people_share_an_overlap(apply):
    """Two people with one region are two people without, but for beta."""
    same = apply(somebody(mask=LEFT), somebody(2, mask=LEFT), beta=0.0)
    free = apply(somebody(), somebody(2), beta=0.0)
    close(after_first_block(same), after_first_block(free), atol=1e-5)


def test_beta_raises_inside_and_lowers_outside_in_the_first_steps(apply, first):
    mask = somebody(mask=LEFT)
    level, raised, never = (
        after_first_block(apply(mask, activation=False, **options)) - first
        for options in ({"beta": 0.0}, {"beta": 2.0}, {"beta": 2.0, "alpha": 0.0})
    )
    assert torch.equal(level, never)
    (inside, outside), (more, less) = halves(level), halves(raised)
    close(3 * inside, more, atol=1e-3)
    close(outside / 3, less, atol=1e-3)


def test_each_picture_of_a_batch_has_a_mask_of_its_own(apply):
    masks = torch.cat([LEFT, RIGHT])
    read = after_first_block(apply(somebody(mask=masks)), batch=2)
    for row, mask in enumerate((LEFT, RIGHT)):
        alone = after_first_block(apply(somebody(mask=mask)), batch=2)
        close(read[row], alone[row], atol=1e-5)


def one_pixel():
    mask = torch.zeros(1, 128, 128)
    mask[0, 40, 70] = 1
    return mask


@pytest.mark.parametrize("size", [(2, 2), (7, 9), (6, 25)])
def test_odd_sizes_one_pixel_and_more_people_than_regions(apply, size):
    people = [somebody(mask=one_pixel()), somebody(2, mask=RIGHT), somebody(3)]
    assert sample(apply(*people, alpha=1.0), size=size, steps=1).isfinite().all()


def test_the_token_of_one_pixel_belongs_to_its_person(apply):
    people = [somebody(mask=one_pixel()), somebody(2)]
    change = after_first_block(apply(*people, activation=False, beta=20.0))
    other = after_first_block(apply(people[0], somebody(3), activation=False, beta=20.0))
    same = ((change - other).abs().amax(-1) < 1e-3).unflatten(1, (8, 8))[0]
    # The mask covers 1 of 256 pixels of the token: everybody else keeps 255 parts of it.
    assert not same[2, 4]
    whole = torch.zeros(1, 128, 128)
    whole[0, 32:48, 64:80] = 1
    one, two = (
        after_first_block(apply(somebody(mask=whole), somebody(n), activation=False))
        for n in (2, 3)
    )
    same = ((one - two).abs().amax(-1) < 1e-5).unflatten(1, (8, 8))[0]
    assert same.nonzero().tolist() == [[2, 4]]


# 2. Only the returned clone changes


def test_only_the_returned_clone_changes(model, base, apply):
    once = apply(somebody())
    before = sample(once)
    assert not torch.equal(sample(apply(somebody(7), on=once)), before)
    assert torch.equal(sample(once), before) and torch.equal(sample(model), base)
    assert KEY not in model.model_options["transformer_options"].get("patches", {})


# 3. Composition


def test_the_order_of_people_and_of_nodes_changes_no_bit(model, adapter, apply):
    one, two = somebody(mask=LEFT), somebody(2, mask=RIGHT, weight=0.7)
    third = somebody(3)
    drawn = sample(apply(one, two, third))
    assert torch.equal(sample(apply(third, one, two)), drawn)
    after = sample(apply_vfa(apply(one, two), adapter, tiny.identity(5)))
    before = sample(apply(two, one, on=apply_vfa(model, adapter, tiny.identity(5))))
    assert torch.equal(before, after) and not torch.equal(after, sample(apply(one, two)))


@pytest.mark.parametrize("key", [("double_block", 0), ("single_block", 0)])
def test_another_packs_patch_before_and_after_both_run(model, apply, key):
    calls = []
    before = sample(apply(somebody(), on=doubling(model, key, calls)))
    after = sample(doubling(apply(somebody()), key, calls))
    assert len(calls) == 4
    alone = sample(doubling(model, key, calls))
    assert not torch.equal(before, alone) and not torch.equal(after, alone)


def test_a_lora_before_or_after_and_a_controlnet(model, apply):
    name = "diffusion_model.double_blocks.0.img_attn.qkv.weight"
    shape = model.model.state_dict()[name].shape
    patch = {name: ("diff", (torch.randn(shape, generator=torch.Generator().manual_seed(3)),))}
    before = model.clone()
    before.add_patches(patch, 0.05)
    after = apply(somebody())
    after.add_patches(patch, 0.05)
    drawn = sample(after)
    assert torch.equal(sample(apply(somebody(), on=before)), drawn)
    control = tiny.conditioning(10, control=Control(), control_apply_to_uncond=True)
    both = sample(after, positive=control)
    assert both.isfinite().all() and not torch.equal(both, drawn)


# 4. Batches, prompts, number formats, reference tokens


def test_the_negative_prompt_gets_nobody(apply, first):
    prompts = {"positive": tiny.conditioning(10), "negative": tiny.conditioning(10)}
    one, two = (after_first_block(apply(somebody(n)), cfg=3.0, **prompts) for n in (1, 2))
    same = [torch.equal(one[row], two[row]) for row in (0, 1)]
    assert sorted(same) == [False, True]
    nobody = same.index(True)
    assert not torch.equal(one[nobody], first[0])


def test_each_picture_of_a_batch_is_drawn_as_alone(apply):
    patched = apply(somebody(mask=LEFT), somebody(2))
    close(sample(patched, batch=3, cfg=3.0)[:1], sample(patched, cfg=3.0), atol=2e-3)


def test_an_area_prompt_sees_its_part_of_the_regions(apply):
    area = tiny.conditioning(12, area=(16, 8, 0, 8), strength=1.0)
    one, two = (
        sample(apply(somebody(mask=RIGHT), somebody(n, mask=LEFT), **PLAIN), positive=area)
        for n in (2, 3)
    )
    close(one, two)


def test_tiles_without_a_place_are_refused(apply):
    def tile(apply_model, args):
        part = apply_model(args["input"][..., :8], args["timestep"], **args["c"])
        return torch.cat([part, part], dim=-1)

    patched = apply(somebody(mask=LEFT))
    patched.set_model_unet_function_wrapper(tile)
    with pytest.raises(ValueError, match="Apply SAA has a mask.*16x16.*tiles of 16x8"):
        sample(patched)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models(dtype, apply):
    model = tiny.flux(dtype)
    people = somebody(mask=LEFT), somebody(2, mask=RIGHT, weight=0.7)
    out = sample(apply(*people, on=model))
    assert out.isfinite().all() and not torch.equal(out, sample(model))
    full, rounded = (
        after_first_block(apply(*people, on=one)).float() - after_first_block(one).float()
        for one in (tiny.flux(), model)
    )
    # A token that crosses the threshold may flip.
    error = (full - rounded).norm(dim=-1) / full.norm(dim=-1).mean()
    assert (error < 0.1).float().mean() > 0.9


def test_text_and_reference_tokens_are_left_alone(model, apply):
    prompt = tiny.conditioning(10, reference_latents=[torch.randn(1, 16, 12, 16)])
    plain = after_first_block(model, positive=prompt)
    drawn = after_first_block(apply(somebody(), somebody(2), **PLAIN), positive=prompt)
    assert plain.shape[1] == 64 + 48
    assert not torch.equal(drawn[:, :64], plain[:, :64])
    assert torch.equal(drawn[:, 64:], plain[:, 64:])


def test_text_tokens_are_left_alone_where_they_share_a_sequence(model, apply):
    """Single blocks hold text and image in one: what a block gives, and what the next one gets."""
    given, got = [], []

    def inside(args, extra):
        out = extra["original_block"](args)
        given.append(out["img"].clone())
        return out

    def following(args, extra):
        got.append(args["img"].clone())
        return extra["original_block"](args)

    watched = model.clone()
    watched.set_model_patch_replace(inside, "dit", "single_block", 0)
    watched = apply(somebody(), somebody(2), on=watched, **PLAIN)
    watched.set_model_patch_replace(following, "dit", "single_block", 1)
    sample(watched, steps=1)
    assert torch.equal(given[0][:, :16], got[0][:, :16])
    assert not torch.equal(given[0][:, 16:], got[0][:, 16:])


# 5. Queueing again, interrupting


def test_the_same_run_twice_and_after_an_interrupt(model, base, apply):
    patched = apply(somebody(mask=0.5 * LEFT, gate=LATE), somebody(2))
    before = sample(patched)
    stopped = patched.clone()

    def stop(args, extra):
        raise comfy.model_management.InterruptProcessingException

    stopped.set_model_patch_replace(stop, "dit", "single_block", 3)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(stopped)
    assert RUN not in patched.model_options["transformer_options"]
    assert torch.equal(sample(patched), before) and torch.equal(sample(model), base)


# 6, 7. Memory, and no work but the residuals inside a block


def test_comfyui_loads_one_stack_for_each_person_and_one_for_nobody(model, adapter, apply):
    patched = apply(somebody(), somebody(2))
    group = patched.model_options["transformer_options"]["patches"][KEY][0]
    assert len(group.models()) == 3 == len(patched.model_patches_models())
    anchor = apply_vfa(model, adapter, tiny.identity(1))
    shared = anchor.model_options["transformer_options"]["patches"][KEY][0].positive
    assert shared in group.models()
    comfy.model_management.unload_all_models()
    sample(patched, steps=1)
    loaded = [entry.model for entry in comfy.model_management.current_loaded_models]
    assert set(group.models()) <= set(loaded)


def test_a_block_only_computes(apply, monkeypatch):
    ops = watch_sites(monkeypatch)
    people = somebody(mask=0.5 * LEFT), somebody(2, mask=RIGHT, weight=0.3)
    sample(apply(*people), cfg=3.0, steps=1)
    assert "amax" in ops.names
    assert not ops.names & {"_local_scalar_dense", "item", "nonzero", "interpolate", "ones"}


# 8. What does not fit is refused


def test_refusals_name_both_values(model, adapter, apply, tmp_path):
    with pytest.raises(ValueError, match="mode of Apply SAA is published.*Set mode to corrected"):
        apply(somebody(), mode="published")
    sdxl = pulid_world.sdxl_adapter(tmp_path, tiny_unet.sdxl())
    with pytest.raises(ValueError, match="PuLID file for SDXL; Apply SAA expects one for Flux"):
        apply_saa(model, sdxl, [somebody()])
    with pytest.raises(ValueError, match="Apply SAA needs a Flux.1 model.*BaseModel"):
        apply_saa(tiny_unet.sd15(), adapter, [somebody()])
    with pytest.raises(ValueError, match="has 3 cross-attention layers.*needs 2"):
        apply_saa(model, tiny.adapter(layers=3), [somebody()])
    other = Person(tiny.identity(1, width=32))
    with pytest.raises(ValueError, match="tokens are 32 wide; the adapter .* reads 64"):
        apply(other)
    with pytest.raises(ValueError, match="got 9 people, expected 1 to 8"):
        apply(*map(somebody, range(9)))


def test_a_block_taken_over_is_reported(apply):
    patched = apply(somebody())
    patched.set_model_patch_replace(
        lambda args, extra: extra["original_block"](args), "dit", "single_block", 0
    )
    with pytest.raises(RuntimeError, match="1 of its 2 patched blocks.*place Apply SAA after it"):
        sample(patched)
