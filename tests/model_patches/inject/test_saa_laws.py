"""The laws every injection keeps, for several people by SAA, on a small SD 1.5 UNet in real
ComfyUI."""

import comfy.model_management
import comfy.samplers
import dynamicid_world
import pytest
import tiny
import tiny_unet
import torch
from flexid.model_patches.gates.gate import Gate, Moment
from flexid.model_patches.gates.window import Window
from flexid.model_patches.inject.call import CALL, Call, PromptRows, Run
from flexid.model_patches.inject.region import box_region
from flexid.model_patches.inject.run import KEY, RUN
from flexid.model_patches.inject.saa import apply_saa
from flexid.model_patches.inject.saa_people import Person, make_person
from flexid.model_patches.inject.saa_settings import SaaSettings
from torch import nn
from torch_ops import watch_sites

pytestmark = pytest.mark.comfy

CLOSED = Gate((Window(points=((0.0, 0.0),)),))
LATE = Gate((Window(0.5, 1.0, "progress"),))
POSITIVE, NEGATIVE = tiny_unet.conditioning(1), tiny_unet.conditioning(2)


@pytest.fixture(scope="module")
def model():
    return tiny_unet.sd15()


@pytest.fixture(scope="module")
def adapter(model, tmp_path_factory):
    return dynamicid_world.adapter(tmp_path_factory.mktemp("saa"), model)


@pytest.fixture(scope="module")
def apply(model, adapter):
    """People without LoRA, which is a weight patch of its own."""

    def call(*people, on=None, lora=0.0, **settings):
        found = SaaSettings(**settings)
        return apply_saa(on or model, adapter, people, found, lora_strength=lora).model

    return call


@pytest.fixture(scope="module")
def somebody(adapter):
    def make(seed=1, **options):
        return make_person(dynamicid_world.person(adapter, seed), **options)

    return make


def sample(model, prompts=(POSITIVE, NEGATIVE), **options):
    return tiny_unet.sample(model, *prompts, **{"steps": 2, "cfg": 3.0, **options})


@pytest.fixture(scope="module")
def base(model):
    return sample(model)


