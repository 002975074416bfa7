"""The laws every injection keeps, for VFA, on a small Flux in real ComfyUI."""

import comfy.model_management
import comfy.patcher_extension
import comfy.sd
import pytest
import tiny
import torch
from flexid.model_patches.gates.gate import Gate
from flexid.model_patches.gates.window import Window
from flexid.model_patches.inject import sites
from flexid.model_patches.inject.call import CALL
from flexid.model_patches.inject.run import KEY, RUN, Neutral, inject_call, register
from flexid.model_patches.inject.vfa import apply_vfa
from identities import identity_of
from torch_ops import watch_sites
from vfa_world import Control, after_first_block, doubling, left

pytestmark = pytest.mark.comfy

CLOSED = Gate((Window(points=((0.0, 0.0),)),))
APPLY_MODEL = comfy.patcher_extension.WrappersMP.APPLY_MODEL


@pytest.fixture(scope="module")
def model():
    return tiny.flux()


@pytest.fixture(scope="module")
def base(model):
    return tiny.sample(model)


@pytest.fixture(scope="module")
def adapter():
    return tiny.adapter()


@pytest.fixture(scope="module")
def person():
    return tiny.identity()


@pytest.fixture(scope="module")
def other():
    return tiny.identity(seed=5)


def test_layers_stand_where_the_file_says(model, person):
    places = (("double_block", 1), ("single_block", 2))
    patched = apply_vfa(model, tiny.adapter(blocks=places), person)
    assert set(patched.model_options["transformer_options"]["patches_replace"]["dit"]) == {*places}
    beyond = tiny.adapter(blocks=(("double_block", 0), ("double_block", 7)))
    with pytest.raises(ValueError, match=r"among them double_block 7.*2 double"):
        apply_vfa(model, beyond, person)


def watch_prompts(model):
    """A clone that records the prompts of every call, outside our own wrapper."""
    seen = []

    def spy(executor, *args, **kwargs):
        seen.append([(prompt.role, prompt.area) for prompt in kwargs[KEY]])
        return executor(*args, **kwargs)

    watched = model.clone()
    ours = watched.get_wrappers(APPLY_MODEL, KEY)
    watched.remove_wrappers_with_key(APPLY_MODEL, KEY)
    watched.add_wrapper_with_key(APPLY_MODEL, "spy", spy)
    for wrapper in ours:
        watched.add_wrapper_with_key(APPLY_MODEL, KEY, wrapper)
    return watched, seen


# 1. Neutral is exact


@pytest.mark.parametrize(
    "options",
    [
        {"weight": 0.0},
        {"gate": CLOSED},
        {"mask": torch.zeros(1, 64, 64)},
        {"gate": Gate((Window(0.0, 0.0), Window(1.0, 1.0)))},
    ],
    ids=["weight 0", "closed gate", "empty mask", "disjoint windows"],
)
def test_neutral_is_bit_identical(model, base, adapter, person, options):
    assert torch.equal(tiny.sample(apply_vfa(model, adapter, person, **options)), base)


def test_an_open_anchor_changes_the_picture(model, base, adapter, person):
    out = tiny.sample(apply_vfa(model, adapter, person))
    assert (out - base).abs().mean() > 0.1 * base.std()


def test_all_one_mask_is_no_mask(model, adapter, person):
    unmasked = tiny.sample(apply_vfa(model, adapter, person))
    masked = tiny.sample(apply_vfa(model, adapter, person, mask=torch.ones(3, 50)))
    assert torch.equal(masked, unmasked)


def test_weight_is_linear_in_the_first_residual(model, adapter, person):
    captured = {}
    for weight in (0.5, 1.0):
        patched = apply_vfa(model, adapter, person, weight=weight)
        captured[weight] = after_first_block(patched)
    plain = after_first_block(model)
    halved = plain + 0.5 * (captured[1.0] - plain)
    torch.testing.assert_close(captured[0.5], halved, atol=1e-5, rtol=0)


# 2. Only the returned clone changes


def test_upstream_model_and_its_clones_stay_as_they_were(model, base, adapter, person):
    first = apply_vfa(model, adapter, person)
    before = tiny.sample(first)
    second = apply_vfa(first, adapter, tiny.identity(seed=7))
    assert not torch.equal(tiny.sample(second), before)
    assert torch.equal(tiny.sample(first), before)
    assert torch.equal(tiny.sample(model), base)
    assert KEY not in model.model_options["transformer_options"].get("patches", {})
    assert not model.get_wrappers(APPLY_MODEL, KEY)


