"""The laws every injection keeps, for SIP, on a small Flux and a small UNet in real ComfyUI."""

import math

import comfy.controlnet
import comfy.model_management
import comfy.patcher_extension
import pytest
import sip_sources
import tiny
import tiny_unet
import torch
from flexid.model_patches.gates.gate import Gate
from flexid.model_patches.gates.window import Window
from flexid.model_patches.inject import sip as sip_room
from flexid.model_patches.inject.run import KEY, RUN
from flexid.model_patches.inject.sip import apply_sip
from flexid.model_patches.inject.vfa import apply_vfa

from nodes import ConditioningAverage, ConditioningConcat

pytestmark = pytest.mark.comfy

APPLY_MODEL = comfy.patcher_extension.WrappersMP.APPLY_MODEL
CLOSED = Gate((Window(points=((0.0, 0.0),)),))
ONES = Gate((Window(),))
SLOPE = Gate((Window(points=((0.0, 1.5), (1.0, 0.5))),))
SOURCE = sip_sources.Fixed()


class SigmaGate:
    """α rises with the noise, as the paper's T_sem does."""

    def weight(self, moment):
        return 0.5 + moment.sigma


@pytest.fixture(scope="module")
def model():
    return tiny.flux()


@pytest.fixture(scope="module")
def base(model):
    return tiny.sample(model)


@pytest.fixture(scope="module")
def person():
    return sip_sources.person()


def apply(conditioning, person, **options):
    return apply_sip(conditioning, SOURCE, person, **{"weight": 0.1, **options})


def watched(model, kind=APPLY_MODEL):
    """A clone that records the text, as the diffusion model is about to get it, and the sigma."""
    seen = []

    def spy(executor, x, t, c_concat=None, c_crossattn=None, *args, **kwargs):
        seen.append((t[0].item(), c_crossattn.clone()))
        return executor(x, t, c_concat, c_crossattn, *args, **kwargs)

    clone = model.clone()
    clone.add_wrapper_with_key(kind, "spy", spy)
    return clone, seen


def moving(model, conditioning, person, gate=SLOPE, **options):
    """Gated, with everything at hand: (watched model, prompts, what was seen)."""
    applied = apply(conditioning, person, gate=gate, model=model, **options)
    clone, seen = watched(applied.model)
    return clone, applied.conditioning, seen


def direction_of(conditioning, person, **options):
    """Δ itself, from the constant path at α = 1/2."""
    edited = apply(conditioning, person, weight=0.5, **options).conditioning
    return 2 * (edited[0][0] - conditioning[0][0])


# A gate that is bypassed


@pytest.mark.parametrize("norm", ["token", "prompt"])
@pytest.mark.parametrize("alpha", [1.0, -1.0, 2.0])
def test_a_constant_as_long_as_the_text_is_refused(model, person, alpha, norm):
    """α 1 is right only with a gate that holds the base, and that gate was bypassed."""
    with pytest.raises(ValueError, match=f"α {alpha:g} and no gate.*set alpha to 0.1"):
        apply(tiny.conditioning(10), person, weight=alpha, norm=norm, model=model)
    applied = apply(tiny.conditioning(10), person, weight=alpha, norm=norm, gate=ONES, model=model)
    assert f"α {alpha:g} times the gate: {alpha:.3f} → {alpha:.3f}" in applied.report


def test_a_direction_as_it_comes_may_have_any_alpha(person):
    applied = apply(tiny.conditioning(10), person, weight=2.0, norm="none")
    assert not torch.equal(applied.conditioning[0][0], tiny.conditioning(10)[0][0])
    assert "the words may be lost" not in applied.report


@pytest.mark.parametrize(("alpha", "told"), [(0.3, False), (0.31, True), (-0.5, True)])
def test_a_strong_constant_is_pointed_out(person, alpha, told):
    report = apply(tiny.conditioning(10), person, weight=alpha).report
    assert ("|α| is above 0.3 all the way" in report) == told


