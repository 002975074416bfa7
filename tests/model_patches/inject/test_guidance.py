"""Reference guidance on a small Flux with reference pictures, through ComfyUI's own sampler."""

import itertools

import comfy.patcher_extension
import comfy.samplers
import pytest
import tiny
import torch
from comfy_extras.nodes_custom_sampler import Guider_DualCFG
from comfy_extras.nodes_easycache import EasyCacheNode, LazyCacheNode
from flexid.model_patches.gates.gate import Gate
from flexid.model_patches.gates.window import Window
from flexid.model_patches.inject.guidance.apply import ALL, apply_reference_guidance
from flexid.model_patches.inject.region import region_of
from flexid.model_patches.inject.vfa import apply_vfa

WRAPPERS = comfy.patcher_extension.WrappersMP


def reference(seed, size=(8, 12)):
    return torch.randn(1, 16, *size, generator=torch.Generator().manual_seed(seed))


def prompt(seed=10, references=(1,), **extra):
    if references:
        extra["reference_latents"] = [reference(one) for one in references]
    return tiny.conditioning(seed, **extra)


@pytest.fixture(scope="module")
def model():
    return tiny.flux()


def guide(model, *, conditioning=None, **options):
    return apply_reference_guidance(model, conditioning or prompt(), **options).model


def watch(model):
    """A clone, and what each of its model calls got."""
    calls = []

    def note(executor, x, t, c_concat, c_crossattn, control, transformer_options, **conds):
        calls.append(
            {
                "rows": x.shape[0],
                "index": list(transformer_options["cond_or_uncond"]),
                "uuids": list(transformer_options["uuids"]),
                "references": len(conds.get("ref_latents") or ()),
                "x": x.clone(),
                "t": t.clone(),
            }
        )
        return executor(x, t, c_concat, c_crossattn, control, transformer_options, **conds)

    clone = model.clone()
    clone.add_wrapper_with_key(WRAPPERS.APPLY_MODEL, "watch", note)
    return clone, calls


def rows(calls):
    return sum(call["rows"] for call in calls)


def combined(model, subsets, steps=4):
    """The same run with a guider that combines whole predictions by hand at CFG 1.

    subsets: (references, share) pairs.
    """

    class Combining(comfy.samplers.CFGGuider):
        def predict_noise(self, x, timestep, model_options=None, seed=None):
            names = [f"p{number}" for number in range(len(subsets))]
            outs = [
                comfy.samplers.calc_cond_batch(
                    self.inner_model, [self.conds[name]], x, timestep, model_options
                )[0]
                for name in names
            ]
            total = outs[-1]
            for out, (_, share) in zip(outs[:-1], subsets[:-1], strict=True):
                total = total + (out - outs[-1]) * share
            return total

    guider = Combining(model)
    guider.inner_set_conds({f"p{n}": prompt(references=one) for n, (one, _) in enumerate(subsets)})
    return run_guider(guider, model, steps)


def run_guider(guider, model, steps=4, size=(16, 16), batch=1):
    latent = torch.zeros(batch, 16, *size)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))
    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", steps)
    return guider.sample(
        noise, latent, comfy.samplers.sampler_object("euler"), sigmas, disable_pbar=True, seed=0
    )


def test_weight_one_is_the_model_itself(model):
    patched, calls = watch(guide(model, weight=1.0))
    plain, before = watch(model)
    assert torch.equal(
        tiny.sample(patched, positive=prompt(), cfg=3.0),
        tiny.sample(plain, positive=prompt(), cfg=3.0),
    )
    assert rows(calls) == rows(before)


@pytest.mark.parametrize("cfg", [1.0, 3.0])
@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m", "euler_cfg_pp"])
def test_weight_zero_is_a_run_without_references(model, cfg, sampler):
    patched, calls = watch(guide(model, weight=0.0))
    plain, before = watch(model)
    out = tiny.sample(patched, positive=prompt(), cfg=cfg, sampler=sampler)
    without = tiny.sample(plain, positive=prompt(references=()), cfg=cfg, sampler=sampler)
    assert torch.equal(out, without)
    assert rows(calls) == rows(before) and {call["references"] for call in calls} == {0}
    assert not torch.equal(out, tiny.sample(model, positive=prompt(), cfg=cfg, sampler=sampler))