# 3. Composition


def test_order_of_two_anchors_does_not_matter(model, adapter, person, other):
    ordered = apply_vfa(apply_vfa(model, adapter, person, weight=0.7), adapter, other, weight=0.4)
    swapped = apply_vfa(apply_vfa(model, adapter, other, weight=0.4), adapter, person, weight=0.7)
    assert torch.equal(tiny.sample(ordered), tiny.sample(swapped)), (
        "they are summed in an order of their own"
    )


def test_two_anchors_read_the_same_tokens(model, adapter, person, other):
    plain = after_first_block(model)
    one = after_first_block(apply_vfa(model, adapter, person)) - plain
    two = after_first_block(apply_vfa(model, adapter, other)) - plain
    both = apply_vfa(apply_vfa(model, adapter, person), adapter, other)
    torch.testing.assert_close(after_first_block(both) - plain, one + two, atol=1e-4, rtol=0)


@pytest.mark.parametrize("key", [("double_block", 0), ("single_block", 0)])
def test_another_packs_patch_before_and_after_both_run(model, adapter, person, key):
    calls = []
    before = tiny.sample(apply_vfa(doubling(model, key, calls), adapter, person))
    assert len(calls) == 4
    after = tiny.sample(doubling(apply_vfa(model, adapter, person), key, calls))
    assert len(calls) == 8
    alone = tiny.sample(doubling(model, key, calls))
    assert not torch.equal(before, alone) and not torch.equal(after, alone)


def test_anchors_stay_parallel_around_another_packs_patch(model, adapter, person, other):
    calls = []
    sandwich = doubling(apply_vfa(model, adapter, person), ("double_block", 0), calls)
    sandwich = apply_vfa(sandwich, adapter, other)
    both = apply_vfa(apply_vfa(model, adapter, person), adapter, other)
    expected = after_first_block(doubling(both, ("double_block", 0), calls))
    torch.testing.assert_close(after_first_block(sandwich), expected, atol=1e-5, rtol=0)


def _take_over(model, key):
    """Another pack's patch that runs the original block, whoever owned it."""
    model.set_model_patch_replace(lambda args, extra: extra["original_block"](args), "dit", *key)


@pytest.mark.parametrize(
    ("keys", "ran"),
    [
        ([("double_block", 0), ("single_block", 0)], "0 of its 2 patched blocks ran (double_block"),
        ([("single_block", 0)], "1 of its 2 patched blocks ran (single_block 0 did not)"),
    ],
)
def test_a_patch_that_takes_blocks_over_is_reported(model, adapter, person, keys, ran):
    """One lost layer is lost likeness, so it is an error like all of them."""
    patched = apply_vfa(model, adapter, person)
    for key in keys:
        _take_over(patched, key)
    with pytest.raises(RuntimeError) as error:
        tiny.sample(patched)
    assert ran in str(error.value) and "place Apply VFA after it" in str(error.value)


def test_a_lost_block_is_reported_while_the_gate_is_still_closed(model, adapter, person):
    patched = apply_vfa(model, adapter, person, gate=Gate((Window(0.6, 1.0),)))
    _take_over(patched, ("single_block", 0))
    with pytest.raises(RuntimeError, match="1 of its 2 patched blocks"):
        tiny.sample(patched)


def test_a_later_anchor_wraps_a_block_that_was_taken_over(model, adapter, person, other):
    taken = apply_vfa(model, adapter, person)
    _take_over(taken, ("double_block", 0))
    both = apply_vfa(apply_vfa(model, adapter, person), adapter, other)
    assert torch.equal(tiny.sample(apply_vfa(taken, adapter, other)), tiny.sample(both))


def test_every_kind_of_injection_is_checked_for_itself(model, adapter, person):
    """A second injection whose sites never run is not covered by the first one's."""

    class Elsewhere(Neutral):
        kind, label, order = "elsewhere", "Apply Elsewhere", ""
        sites = (sites.Site("double_block", 99),)

    patched = apply_vfa(model, adapter, person)
    register(patched, Elsewhere())
    with pytest.raises(RuntimeError, match="Apply Elsewhere.*0 of its 1.*double_block 99"):
        tiny.sample(patched)