# 1. Neutral is exact


@pytest.mark.parametrize("gate", [None, CLOSED, SLOPE], ids=["constant", "closed", "slope"])
def test_alpha_0_is_bit_identical(model, base, person, gate):
    applied = apply(tiny.conditioning(10), person, weight=0.0, gate=gate, model=model)
    assert torch.equal(applied.conditioning[0][0], tiny.conditioning(10)[0][0])
    assert torch.equal(tiny.sample(applied.model, positive=applied.conditioning), base)


def test_a_closed_gate_is_bit_identical(model, base, person):
    clone, prompts, _ = moving(model, tiny.conditioning(10), person, gate=CLOSED)
    assert torch.equal(tiny.sample(clone, positive=prompts), base)


@pytest.mark.parametrize("gate", [None, SLOPE])
def test_a_zero_face_changes_nothing(model, base, gate):
    applied = apply(tiny.conditioning(10), sip_sources.zero_face(), gate=gate, model=model)
    assert torch.equal(applied.conditioning[0][0], tiny.conditioning(10)[0][0])
    assert torch.equal(tiny.sample(applied.model, positive=applied.conditioning), base)
    assert "δ is 0" in applied.report


def test_an_open_gate_is_the_constant_bit_for_bit(model, base, person):
    constant = apply(tiny.conditioning(10), person)
    expected = tiny.sample(model, positive=constant.conditioning)
    clone, prompts, _ = moving(model, tiny.conditioning(10), person, gate=ONES)
    assert torch.equal(tiny.sample(clone, positive=prompts), expected)
    assert not torch.equal(expected, base)


def test_a_constant_needs_no_model(person, model):
    applied = apply(tiny.conditioning(10), person)
    assert applied.model is None
    assert apply(tiny.conditioning(10), person, model=model).model is model


# 2. Only what is returned changes


def test_inputs_stay_as_they_were(model, base, person):
    prompts = tiny.conditioning(10)
    entry, extra = prompts[0], dict(prompts[0][1])
    text = entry[0].clone()
    apply(prompts, person)
    apply(prompts, person, gate=SLOPE, model=model)
    assert prompts[0] is entry and entry[1] == extra
    assert torch.equal(entry[0], text)
    assert not model.get_wrappers(APPLY_MODEL, KEY)
    assert torch.equal(tiny.sample(model), base)


def test_a_second_residual_leaves_the_first_as_it_was(model, person):
    first = apply(tiny.conditioning(10), person, gate=SLOPE, model=model)
    before = tiny.sample(first.model, positive=first.conditioning)
    second = apply_sip(
        first.conditioning,
        SOURCE,
        sip_sources.person(5),
        weight=0.2,
        gate=ONES,
        model=first.model,
    )
    after = tiny.sample(second.model, positive=second.conditioning)
    assert not torch.equal(after, before)
    assert torch.equal(tiny.sample(first.model, positive=first.conditioning), before)


# 3. Composition


@pytest.mark.parametrize("gates", [(None, None), (SLOPE, ONES), (None, SLOPE), (SLOPE, None)])
def test_two_people_are_parallel_in_any_order(model, person, gates):
    other = sip_sources.person(5)
    text = tiny.conditioning(10)

    def both(*pairs):
        prompts, patched = text, model
        for who, gate in pairs:
            done = apply_sip(prompts, SOURCE, who, weight=0.1, gate=gate, model=patched)
            prompts, patched = done.conditioning, done.model
        clone, seen = watched(patched)
        tiny.sample(clone, positive=prompts, steps=1)
        return seen[0][1]

    ordered = both((person, gates[0]), (other, gates[1]))
    swapped = both((other, gates[1]), (person, gates[0]))
    assert torch.equal(ordered, swapped), "they are summed in an order of their own"
    weights = [1.5 if gate is SLOPE else 1.0 for gate in gates]
    directions = [direction_of(text, who) for who in (person, other)]
    expected = text[0][0] + 0.1 * (weights[0] * directions[0] + weights[1] * directions[1])
    torch.testing.assert_close(ordered, expected, atol=1e-5, rtol=0)