def half(side, size=64):
    mask = torch.zeros(1, size, size)
    columns = slice(0, size // 2) if side == "left" else slice(size // 2, size)
    mask[:, :, columns] = 1
    return mask


def first_read(model, prompts=(POSITIVE, NEGATIVE), **options):
    """What the first cross-attention returns in the first step, the negative prompt's row first."""
    options = {"steps": 1, **options}
    return tiny_unet.first_read(model, lambda watched: sample(watched, prompts, **options))


# 1. Neutral is exact


@pytest.mark.parametrize(
    "options",
    [{"weight": 0.0}, {"gate": CLOSED}, {"mask": torch.zeros(1, 64, 64)}],
    ids=["weight 0", "closed gate", "empty mask"],
)
def test_neutral_is_bit_identical(model, base, apply, somebody, options):
    assert torch.equal(sample(apply(somebody(**options), somebody(2, weight=0.0))), base)


def test_nobody_left_hands_on_the_model_without_lora(model, apply, somebody):
    assert apply(somebody(weight=0.0), lora=1.0) is model


def test_values_of_zeros_add_nothing(model, base, tmp_path):
    silent = dynamicid_world.adapter(tmp_path, model, loud=0.0)
    person = Person(dynamicid_world.person(silent))
    assert torch.equal(sample(apply_saa(model, silent, [person], lora_strength=0.0).model), base)


@pytest.mark.parametrize("mode", ["corrected", "published"])
def test_people_change_the_picture(base, apply, somebody, mode):
    out, other = (sample(apply(somebody(seed), mode=mode)) for seed in (1, 2))
    # Noise outweighs what so small a network paints in two steps.
    assert (out - base).abs().mean() > 0.003 * base.std()
    assert (out - other).abs().mean() > 0.003 * base.std()


def test_an_all_one_mask_and_a_whole_box_are_no_region(apply, somebody):
    plain = sample(apply(somebody(), somebody(2)))
    masked = [somebody(mask=torch.ones(3, 50)), somebody(2)]
    assert torch.equal(sample(apply(*masked)), plain)
    boxed = Person(somebody().identity, region=box_region((-0.1, 0, 1, 2)))
    assert torch.equal(sample(apply(boxed, somebody(2))), plain)


def test_somebody_left_out_is_as_if_absent(apply, somebody):
    alone = sample(apply(somebody()))
    for absent in ({"weight": 0.0}, {"mask": torch.zeros(1, 9, 9)}, {"gate": CLOSED}):
        options = {"mask": half("left"), **absent}
        assert torch.equal(sample(apply(somebody(), somebody(2, **options))), alone)


# Weights


def test_a_small_weight_is_nearly_nothing(apply, somebody):
    alone = first_read(apply(somebody()))
    apart = [
        (first_read(apply(somebody(), somebody(2, weight=weight))) - alone).abs().max().item()
        for weight in (1.0, 1e-2, 1e-5)
    ]
    assert apart[0] > 50 * apart[2] and apart[2] < 1e-3


def test_equal_weights_scale_what_is_added(model, apply, somebody):
    plain = first_read(model)
    one, two = (
        first_read(apply(somebody(weight=w), somebody(2, weight=w))) - plain for w in (0.5, 1.0)
    )
    assert two.abs().max() > 1e-2
    torch.testing.assert_close(2 * one, two, atol=1e-4, rtol=1e-4)


def test_in_a_region_of_their_own_a_weight_scales_one_person_alone(model, apply, somebody):
    plain = first_read(model)
    left, right = somebody(mask=half("left")), half("right")
    options = {"activation": False, "beta": 0.0}
    one, two = (
        (first_read(apply(left, somebody(2, mask=right, weight=w), **options)) - plain)
        .unflatten(1, (8, 8))
        .split(4, dim=2)
        for w in (0.5, 1.0)
    )
    assert one[0].abs().max() > 1e-2 and two[1].abs().max() > 1e-2
    torch.testing.assert_close(one[0], two[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(2 * one[1], two[1], atol=1e-4, rtol=1e-4)


def test_each_person_has_a_gate_of_their_own(apply, somebody):
    both = apply(somebody(mask=half("left")), somebody(2, mask=half("right"), gate=LATE))
    alone = apply(somebody(mask=half("left")))
    assert torch.equal(first_read(both, steps=2), first_read(alone, steps=2))
    assert not torch.equal(sample(both), sample(alone))


def test_a_persons_own_prompt_loosens_them_alone(somebody):
    calm, laughing = (somebody(prompt=words) for words in ("", "laughing out loud, in profile"))
    moment = Moment(1.0, 0.5, 0.5, 0.5)
    assert calm.gate.weight(moment) == 1.0
    assert 0.3 < laughing.gate.weight(moment) < 1.0


# Regions


def test_beta_works_in_the_first_steps_of_the_run_whatever_the_sampler(apply, somebody):
    """Two calls a step, and prompts in calls of their own: steps are not counted by calls."""
    person = somebody(mask=half("left"))
    seen = {}
    for alpha in (0.0, 0.5, 1.0):
        raised = apply(person, beta=2.0, alpha=alpha)
        calls = []

        def spy(n, extra, calls=calls):
            if extra["block"] == ("middle", 0):
                terms = next(iter(extra[CALL].added.values()))
                calls.append(terms[0].activate.layout.raised.amax().item() > 0)
            return n

        raised.set_model_attn2_output_patch(spy)
        sample(raised, steps=4, sampler="heun")
        seen[alpha] = calls
    assert not any(seen[0.0]) and all(seen[1.0])
    early = seen[0.5]
    assert early == sorted(early, reverse=True) and sum(early) in (3, 4) and len(early) == 7


def test_a_person_stays_out_of_others_regions(apply, somebody):
    """Where one person has the region, the picture does not depend on who the other is."""
    options = {"activation": False}
    left, right = somebody(mask=half("left")), half("right")
    reads = [
        first_read(apply(left, somebody(seed, mask=right), **options)).unflatten(1, (8, 8))
        for seed in (2, 3)
    ]
    torch.testing.assert_close(reads[0][:, :, :4], reads[1][:, :, :4], atol=1e-5, rtol=1e-5)
    assert (reads[0] - reads[1])[1, :, 4:].abs().max() > 1e-2
    free = [
        first_read(apply(left, somebody(seed), **options)).unflatten(1, (8, 8)) for seed in (2, 3)
    ]
    torch.testing.assert_close(free[0][:, :, :4], free[1][:, :, :4], atol=1e-5, rtol=1e-5)


def test_people_share_an_overlap(apply, somebody):
    """Two people with one region are two people without, but for beta."""
    options = {"beta": 0.0}
    same = [somebody(seed, mask=half("left")) for seed in (1, 2)]
    shared = first_read(apply(*same, **options)).unflatten(1, (8, 8))
    free = first_read(apply(somebody(), somebody(2), **options)).unflatten(1, (8, 8))
    torch.testing.assert_close(shared, free, atol=1e-5, rtol=1e-5)


def test_each_picture_of_a_batch_has_a_mask_of_its_own(apply, somebody):
    masks = torch.cat([half("left"), half("right")])
    read = first_read(apply(somebody(mask=masks)), batch=2)
    for row, side in enumerate(("left", "right")):
        alone = first_read(apply(somebody(mask=half(side))), batch=2)
        torch.testing.assert_close(read[row], alone[row], atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(read[2 + row], alone[2 + row], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(read[2], read[3], atol=1e-2)


@pytest.mark.parametrize("mode", ["corrected", "published"])
@pytest.mark.parametrize("size", [(1, 1), (7, 9), (5, 24)])
def test_odd_sizes_and_a_latent_of_one_token(model, apply, somebody, mode, size):
    people = [somebody(mask=half("left")), somebody(2, mask=half("right"))]
    out = sample(apply(*people, mode=mode), size=size)
    assert out.isfinite().all()
    if size == (1, 1):  # all tokens are equally active: nothing to look for, and no NaN
        alone = sample(apply(somebody(), mode=mode), size=size)
        assert torch.equal(alone, sample(model, size=size))


# 2. Only the returned clone changes


def test_only_the_returned_clone_changes(model, base, apply, somebody):
    first = apply(somebody(), lora=1.0)
    before = sample(first)
    second = apply(somebody(7), on=first)
    assert not torch.equal(sample(second), before)
    assert torch.equal(sample(first), before) and torch.equal(sample(model), base)
    assert KEY not in model.model_options["transformer_options"].get("patches", {})


# 3. Composition


def test_the_order_of_people_and_of_nodes_changes_no_bit(apply, somebody):
    left, right = somebody(mask=half("left")), somebody(2, mask=half("right"), weight=0.7)
    third = somebody(3)
    drawn = sample(apply(left, right, third))
    assert torch.equal(sample(apply(third, left, right)), drawn)
    assert torch.equal(sample(apply(right, third, left)), drawn)
    one = sample(apply(third, on=apply(left, right)))
    assert torch.equal(sample(apply(left, right, on=apply(third))), one)
    assert not torch.equal(one, drawn)


def test_the_files_lora_has_a_strength_of_its_own(model, adapter, base, apply, somebody):
    closed = somebody(gate=CLOSED)
    only = apply(closed, lora=1.0)
    assert len(only.patches) == len(adapter.lora) // 2 == 32
    drawn = sample(only)
    assert not torch.equal(drawn, base) and torch.equal(sample(model), base)
    assert not torch.equal(sample(apply(closed, lora=0.5)), drawn)


def test_a_lora_on_the_base_is_in_the_queries_and_the_output(model, apply, somebody):
    """Folded layers ask the base's own: the same as a base that was merged before."""
    state = model.model.state_dict()
    names = [key for key in state if key.endswith(("attn2.to_q.weight", "attn2.to_out.0.weight"))]
    generator = torch.Generator().manual_seed(3)
    added = {name: torch.randn(state[name].shape, generator=generator) for name in names}
    patched = apply(somebody())
    patched.add_patches({name: ("diff", (value,)) for name, value in added.items()}, 0.1)
    merged = tiny_unet.sd15()
    for name, value in added.items():
        merged.model.state_dict()[name].add_(0.1 * value)
    drawn = sample(patched)
    before = sample(apply(somebody(), on=merged))
    torch.testing.assert_close(drawn, before, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(drawn, sample(apply(somebody())), atol=1e-3)


def test_a_pack_that_replaces_attention_is_kept(model, apply, somebody):
    def replace(q, k, v, extra):
        heads = extra["n_heads"]
        split = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        return 0.5 * nn.functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)

    def replaced(one):
        clone = one.clone()
        clone.set_model_attn2_replace(replace, "middle", 0, 0)
        return clone

    before = sample(apply(somebody(), on=replaced(model)))
    assert torch.equal(before, sample(replaced(apply(somebody()))))
    assert not torch.equal(before, sample(apply(somebody())))


def test_a_compiled_model_follows_a_gate_that_opens_later(apply, somebody):
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from comfy_extras.nodes_torch_compile import skip_torch_compile_dict

    patched = apply(somebody(gate=LATE), on=tiny_unet.sd15())
    compiled = patched.clone()
    torch.compiler.reset()
    unguarded = {"guard_filter_fn": skip_torch_compile_dict}
    set_torch_compile_wrapper(model=compiled, backend="eager", options=unguarded)
    torch.testing.assert_close(sample(compiled), sample(patched), atol=1e-3, rtol=1e-4)


# 4. Batches, guiders, prompts


def test_each_picture_of_a_batch_is_drawn_as_alone(apply, somebody):
    patched = apply(somebody(mask=half("left")), somebody(2))
    single, batch = first_read(patched), first_read(patched, batch=3)
    torch.testing.assert_close(batch[3:4], single[1:2], atol=1e-4, rtol=1e-4)


def test_the_negative_prompt_gets_nobody(apply, somebody):
    one, other = (first_read(apply(somebody(seed))) for seed in (1, 2))
    assert torch.equal(one[0], other[0]) and not torch.equal(one[1], other[1])
    plain = first_read(apply(somebody(weight=0.0)))
    assert not torch.equal(one[0], plain[0])
    alone = first_read(apply(somebody()), cfg=1.0)
    torch.testing.assert_close(alone[0], one[1], atol=1e-4, rtol=1e-4)


def test_prompts_are_told_by_their_name_under_any_guider(apply, somebody):
    """DualCFG numbers the negative prompt 0; nobody is still what it gets."""
    from comfy_extras.nodes_custom_sampler import DualCFGGuider

    patched = apply(somebody())
    guider = DualCFGGuider.execute(patched, POSITIVE, POSITIVE, NEGATIVE, 1.0, 3.0, "regular")
    latent = torch.zeros(1, 4, 8, 8)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))
    schedule = patched.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(schedule, "normal", 2)
    sampler = comfy.samplers.sampler_object("euler")
    dual = guider.args[0].sample(noise, latent, sampler, sigmas, disable_pbar=True, seed=0)
    torch.testing.assert_close(dual, sample(patched), atol=1e-3, rtol=1e-3)


def test_long_prompts_and_areas(apply, somebody):
    patched = apply(somebody(mask=half("left")), somebody(2, mask=half("right")))
    corner = tiny_unet.conditioning(3)
    corner[0][1]["area"] = (4, 4, 0, 4)
    prompts = (tiny_unet.conditioning(1, 2) + corner, NEGATIVE)
    assert sample(patched, prompts).isfinite().all()
    published = apply(somebody(mask=half("left")), mode="published")
    with pytest.raises(ValueError, match="4x4 latent pixels, a part.*Set mode to corrected"):
        sample(published, prompts)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_close(apply, somebody, dtype):
    """At one site: what is added, against float32. A token that crosses the threshold may flip."""
    patched = apply(somebody(mask=half("left")), somebody(2, mask=half("right"), weight=0.7))
    group = patched.model_options["transformer_options"]["patches"][KEY][0]
    found = {}
    for kind in (torch.float32, dtype):
        unet = tiny_unet.sd15().model.diffusion_model.to(kind)
        moment = Moment(1.0, 0.0, 0.0, 1.0)
        facts = ((PromptRows(),), (moment,), (16, 16), 1, torch.device("cpu"), kind)
        call = Call(Run((16, 16)), *facts)
        call.diffusion_model = unet
        term = group.terms(call)[0]
        site = next(iter(term.layers))
        image = torch.randn(1, 256, 32, generator=torch.Generator().manual_seed(0))
        found[kind] = term.residual(site, image.to(kind)).float()
        assert found[kind].isfinite().all()
    error = (found[dtype] - found[torch.float32]).norm(dim=-1) / found[torch.float32].norm(dim=-1)
    limit = {torch.float16: 1e-2, torch.bfloat16: 1e-1}[dtype]
    assert (error.nan_to_num() < limit).float().mean() > 0.98


# 5. Queueing again, interrupting


def test_the_same_run_twice_and_after_an_interrupt(model, base, apply, somebody):
    patched = apply(somebody(mask=half("left") * 0.5, gate=LATE), somebody(2))
    before = sample(patched)
    stopped = patched.clone()

    def stop(n, extra):
        raise comfy.model_management.InterruptProcessingException

    stopped.set_model_attn2_output_patch(stop)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(stopped)
    assert RUN not in patched.model_options["transformer_options"]
    assert torch.equal(sample(patched), before) and torch.equal(sample(model), base)


# 6, 7. Memory, and no work but the residuals inside a block


def test_no_adapter_weight_is_needed_while_sampling(adapter, apply, somebody):
    patched = apply(somebody())
    comfy.model_management.unload_all_models()
    sample(patched)
    loaded = [entry.model for entry in comfy.model_management.current_loaded_models]
    assert adapter.encoder not in loaded


def test_a_block_only_computes(monkeypatch, apply, somebody):
    ops = watch_sites(monkeypatch)
    sample(apply(somebody(mask=half("left")), somebody(2, weight=0.5), somebody(3)))
    assert "amax" in ops.names
    forbidden = {"_local_scalar_dense", "item", "nonzero", "_to_copy", "interpolate", "ones"}
    assert not ops.names & forbidden


def test_a_closed_gate_reaches_no_block(apply, somebody):
    seen = []

    def spy(n, extra):
        seen.append(bool(extra[CALL].added))
        return n

    patched = apply(somebody(gate=LATE))
    patched.set_model_attn2_output_patch(spy)
    sample(patched, steps=4)
    half_way = len(seen) // 2
    assert not any(seen[:half_way]) and all(seen[half_way:])


# 9. What does not fit is refused


def test_people_are_one_to_eight(apply, somebody):
    for people in ([], [somebody()] * 9):
        with pytest.raises(ValueError, match=f"got {len(people)} people, expected 1 to 8"):
            apply(*people)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.5}, r"The threshold is 1.5; expected .*\[0, 1\]"),
        ({"beta": -1.0}, r"Beta is -1; expected .*\[0, 20\]"),
        ({"alpha": float("nan")}, "Alpha is nan"),
        ({"mix": 2.0}, "The mix is 2"),
        ({"mode": "literal"}, "Unknown mode 'literal'; choose corrected or published"),
        ({"unplaced": "rows"}, "Unknown way without regions 'rows'"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        SaaSettings(**options)


def test_a_person_out_of_range_is_refused(model, adapter, somebody):
    for weight in (-0.5, 6.0, float("nan")):
        with pytest.raises(ValueError, match=r"The weight of a person is .*\[0, 5\]"):
            somebody(weight=weight)
    with pytest.raises(ValueError, match="mask has values from 2 to 2"):
        somebody(mask=torch.full((1, 8, 8), 2.0))
    with pytest.raises(ValueError, match="LoRA strength of Apply SAA is inf"):
        apply_saa(model, adapter, [somebody()], lora_strength=float("inf"))


def test_what_was_made_for_something_else_is_refused(tmp_path, model, adapter, somebody):
    with pytest.raises(ValueError, match="Apply SAA needs a Stable Diffusion UNet.*Flux"):
        apply_saa(tiny.flux(), adapter, [somebody()])
    with pytest.raises(ValueError, match="layers for 4 blocks; this model has 8 blocks"):
        apply_saa(tiny_unet.sdxl(), adapter, [somebody()])
    with pytest.raises(ValueError, match="has tokens for: pulid_flux; .*Encode Identity .Dynamic"):
        apply_saa(model, adapter, [make_person(tiny.identity())])
    (tmp_path / "other").mkdir()
    other = dynamicid_world.adapter(tmp_path / "other", model, encoder=2.0)
    with pytest.raises(ValueError, match="were made by the encoder"):
        apply_saa(model, other, [somebody()])