@pytest.mark.parametrize("weight", [0.5, 1.8])
def test_weight_is_the_share_of_the_difference(model, weight):
    patched, calls = watch(guide(model, weight=weight))
    out = tiny.sample(patched, positive=prompt())
    by_hand = combined(model, subsets=[((1,), weight), ((), 1 - weight)])
    assert torch.equal(out, by_hand)
    assert rows(calls) == 2 * 4 and {tuple(call["index"]) for call in calls} == {(0,)}


def test_every_prompt_with_references_is_weighed(model):
    """Under CFG the result is linear in w: cfg(w) = cfg_without + w (cfg_with - cfg_without)."""
    negative = prompt(11)
    options = {"positive": prompt(), "negative": negative, "cfg": 3.0, "steps": 1}
    whole = tiny.sample(model, **options)
    none = tiny.sample(guide(model, weight=0.0), **options)
    half = tiny.sample(guide(model, weight=0.5), **options)
    torch.testing.assert_close(half, (whole + none) / 2, atol=2e-5, rtol=0)
    bare = {**options, "positive": prompt(references=()), "negative": prompt(11, ())}
    assert torch.equal(none, tiny.sample(model, **bare))


def test_a_gate_follows_the_run_and_a_closed_gate_costs_nothing(model):
    late = Gate((Window(0.5, 1.0, "progress"),))
    patched, calls = watch(guide(model, weight=0.5, gate=late))
    tiny.sample(patched, positive=prompt())
    steps = itertools.groupby(calls, key=lambda call: float(call["t"][0]))
    assert [sorted(call["references"] for call in step) for _, step in steps] == [
        [0],
        [0],
        [0, 1],
        [0, 1],
    ]


def test_mask_weighs_the_prediction_in_its_place(model):
    mask = torch.zeros(1, 64, 64)
    mask[:, :, :32] = 1.0
    options = {"positive": prompt(), "steps": 1}
    out = tiny.sample(guide(model, weight=1.0, region=region_of(mask)), **options)
    whole = tiny.sample(model, **options)
    none = tiny.sample(model, **{**options, "positive": prompt(references=())})
    torch.testing.assert_close(out[..., :8], whole[..., :8], atol=1e-5, rtol=0)
    torch.testing.assert_close(out[..., 8:], none[..., 8:], atol=1e-5, rtol=0)
    assert not torch.allclose(whole, none, atol=1e-3)


def test_masks_of_ones_and_zeros_are_exact(model):
    options = {"positive": prompt(), "cfg": 3.0}
    ones = guide(model, weight=1.0, region=region_of(torch.ones(1, 8, 8)))
    assert torch.equal(tiny.sample(ones, **options), tiny.sample(model, **options))
    zeros = guide(model, weight=1.0, region=region_of(torch.zeros(1, 8, 8)))
    bare = {**options, "positive": prompt(references=())}
    assert torch.equal(tiny.sample(zeros, **options), tiny.sample(model, **bare))