def test_a_lora_before_or_after_gives_the_same_picture(model, adapter, person):
    name = "diffusion_model.double_blocks.0.img_attn.qkv.weight"
    shape = model.model.state_dict()[name].shape
    delta = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    patch = {name: ("diff", (delta,))}
    before = model.clone()
    before.add_patches(patch, 0.05)
    before = tiny.sample(apply_vfa(before, adapter, person))
    after = apply_vfa(model, adapter, person)
    after.add_patches(patch, 0.05)
    assert torch.equal(tiny.sample(after), before)
    assert not torch.equal(before, tiny.sample(apply_vfa(model, adapter, person)))


def test_controlnet_and_anchor_both_act(model, adapter, person):
    control = tiny.conditioning(10, control=Control(), control_apply_to_uncond=True)
    patched = apply_vfa(model, adapter, person)
    both = tiny.sample(patched, positive=control)
    assert both.isfinite().all()
    assert not torch.equal(both, tiny.sample(patched))
    assert not torch.equal(both, tiny.sample(model, positive=control))


def test_easycache_may_serve_the_first_call_of_an_open_gate(model, adapter, person):
    """Blocks that did not run because a cache answered are no lost blocks."""
    nodes = pytest.importorskip("comfy_extras.nodes_easycache")
    late = apply_vfa(model, adapter, person, gate=Gate((Window(0.5, 1.0),)))
    cached = nodes.EasyCacheNode.execute(late, 100.0, 0.15, 0.95, False)[0]
    assert tiny.sample(cached, steps=10).isfinite().all()


def test_easycache_keeps_the_identity(model, adapter, person):
    nodes = pytest.importorskip("comfy_extras.nodes_easycache")
    cached = nodes.EasyCacheNode.execute(apply_vfa(model, adapter, person), 0.5, 0.15, 0.95, False)[
        0
    ]
    plain = nodes.EasyCacheNode.execute(model, 0.5, 0.15, 0.95, False)[0]
    out = tiny.sample(cached, steps=10)
    assert out.isfinite().all()
    assert not torch.equal(out, tiny.sample(plain, steps=10))


def test_compiled_model_follows_a_gate_that_opens_later(model, adapter, person):
    """As TorchCompileModel does it: without guards on transformer_options."""
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from comfy_extras.nodes_torch_compile import skip_torch_compile_dict

    late = Gate((Window(0.4, 0.9),))
    patched = apply_vfa(model, adapter, person, gate=late)
    eager = tiny.sample(patched)
    compiled = patched.clone()
    torch.compiler.reset()
    unguarded = {"guard_filter_fn": skip_torch_compile_dict}
    set_torch_compile_wrapper(model=compiled, backend="eager", options=unguarded)
    torch.testing.assert_close(tiny.sample(compiled), eager, atol=1e-4, rtol=0)
    assert not torch.equal(eager, tiny.sample(model))


# 4. Batches, order of prompts, dtypes, sizes, reference tokens


def test_true_cfg_gives_each_prompt_its_own_identity(model, adapter, person):
    """One Euler step to sigma 0 returns the prediction itself, so CFG can be written out."""
    nobody = identity_of({"pulid_flux": person.encodings["pulid_flux"].null})
    expected = {}
    cases = {"unconditional": nobody, "same": person, "none": None}
    positive = tiny.sample(apply_vfa(model, adapter, person), steps=1)
    for mode, identity in cases.items():
        judge = apply_vfa(model, adapter, identity, negative="none") if identity else model
        negative = tiny.sample(judge, steps=1, positive=tiny.conditioning(11))
        expected[mode] = negative + 3.0 * (positive - negative)
    for mode, wanted in expected.items():
        got = tiny.sample(apply_vfa(model, adapter, person, negative=mode), steps=1, cfg=3.0)
        torch.testing.assert_close(got, wanted, atol=2e-3, rtol=0)


def test_prompts_of_different_length_run_apart_and_keep_their_roles(model, adapter, person):
    watched, seen = watch_prompts(apply_vfa(model, adapter, person))
    longer = tiny.conditioning(11, length=24)
    tiny.sample(watched, steps=1, cfg=3.0, negative=longer)
    assert sorted(seen) == [[("negative", None)], [("positive", None)]]