def test_composes_with_vfa_in_any_order(model, person):
    adapter, identity = tiny.adapter(), tiny.identity()
    text = tiny.conditioning(10)
    vfa_first = apply(text, person, gate=SLOPE, model=apply_vfa(model, adapter, identity))
    sip_first = apply(text, person, gate=SLOPE, model=model)
    anchored = apply_vfa(sip_first.model, adapter, identity)
    one = tiny.sample(vfa_first.model, positive=vfa_first.conditioning, cfg=3.0)
    two = tiny.sample(anchored, positive=sip_first.conditioning, cfg=3.0)
    assert torch.equal(one, two)
    only_sip = tiny.sample(sip_first.model, positive=sip_first.conditioning, cfg=3.0)
    only_vfa = tiny.sample(apply_vfa(model, adapter, identity), cfg=3.0)
    assert not torch.equal(one, only_sip) and not torch.equal(one, only_vfa)


def test_vfa_next_to_sip_keeps_the_prompts_roles(model, person):
    """The negative gets its own identity although the other wrapper has read the marks."""
    adapter, identity = tiny.adapter(), tiny.identity()
    modes = {}
    for negative in ("same", "unconditional"):
        patched = apply_vfa(model, adapter, identity, negative=negative)
        before = apply(tiny.conditioning(10), person, gate=CLOSED, model=patched)
        modes[negative] = tiny.sample(before.model, positive=before.conditioning, cfg=3.0)
        assert torch.equal(modes[negative], tiny.sample(patched, cfg=3.0))
        after = apply(tiny.conditioning(10), person, gate=CLOSED, model=model)
        last = apply_vfa(after.model, adapter, identity, negative=negative)
        out = tiny.sample(last, positive=after.conditioning, cfg=3.0)
        assert torch.equal(out, modes[negative])
    assert not torch.equal(modes["same"], modes["unconditional"])