def test_a_mask_for_each_picture_of_a_batch(model):
    mask = torch.stack([torch.ones(16, 16), torch.zeros(16, 16)])
    out = tiny.sample(guide(model, region=region_of(mask)), positive=prompt(), batch=2, steps=1)
    whole = tiny.sample(model, positive=prompt(), batch=2, steps=1)
    none = tiny.sample(model, positive=prompt(references=()), batch=2, steps=1)
    torch.testing.assert_close(out[0], whole[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(out[1], none[1], atol=1e-5, rtol=0)


TWO = (1, 2)


def guide_two(model, first, second, **options):
    conditioning = prompt(references=TWO)
    one = apply_reference_guidance(model, conditioning, weight=first, reference=1, **options)
    return apply_reference_guidance(one.model, one.conditioning, weight=second, reference=2)


@pytest.mark.parametrize(
    ("weights", "subsets"),
    [
        ((0.7, 0.4), [((1, 2), 0.4), ((1,), 0.7 - 0.4), ((), 1 - 0.7)]),
        ((0.4, 0.7), [((1, 2), 0.4), ((2,), 0.7 - 0.4), ((), 1 - 0.7)]),
        ((1.0, 0.0), [((1,), 1.0)]),
        ((0.0, 0.0), [((), 1.0)]),
        ((0.5, 0.5), [((1, 2), 0.5), ((), 0.5)]),
        ((1.0, 1.0), [((1, 2), 1.0)]),
    ],
)
def test_several_references_by_sorted_levels(model, weights, subsets):
    guided = guide_two(model, *weights)
    patched, calls = watch(guided.model)
    out = tiny.sample(patched, positive=guided.conditioning)
    assert torch.equal(out, combined(model, subsets=subsets))
    assert rows(calls) == 4 * len(subsets)


def test_left_and_right_references_take_two_predictions(model):
    left = torch.zeros(1, 16, 16)
    left[:, :, :8] = 1.0
    one = apply_reference_guidance(
        model, prompt(references=TWO), reference=1, region=region_of(left)
    )
    two = apply_reference_guidance(
        one.model, one.conditioning, reference=2, region=region_of(1 - left)
    )
    patched, calls = watch(two.model)
    out = tiny.sample(patched, positive=two.conditioning, steps=1)
    first = tiny.sample(model, positive=prompt(references=(1,)), steps=1)
    second = tiny.sample(model, positive=prompt(references=(2,)), steps=1)
    torch.testing.assert_close(out[..., :8], first[..., :8], atol=1e-5, rtol=0)
    torch.testing.assert_close(out[..., 8:], second[..., 8:], atol=1e-5, rtol=0)
    assert rows(calls) == 2


def test_a_later_node_replaces_the_setting_of_the_same_reference(model):
    first = guide(model, weight=0.2)
    assert torch.equal(
        tiny.sample(guide(first, weight=0.5), positive=prompt()),
        tiny.sample(guide(model, weight=0.5), positive=prompt()),
    )
    back, calls = watch(guide(first, weight=1.0))
    assert torch.equal(tiny.sample(back, positive=prompt()), tiny.sample(model, positive=prompt()))
    assert rows(calls) == 4


def test_applying_changes_only_the_clone(model):
    before = tiny.sample(model, positive=prompt())
    first = guide(model, weight=0.3)
    kept = tiny.sample(first, positive=prompt())
    guide(first, weight=0.9)
    assert torch.equal(tiny.sample(first, positive=prompt()), kept)
    assert torch.equal(tiny.sample(model, positive=prompt()), before)


def test_other_packs_see_only_the_guiders_own_indices(model):
    seen = []

    def attention(q, k, v, extra_options, **_):
        seen.append(tuple(extra_options["cond_or_uncond"]))
        return {"q": q, "k": k, "v": v}

    plain = model.clone()
    plain.set_model_attn1_patch(attention)
    tiny.sample(plain, positive=prompt(), cfg=3.0)
    if not seen:
        pytest.skip("this ComfyUI's Flux calls no such patch")
    seen.clear()
    patched = guide(model, weight=0.5)
    patched.set_model_attn1_patch(attention)
    tiny.sample(patched, positive=prompt(), cfg=3.0)
    assert seen and set(itertools.chain(*seen)) == {0, 1}


def test_dual_guidance_weighs_each_prompt_with_references(model):
    def run(model, references):
        guider = Guider_DualCFG(model)
        guider.set_conds(prompt(10, references), prompt(12, references), prompt(11, ()))
        guider.set_cfg(3.0, 2.0)
        return run_guider(guider, model, steps=1)

    whole, none = run(model, (1,)), run(model, ())
    half = run(guide(model, weight=0.5), (1,))
    torch.testing.assert_close(half, (whole + none) / 2, atol=5e-5, rtol=0)
    assert torch.equal(run(guide(model, weight=0.0), (1,)), none)


def test_twins_have_own_uuids_and_new_ones_after_a_gap(model):
    class Middle:
        def weight(self, moment):
            return (0.5, 1.0, 0.5, 0.5)[min(3, int(moment.progress * 4))]

    patched, calls = watch(guide(model, gate=Gate((Middle(),))))
    tiny.sample(patched, positive=prompt())
    steps = [
        {
            one
            for call in calls
            for one in call["uuids"]
            if call["t"][0] == sigma and not call["references"]
        }
        for sigma in sorted({float(call["t"][0]) for call in calls}, reverse=True)
    ]
    first, gap, third, fourth = steps
    assert len(first) == 1 and not gap
    assert third == fourth and not third & first
    kept = [call["uuids"][0] for call in calls if call["references"]]
    assert len(set(kept)) == 1


@pytest.mark.parametrize("every", [1, 2])
@pytest.mark.parametrize("first", [True, False])
@pytest.mark.parametrize("node", [EasyCacheNode, LazyCacheNode])
def test_caches_skip_steps_and_never_mix_up_twins(model, first, node, every):
    def cache(model, threshold):
        return node.execute(model, threshold, 0.0, 1.0, False)[0]

    def build(threshold):
        if first:
            return guide(cache(model, threshold), weight=0.5, every=every)
        return cache(guide(model, weight=0.5, every=every), threshold)

    exact = tiny.sample(guide(model, weight=0.5, every=every), positive=prompt(), steps=12)
    assert torch.equal(tiny.sample(build(0.0), positive=prompt(), steps=12), exact)
    ran = []

    def count(executor, *args, **kwargs):
        ran.append(1)
        return executor(*args, **kwargs)

    patched = build(0.4)
    patched.add_wrapper_with_key(WRAPPERS.DIFFUSION_MODEL, "count", count)
    skipping = tiny.sample(patched, positive=prompt(), steps=12)
    assert len(ran) < {1: 24, 2: 18}[every], "the cache has skipped something"
    assert (skipping - exact).abs().mean() < 0.3 * exact.abs().mean()


def test_vfa_on_the_same_model_anchors_both_predictions(model):
    adapter, person = tiny.adapter(), tiny.identity()
    anchored = apply_vfa(model, adapter, person, weight=0.5)
    options = {"positive": prompt(), "steps": 1}
    whole = tiny.sample(anchored, **options)
    none = tiny.sample(anchored, **{**options, "positive": prompt(references=())})
    for both in (
        guide(anchored, weight=0.5),
        apply_vfa(guide(model, weight=0.5), adapter, person, weight=0.5),
    ):
        half = tiny.sample(both, **options)
        torch.testing.assert_close(half, (whole + none) / 2, atol=2e-5, rtol=0)


def test_text_without_pictures_stands_for_the_prompt_without_references(model):
    """For models whose text encoder sees the pictures, too."""
    text = tiny.conditioning(30, length=24)
    guided = apply_reference_guidance(model, prompt(), weight=0.0, without=text)
    out = tiny.sample(guided.model, positive=guided.conditioning, cfg=3.0)
    assert torch.equal(out, tiny.sample(model, positive=text, cfg=3.0))
    half = apply_reference_guidance(model, prompt(), weight=0.5, without=text)
    result = tiny.sample(half.model, positive=half.conditioning, steps=1)
    whole = tiny.sample(model, positive=prompt(), steps=1)
    none = tiny.sample(model, positive=text, steps=1)
    torch.testing.assert_close(result, (whole + none) / 2, atol=2e-5, rtol=0)


def test_areas_and_prompts_without_references_in_one_list(model):
    area = tiny.conditioning(20, area=(8, 16, 0, 0), strength=0.7)

    def options(references):
        return {"positive": [*prompt(references=references), *area], "cfg": 3.0, "steps": 1}

    whole, none = tiny.sample(model, **options((1,))), tiny.sample(model, **options(()))
    half = tiny.sample(guide(model, weight=0.5), **options((1,)))
    torch.testing.assert_close(half, (whole + none) / 2, atol=2e-5, rtol=0)


def test_runs_are_repeatable_and_odd_sizes_work(model):
    patched = guide(model, weight=0.6, region=region_of(torch.rand(1, 33, 17)))
    options = {"positive": prompt(), "size": (15, 9), "batch": 3, "denoise": 0.5, "cfg": 2.0}
    assert torch.equal(tiny.sample(patched, **options), tiny.sample(patched, **options))


def test_refusals_before_sampling(model):
    with pytest.raises(ValueError, match=r"weight .* is 3.5; expected .* \[0, 3\]"):
        guide(model, weight=3.5)
    with pytest.raises(ValueError, match="nan"):
        guide(model, weight=float("nan"))
    with pytest.raises(ValueError, match=r"reference is 5; expected .* \[0, 4\]"):
        guide(model, reference=5)
    with pytest.raises(ValueError, match="without has 2 prompts, conditioning has 1"):
        guide(model, without=[*prompt(1, ()), *prompt(2, ())])
    with pytest.raises(RuntimeError, match="0 of the run's 2 prompts carry a reference"):
        tiny.sample(guide(model, weight=0.5), positive=prompt(references=()))
    with pytest.raises(RuntimeError, match="reference 3, but the prompts carry 1"):
        tiny.sample(guide(model, weight=0.5, reference=3), positive=prompt())
    assert ALL == 0


def test_a_guider_that_predicts_past_it_is_an_error(model):
    patched = guide(model, weight=0.5)

    def predict(args):
        conds = [c for c in args["conds"]]
        return comfy.samplers._calc_cond_batch(
            args["model"], conds, args["input"], args["sigma"], args["model_options"]
        )

    patched.model_options["sampler_calc_cond_batch_function"] = predict
    with pytest.raises(RuntimeError, match="predicts past it"):
        tiny.sample(patched, positive=prompt())


def test_every_reuses_the_difference_between_predictions(model):
    """In every second step there is one prediction and the velocity difference of the step before.
    At weight 0.8 the prediction with the reference counts most, at 0.3 the one without."""
    for weight in (0.8, 0.3):
        patched, calls = watch(guide(model, weight=weight, every=2))
        out = tiny.sample(patched, positive=prompt())
        seen = [
            sorted(call["references"] for call in step)
            for _, step in itertools.groupby(calls, key=lambda call: float(call["t"][0]))
        ]
        one = [1] if weight > 0.5 else [0]
        assert seen == [[0, 1], one, [0, 1], one]
        assert torch.equal(out, reused_by_hand(model, weight, every=2))
        assert not torch.equal(out, tiny.sample(guide(model, weight=weight), positive=prompt()))


def reused_by_hand(model, weight, every, steps=4):
    class Reusing(comfy.samplers.CFGGuider):
        step, kept = 0, None

        def predict_noise(self, x, timestep, model_options=None, seed=None):
            def predict(name):
                return comfy.samplers.calc_cond_batch(
                    self.inner_model, [self.conds[name]], x, timestep, model_options
                )[0]

            sigma = timestep[0].item()
            if self.step % every == 0:
                without, added = predict("without"), None
                added = predict("with") - without
                self.kept = added / sigma
            else:
                added = self.kept * sigma
                without = predict("with") - added if weight > 0.5 else predict("without")
            self.step += 1
            return without + added * weight

    guider = Reusing(model)
    guider.inner_set_conds({"with": prompt(), "without": prompt(references=())})
    return run_guider(guider, model, steps)


def test_every_is_exact_at_the_ends_and_forgets_between_passes(model):
    options = {"positive": prompt(), "cfg": 3.0}
    for weight, bare in ((1.0, (1,)), (0.0, ())):
        plain = tiny.sample(model, **{**options, "positive": prompt(references=bare)})
        assert torch.equal(tiny.sample(guide(model, weight=weight, every=4), **options), plain)
    patched = guide(model, weight=0.5, every=8)
    first = tiny.sample(patched, **options)
    assert torch.equal(tiny.sample(patched, **options), first), "a run begins with nothing kept"
    assert tiny.sample(patched, **options, size=(15, 9)).isfinite().all()
    patched, calls = watch(patched)
    sampling = model.get_model_object("model_sampling")
    once = comfy.samplers.calculate_sigmas(sampling, "simple", 3)[:-1]
    guider = comfy.samplers.CFGGuider(patched)
    guider.set_conds(prompt(), prompt(11, ()))
    noise = reference(0, (16, 16))
    guider.sample(
        noise, torch.zeros_like(noise), comfy.samplers.sampler_object("euler"),
        torch.cat((once, once)), disable_pbar=True, seed=0,
    )  # fmt: skip
    assert rows(calls) == (2 + 1 + 1) + (2 + 1), "two predictions where a pass begins"


def test_every_is_refused_where_it_cannot_hold(model):
    with pytest.raises(ValueError, match=r"every is 9; expected .* \[1, 8\]"):
        guide(model, every=9)
    with pytest.raises(ValueError, match="method attention predicts once .* every is 2"):
        guide(model, every=2, method="attention")
    first = apply_reference_guidance(model, prompt(references=TWO), weight=0.5, reference=1)
    with pytest.raises(ValueError, match="every 2, but an earlier one on this model has 1"):
        guide(first.model, every=2, weight=0.5, reference=2)