@pytest.mark.parametrize("batch", [2, 3])
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_rows_of_a_batch_do_not_influence_each_other(model, adapter, person, batch, cfg):
    patched = apply_vfa(model, adapter, person, mask=left())
    whole = tiny.sample(patched, batch=batch, cfg=cfg)
    twice = tiny.sample(patched, batch=batch, cfg=cfg)
    assert torch.equal(whole, twice)
    alone = tiny.sample(patched, batch=1, cfg=cfg)
    torch.testing.assert_close(whole[:1], alone, atol=2e-3, rtol=0)


def test_each_image_of_a_batch_can_have_its_own_mask(model, adapter, person):
    masks = torch.stack([torch.ones(64, 64), torch.zeros(64, 64)])
    out = tiny.sample(apply_vfa(model, adapter, person, mask=masks), batch=2)
    anchored = tiny.sample(apply_vfa(model, adapter, person), batch=2)
    plain = tiny.sample(model, batch=2)
    torch.testing.assert_close(out[:1], anchored[:1], atol=1e-4, rtol=0)
    torch.testing.assert_close(out[1:], plain[1:], atol=1e-4, rtol=0)


def test_masked_tokens_alone_receive_the_residual(model, adapter, person):
    plain = after_first_block(model)
    masked = after_first_block(apply_vfa(model, adapter, person, mask=left()))
    whole = after_first_block(apply_vfa(model, adapter, person))
    change = (masked - plain).unflatten(1, (8, 8))
    assert torch.equal(change[:, :, 4:], torch.zeros_like(change[:, :, 4:]))
    expected = (whole - plain).unflatten(1, (8, 8))[:, :, :4]
    torch.testing.assert_close(change[:, :, :4], expected, atol=1e-4, rtol=0)