class Control(comfy.controlnet.ControlBase):
    """A control that reads the text, like real ones, and adds it after the first blocks."""

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        tokens = (x_noisy.shape[-2] // 2) * (x_noisy.shape[-1] // 2)
        size = cond["c_crossattn"].abs().mean() * 0.3
        add = torch.full((x_noisy.shape[0], tokens, 256), size.item())
        return {"input": [add], "output": [add]}

    def copy(self):
        return self

    def get_models(self):
        return []


def test_controlnet_next_to_sip(model, person):
    control = tiny.conditioning(10, control=Control(), control_apply_to_uncond=True)
    clone, prompts, seen = moving(model, control, person)
    both = tiny.sample(clone, positive=prompts, cfg=3.0)
    assert both.isfinite().all() and seen
    assert not torch.equal(both, tiny.sample(model, positive=control, cfg=3.0))
    plain = moving(model, tiny.conditioning(10), person)
    assert not torch.equal(both, tiny.sample(plain[0], positive=plain[1], cfg=3.0))


def test_compiled_model_follows_alpha(model, person):
    """As TorchCompileModel does it: without guards on transformer_options."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from comfy_extras.nodes_torch_compile import skip_torch_compile_dict

    clone, prompts, seen = moving(model, tiny.conditioning(10), person)
    eager = tiny.sample(clone, positive=prompts)
    compiled = clone.clone()
    torch.compiler.reset()
    unguarded = {"guard_filter_fn": skip_torch_compile_dict}
    set_torch_compile_wrapper(model=compiled, backend="eager", options=unguarded)
    torch.testing.assert_close(tiny.sample(compiled, positive=prompts), eager, atol=1e-4, rtol=0)
    assert len(seen) == 8


def test_a_lora_next_to_sip(model, person):
    name = "diffusion_model.txt_in.weight"
    shape = model.model.state_dict()[name].shape
    delta = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    with_lora = model.clone()
    with_lora.add_patches({name: ("diff", (delta,))}, 0.05)
    before = apply(tiny.conditioning(10), person, gate=SLOPE, model=with_lora)
    after = apply(tiny.conditioning(10), person, gate=SLOPE, model=model)
    patched = after.model.clone()
    patched.add_patches({name: ("diff", (delta,))}, 0.05)
    one = tiny.sample(before.model, positive=before.conditioning)
    assert torch.equal(tiny.sample(patched, positive=after.conditioning), one)


def test_easycache_next_to_sip(model, person):
    nodes = pytest.importorskip("comfy_extras.nodes_easycache")
    clone, prompts, _ = moving(model, tiny.conditioning(10), person)
    cached = nodes.EasyCacheNode.execute(clone, 0.5, 0.15, 0.95, False)[0]
    plain = nodes.EasyCacheNode.execute(model, 0.5, 0.15, 0.95, False)[0]
    out = tiny.sample(cached, positive=prompts, steps=10)
    assert out.isfinite().all()
    assert not torch.equal(out, tiny.sample(plain, steps=10))


# 4. Prompts: several, areas, concatenated, averaged; batches; dtypes; sizes


def test_prompts_share_one_call_and_only_their_own_rows_move(model, person):
    clone, prompts, seen = moving(model, tiny.conditioning(10), person, gate=ONES)
    tiny.sample(clone, positive=prompts, steps=1, cfg=3.0)
    assert len(seen) == 1
    negative, positive = seen[0][1]
    assert torch.equal(negative, tiny.conditioning(11)[0][0][0])
    expected = apply(tiny.conditioning(10), person).conditioning[0][0][0]
    assert torch.equal(positive, expected)


def test_the_negative_can_have_its_own(model, person):
    other = sip_sources.person(5)
    first = apply(tiny.conditioning(10), person, gate=ONES, model=model)
    second = apply(tiny.conditioning(11), other, gate=SLOPE, model=first.model)
    clone, seen = watched(second.model)
    tiny.sample(clone, positive=first.conditioning, negative=second.conditioning, steps=1, cfg=3.0)
    negative, positive = seen[0][1]
    expected = apply(tiny.conditioning(10), person).conditioning[0][0][0]
    assert torch.equal(positive, expected)
    stronger = apply(tiny.conditioning(11), other, weight=0.15).conditioning[0][0][0]
    torch.testing.assert_close(negative, stronger, atol=1e-6, rtol=0)


@pytest.mark.parametrize("batch", [1, 3])
def test_several_prompts_areas_and_batches(model, person, batch):
    area = tiny.conditioning(12, area=(8, 8, 0, 8), strength=1.0)
    edited = apply(tiny.conditioning(10), person, gate=ONES, model=model)
    clone, seen = watched(edited.model)
    positive = edited.conditioning + area
    out = tiny.sample(clone, positive=positive, steps=1, cfg=3.0, batch=batch)
    assert out.isfinite().all()
    constant = apply(tiny.conditioning(10), person).conditioning + area
    wanted = tiny.sample(model, positive=constant, steps=1, cfg=3.0, batch=batch)
    assert torch.equal(out, wanted)


def test_an_area_prompt_lends_its_residual_to_no_other(model, person):
    """ComfyUI copies an area prompt into the negatives; the residual must not come along."""
    area = tiny.conditioning(12, area=(8, 8, 0, 8), strength=1.0)
    edited = apply(area, person, gate=ONES, model=model)
    out = tiny.sample(edited.model, positive=tiny.conditioning(10) + edited.conditioning, cfg=3.0)
    constant = tiny.conditioning(10) + apply(area, person).conditioning
    assert torch.equal(out, tiny.sample(model, positive=constant, cfg=3.0))


def test_prompts_of_different_length(model, person):
    clone, prompts, seen = moving(model, tiny.conditioning(10), person, gate=ONES)
    tiny.sample(
        clone, positive=prompts, negative=tiny.conditioning(11, length=24), steps=1, cfg=3.0
    )
    assert sorted(text.shape[1] for _, text in seen) == [16, 24]
    short = next(text for _, text in seen if text.shape[1] == 16)
    assert torch.equal(short, apply(tiny.conditioning(10), person).conditioning[0][0])


def test_concatenated_prompts(model, person):
    """Gated as conditioning_to: the appended tokens stay. Constant: on either side."""
    tail = tiny.conditioning(12, length=8)
    gated = apply(tiny.conditioning(10), person, gate=ONES, model=model)
    joined = ConditioningConcat().concat(gated.conditioning, tail)[0]
    clone, seen = watched(gated.model)
    tiny.sample(clone, positive=joined, steps=1)
    constant = apply(tiny.conditioning(10), person).conditioning
    expected = ConditioningConcat().concat(constant, tail)[0]
    assert torch.equal(seen[0][1], expected[0][0])
    behind = ConditioningConcat().concat(tail, gated.conditioning)[0]
    with pytest.raises(RuntimeError, match="0 of the run's prompts.*conditioning_to"):
        tiny.sample(gated.model, positive=behind)


def test_averaged_prompts(model, person):
    other = tiny.conditioning(12)
    gated = apply(tiny.conditioning(10), person, gate=ONES, model=model)
    mixed = ConditioningAverage().addWeighted(gated.conditioning, other, 0.7)[0]
    clone, seen = watched(gated.model)
    tiny.sample(clone, positive=mixed, steps=1)
    plain = ConditioningAverage().addWeighted(tiny.conditioning(10), other, 0.7)[0]
    direction = direction_of(tiny.conditioning(10), person)
    torch.testing.assert_close(seen[0][1], plain[0][0] + 0.1 * direction, atol=1e-5, rtol=0)


def test_a_residual_on_mixed_text_reads_that_text(person):
    """What was remembered of the text before is not used once the text is another."""
    once = apply(tiny.conditioning(10), person).conditioning
    mixed = ConditioningAverage().addWeighted(once, tiny.conditioning(12), 0.5)[0]
    fresh = [[mixed[0][0], {}]]
    again = apply(mixed, sip_sources.person(5)).conditioning
    assert torch.equal(again[0][0], apply(fresh, sip_sources.person(5)).conditioning[0][0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_precision_models(dtype, person):
    model = tiny.flux(dtype)
    base = tiny.sample(model)
    clone, prompts, _ = moving(model, tiny.conditioning(10), person)
    out = tiny.sample(clone, positive=prompts)
    assert out.isfinite().all() and not torch.equal(out, base)
    closed = apply(tiny.conditioning(10), person, gate=CLOSED, model=model)
    assert torch.equal(tiny.sample(closed.model, positive=closed.conditioning), base)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_text_keeps_its_type(dtype, person):
    text = tiny.conditioning(10)[0][0].to(dtype)
    out = apply([[text, {}]], person).conditioning[0][0]
    assert out.dtype == dtype
    turned = (out.float() - text.float()).norm(dim=-1) / text.float().norm(dim=-1)
    torch.testing.assert_close(turned, torch.full_like(turned, 0.1), atol=5e-3, rtol=0)


@pytest.mark.parametrize("size", [(15, 17), (1, 1), (3, 40)])
def test_odd_latent_sizes_and_reference_latents(model, person, size):
    reference = [torch.randn(1, 16, 16, 12, generator=torch.Generator().manual_seed(8))]
    text = tiny.conditioning(10, reference_latents=reference)
    clone, prompts, _ = moving(model, text, person)
    assert tiny.sample(clone, positive=prompts, size=size).isfinite().all()


def test_each_row_of_a_batched_prompt_gets_its_own(model, person):
    text = torch.cat([tiny.conditioning(seed)[0][0] for seed in (10, 12)])
    pooled = torch.cat([tiny.conditioning(seed)[0][1]["pooled_output"] for seed in (10, 12)])
    clone, prompts, seen = moving(model, [[text, {"pooled_output": pooled}]], person, gate=ONES)
    tiny.sample(clone, positive=prompts, batch=2, steps=1)
    for row, seed in enumerate((10, 12)):
        expected = apply(tiny.conditioning(seed), person).conditioning[0][0][0]
        torch.testing.assert_close(seen[0][1][row], expected, atol=1e-6, rtol=0)


# SD 1.5


def test_unet_constant_equals_gated_and_alpha_0_is_exact(person):
    model = tiny_unet.sd15()
    positive, negative = tiny_unet.conditioning(1), tiny_unet.conditioning(2)
    base = tiny_unet.sample(model, positive, negative)
    constant = apply(positive, person).conditioning
    out = tiny_unet.sample(model, constant, negative)
    assert not torch.equal(out, base)
    clone, prompts, seen = moving(model, positive, person, gate=ONES)
    assert torch.equal(tiny_unet.sample(clone, prompts, negative), out)
    assert len(seen) == 4
    closed = apply(positive, person, gate=CLOSED, model=model)
    assert torch.equal(tiny_unet.sample(closed.model, closed.conditioning, negative), base)


@pytest.mark.parametrize("chunks", [(1, 2), (2, 1), (2, 3)])
def test_unet_prompts_repeated_into_one_batch(person, chunks):
    """ComfyUI repeats texts of unequal length to their common multiple; so is the residual."""
    model = tiny_unet.sd15()
    positive = tiny_unet.conditioning(1, chunks[0])
    negative = tiny_unet.conditioning(2, chunks[1])
    clone, prompts, seen = moving(model, positive, person, gate=ONES)
    out = tiny_unet.sample(clone, prompts, negative, steps=1)
    common = 77 * math.lcm(*chunks)
    assert [text.shape for _, text in seen] == [(2, common, 64)]
    constant = apply(positive, person).conditioning
    assert torch.equal(seen[0][1][1], constant[0][0][0].repeat(common // (77 * chunks[0]), 1))
    assert torch.equal(out, tiny_unet.sample(model, constant, negative, steps=1))


# 5. α over time


CASES = [
    ("euler", {}),
    ("dpmpp_2m", {}),
    ("heun", {}),
    ("euler", {"denoise": 0.5}),
    ("dpmpp_2s_ancestral", {}),
]


@pytest.mark.parametrize("sampler,options", CASES)
@pytest.mark.parametrize("shift", [0.5, 1.15, 3.0])
def test_alpha_at_the_models_input_is_the_formula(model, person, sampler, options, shift):
    from comfy_extras.nodes_model_advanced import ModelSamplingFlux

    text = tiny.conditioning(10)
    applied = apply(text, person, gate=Gate((SigmaGate(),)), model=model)
    # Placed later, as a user may: both shifts at 1024x1024 are this one.
    shifted = ModelSamplingFlux().patch(applied.model, shift, shift, 1024, 1024)[0]
    clone, seen = watched(shifted)
    tiny.sample(clone, positive=applied.conditioning, sampler=sampler, steps=6, **options)
    direction = direction_of(text, person)
    evaluations = {"heun": 11, "dpmpp_2s_ancestral": 11}.get(sampler, 6)
    assert len(seen) == evaluations
    for sigma, got in seen:
        expected = text[0][0] + 0.1 * (0.5 + sigma) * direction
        torch.testing.assert_close(got, expected, atol=2e-6, rtol=0)
    alphas = [((got - text[0][0]) * direction).sum() / direction.square().sum() for _, got in seen]
    assert max(alphas) > 1.1 * min(alphas)


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m"])
def test_alpha_on_a_unet_follows_percent(person, sampler):
    model = tiny_unet.sd15()
    text = tiny_unet.conditioning(1)
    clone, prompts, seen = moving(model, text, person, gate=SLOPE)
    tiny_unet.sample(clone, prompts, tiny_unet.conditioning(2), sampler=sampler, steps=5)
    sampling = model.get_model_object("model_sampling")
    direction = direction_of(text, person)
    for sigma, got in seen:
        percent = 1 - sampling.timestep(torch.tensor(sigma)).item() / 999
        expected = text[0][0][0] + 0.1 * (1.5 - percent) * direction[0]
        torch.testing.assert_close(got[1], expected, atol=3e-4, rtol=0)


# 6. Again, and interrupted


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m"])
def test_the_same_run_twice_is_the_same_picture(model, person, sampler):
    clone, prompts, _ = moving(model, tiny.conditioning(10), person)
    one = tiny.sample(clone, positive=prompts, sampler=sampler)
    assert torch.equal(tiny.sample(clone, positive=prompts, sampler=sampler), one)


def test_interrupting_leaves_nothing_behind(model, base, person):
    clone, prompts, _ = moving(model, tiny.conditioning(10), person)
    before = tiny.sample(clone, positive=prompts)
    stopped = clone.clone()

    def stop(args, extra):
        raise comfy.model_management.InterruptProcessingException

    stopped.set_model_patch_replace(stop, "dit", "single_block", 3)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        tiny.sample(stopped, positive=prompts)
    assert RUN not in clone.model_options["transformer_options"]
    assert torch.equal(tiny.sample(clone, positive=prompts), before)
    assert torch.equal(tiny.sample(model), base)


# 7. Wired wrongly


def test_prompts_without_their_model_are_refused(model, person):
    applied = apply(tiny.conditioning(10), person, gate=SLOPE, model=model)
    with pytest.raises(RuntimeError, match="Connect the MODEL that the same node returns"):
        tiny.sample(model, positive=applied.conditioning)


def test_a_model_without_its_prompts_is_refused(model, person):
    applied = apply(tiny.conditioning(10), person, gate=SLOPE, model=model)
    with pytest.raises(RuntimeError, match="0 of the run's prompts.*Connect the CONDITIONING"):
        tiny.sample(applied.model)


def test_text_changed_inside_the_model_is_refused(model, person):
    applied = apply(tiny.conditioning(10), person, gate=SLOPE, model=model)

    def longer(apply_model, args):
        c = dict(args["c"])
        c["c_crossattn"] = torch.cat([c["c_crossattn"]] * 2, dim=1)[:, :-3]
        return apply_model(args["input"], args["timestep"], **c)

    patched = applied.model.clone()
    patched.set_model_unet_function_wrapper(longer)
    with pytest.raises(RuntimeError, match="prompt of 16 tokens x 64; the model reads 29 x 64"):
        tiny.sample(patched, positive=applied.conditioning)


def test_no_sync_but_the_one_that_reads_the_sigma(model, person, monkeypatch):
    from torch.utils._python_dispatch import TorchDispatchMode

    class Ops(TorchDispatchMode):
        names: list = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.names.append(func.__name__.split(".")[0])
            return func(*args, **(kwargs or {}))

    applied = apply(tiny.conditioning(10), person, gate=SLOPE, model=model)
    edit, seen = sip_room.TextResiduals.edit_text, []

    def counted(self, call, text):
        ops = Ops()
        ops.names = []
        with ops:
            out = edit(self, call, text)
        seen.append(ops.names)
        return out

    monkeypatch.setattr(sip_room.TextResiduals, "edit_text", counted)
    tiny.sample(applied.model, positive=applied.conditioning)
    assert len(seen) == 4
    for names in seen[1:]:
        assert not {"_local_scalar_dense", "nonzero", "repeat", "constant_pad_nd"} & set(names)
        assert names.count("mul") == 1 and names.count("add") == 1