def _sample_by_guider(model, guider, **conds):
    import comfy.samplers

    noise = torch.randn(1, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", 2)
    sampler = comfy.samplers.sampler_object("euler")
    return guider.sample(noise, torch.zeros_like(noise), sampler, sigmas, disable_pbar=True)


def test_roles_do_not_depend_on_the_guider(model, adapter, person):
    from comfy_extras.nodes_custom_sampler import Guider_DualCFG
    from comfy_extras.nodes_perpneg import Guider_PerpNeg

    watched, seen = watch_prompts(apply_vfa(model, adapter, person))
    dual = Guider_DualCFG(watched)
    dual.set_conds(tiny.conditioning(10), tiny.conditioning(12), tiny.conditioning(11))
    dual.set_cfg(3.0, 2.0)
    _sample_by_guider(watched, dual)
    assert {tuple(sorted(chunks)) for chunks in seen} == {
        (("negative", None), ("positive", None), ("positive", None))
    }
    seen.clear()
    perp = Guider_PerpNeg(watched)
    perp.set_conds(tiny.conditioning(10), tiny.conditioning(11), tiny.conditioning(12))
    perp.set_cfg(3.0, 1.0)
    _sample_by_guider(watched, perp)
    roles = sorted(role for chunks in seen for role, _ in chunks)
    assert roles == ["negative"] * 4 + ["positive"] * 2


def test_area_prompts_see_their_part_of_the_mask(model, adapter, person):
    area = tiny.conditioning(12, area=(8, 8, 0, 8), strength=1.0)
    both = tiny.conditioning(10) + area
    watched, seen = watch_prompts(apply_vfa(model, adapter, person, mask=left()))
    out = tiny.sample(watched, positive=both, cfg=3.0)
    assert out.isfinite().all()
    assert {area for chunks in seen for _, area in chunks} == {None, (8, 8, 0, 8)}
    # The right half has no mask, so a run with only the area prompt there is the plain model.
    masked = apply_vfa(model, adapter, person, mask=left(), negative="none")
    torch.testing.assert_close(
        tiny.sample(masked, positive=area), tiny.sample(model, positive=area), atol=0, rtol=0
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_half_precision_models(dtype, adapter, person):
    model = tiny.flux(dtype)
    base = tiny.sample(model)
    out = tiny.sample(apply_vfa(model, adapter, person))
    assert out.isfinite().all()
    assert not torch.equal(out, base)
    assert torch.equal(tiny.sample(apply_vfa(model, adapter, person, weight=0.0)), base)
    ones = tiny.sample(apply_vfa(model, adapter, person, mask=torch.ones(8, 8)))
    assert torch.equal(ones, out)


def test_fp8_weights_compute_in_the_cast_type(adapter, person):
    state = {
        k: v.to(torch.bfloat16) for k, v in tiny.flux().model.diffusion_model.state_dict().items()
    }
    model = comfy.sd.load_diffusion_model_state_dict(
        state, model_options={"dtype": torch.float8_e4m3fn}
    )
    assert model.model.get_dtype() == torch.float8_e4m3fn
    out = tiny.sample(apply_vfa(model, adapter, person))
    assert out.isfinite().all()
    assert not torch.equal(out, tiny.sample(model))


def test_a_mask_on_unknown_tiles_is_refused(model, adapter, person):
    def tile(apply_model, args):
        part = apply_model(args["input"][..., :8], args["timestep"], **args["c"])
        return torch.cat([part, part], dim=-1)

    tiled = apply_vfa(model, adapter, person, mask=left())
    tiled.set_model_unet_function_wrapper(tile)
    with pytest.raises(ValueError, match="16x16.*tiles of 16x8.*Disconnect the mask"):
        tiny.sample(tiled)
    unmasked = apply_vfa(model, adapter, person)
    unmasked.set_model_unet_function_wrapper(tile)
    assert tiny.sample(unmasked).isfinite().all()


@pytest.mark.parametrize("size", [(15, 17), (1, 1), (16, 7), (3, 40)])
@pytest.mark.parametrize("masked", [False, True])
def test_odd_latent_sizes(model, adapter, person, size, masked):
    mask = left() if masked else None
    out = tiny.sample(apply_vfa(model, adapter, person, mask=mask), size=size)
    assert out.shape[-2:] == size and out.isfinite().all()
    assert not torch.equal(out, tiny.sample(model, size=size))


def test_kontext_reference_tokens_are_never_injected(model, adapter, person):
    reference = [torch.randn(1, 16, 16, 12, generator=torch.Generator().manual_seed(8))]
    prompt = tiny.conditioning(10, reference_latents=reference)
    plain = after_first_block(model, positive=prompt)
    anchored = after_first_block(apply_vfa(model, adapter, person), positive=prompt)
    assert plain.shape[1] == 64 + 48
    assert not torch.equal(anchored[:, :64], plain[:, :64])
    assert torch.equal(anchored[:, 64:], plain[:, 64:])


def test_fill_and_schnell_layouts(adapter, person):
    schnell = tiny.flux(guidance_embed=False)
    assert not torch.equal(tiny.sample(apply_vfa(schnell, adapter, person)), tiny.sample(schnell))
    fill = tiny.flux(in_channels=96)
    prompt = tiny.conditioning(
        10,
        concat_latent_image=torch.zeros(1, 16, 16, 16),
        concat_mask=torch.ones(1, 1, 16, 16),
    )
    out = tiny.sample(apply_vfa(fill, adapter, person), positive=prompt)
    assert not torch.equal(out, tiny.sample(fill, positive=prompt))


# 5. Queueing again, interrupting, schedules


@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m", "dpmpp_2s_ancestral"])
def test_the_same_run_twice_is_the_same_picture(model, adapter, person, sampler):
    patched = apply_vfa(model, adapter, person, gate=Gate((Window(0.3, 0.8, "progress"),)))
    assert torch.equal(tiny.sample(patched, sampler=sampler), tiny.sample(patched, sampler=sampler))


def test_interrupting_leaves_nothing_behind(model, base, adapter, person):
    patched = apply_vfa(model, adapter, person, mask=left())
    before = tiny.sample(patched)
    stopped = patched.clone()

    def stop(args, extra):
        raise comfy.model_management.InterruptProcessingException

    stopped.set_model_patch_replace(stop, "dit", "single_block", 3)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        tiny.sample(stopped)
    assert RUN not in patched.model_options["transformer_options"]
    assert torch.equal(tiny.sample(patched), before)
    assert torch.equal(tiny.sample(model), base)


def _active_steps(model, adapter, person, gate, **options):
    steps = []
    original = apply_vfa(model, adapter, person, gate=gate)

    def spy(args, extra):
        steps.append(bool(args["transformer_options"][CALL].added))
        return extra["original_block"](args)

    original.set_model_patch_replace(spy, "dit", "double_block", 1)
    tiny.sample(original, **options)
    return steps


def test_start_step_k_of_n_is_percent_k_over_n(model, adapter, person):
    """The authors' start_step 2 of 5 steps, at the schedule's own shift."""
    gate = Gate((Window(0.4, 1.0),))
    steps = _active_steps(model, adapter, person, gate, steps=5)
    assert steps == [False, False, True, True, True]


def test_percent_and_progress_differ_in_a_partial_run(model, adapter, person):
    options = {"steps": 4, "denoise": 0.5}
    percent = Gate((Window(0.0, 0.45, "percent"),))
    progress = Gate((Window(0.0, 0.45, "progress"),))
    assert not any(_active_steps(model, adapter, person, percent, **options))
    assert _active_steps(model, adapter, person, progress, **options) == [True, True, False, False]


def test_a_model_sampling_node_placed_later_moves_the_window(model, adapter, person):
    from comfy_extras.nodes_model_advanced import ModelSamplingFlux

    gate = Gate((Window(0.45, 1.0),))
    patched = apply_vfa(model, adapter, person, gate=gate)
    shifted = ModelSamplingFlux().patch(patched, 3.0, 0.5, 1024, 1024)[0]
    steps = []

    def spy(args, extra):
        steps.append(bool(args["transformer_options"][CALL].added))
        return extra["original_block"](args)

    shifted.set_model_patch_replace(spy, "dit", "double_block", 1)
    tiny.sample(shifted, steps=4)
    assert steps == [False, False, True, True]


# 6. Memory


def test_folded_weights_are_loaded_and_counted_by_comfyui(model, adapter, person):
    patched = apply_vfa(model, adapter, person)
    anchor = patched.model_options["transformer_options"]["patches"][KEY][0]
    assert set(patched.model_patches_models()) == {anchor.positive, anchor.negative}
    per_layer = 2 * 256 * (2 * tiny.TOKENS) + 2 * tiny.TOKENS
    assert anchor.positive.model_size() == 4 * 2 * per_layer
    comfy.model_management.unload_all_models()
    tiny.sample(patched)
    loaded = [entry.model for entry in comfy.model_management.current_loaded_models]
    assert anchor.positive in loaded and anchor.negative in loaded


def test_the_same_identity_is_folded_once(model, adapter, person):
    anchors = [
        apply_vfa(model, adapter, person, weight=weight).model_options["transformer_options"][
            "patches"
        ][KEY][0]
        for weight in (0.5, 0.9)
    ]
    assert anchors[0].positive is anchors[1].positive
    assert anchors[0].negative is anchors[1].negative


# 7. No syncs, no masks made inside a block


def test_a_block_only_computes(model, adapter, person, monkeypatch):
    ops = watch_sites(monkeypatch)
    soft = left() * 0.5
    patched = apply_vfa(model, adapter, person, mask=soft)
    tiny.sample(patched, cfg=3.0)
    assert "index_add_" in ops.names
    forbidden = {"_local_scalar_dense", "item", "nonzero", "_to_copy", "interpolate", "ones"}
    assert not ops.names & forbidden


def test_a_closed_gate_reaches_no_block(model, adapter, person):
    assert not any(_active_steps(model, adapter, person, CLOSED))


# Direct calls, without a guider


def test_direct_apply_model_reads_the_index(model, adapter, person):
    seen = []
    patched = apply_vfa(model, adapter, person)
    anchor = patched.model_options["transformer_options"]["patches"][KEY][0]

    class Executor:
        class_obj = model.model

        def __call__(self, x, t, c_concat, c_crossattn, control, options, **conds):
            call = options[CALL]
            for site in anchor.sites:
                call.visits[site] = 1
                seen.append([(term.layers[site], term.rows) for term in call.added[site]])
            return x

    options = {"patches": {KEY: [anchor]}, "cond_or_uncond": [1, 0]}
    x = torch.zeros(4, 16, 8, 8)
    inject_call(Executor(), x, torch.full((4,), 0.5), None, None, None, options)
    assert seen == [
        [(anchor.negative.model[layer], slice(0, 2)), (anchor.positive.model[layer], slice(2, 4))]
        for layer in range(2)
    ]
