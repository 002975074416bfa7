"""The laws every injection keeps, for VFA under a query control, on a small Flux."""

import comfy.model_management
import pulid_world
import pytest
import tiny
import tiny_unet
import torch
from flexid.model_patches.gates.gate import Gate
from flexid.model_patches.gates.schedule import Schedule
from flexid.model_patches.gates.window import Window
from flexid.model_patches.inject.query import QueryControl
from flexid.model_patches.inject.run import KEY, RUN
from flexid.model_patches.inject.vfa import apply_vfa
from torch_ops import watch_sites
from vfa_world import Control, after_first_block, doubling, left

pytestmark = pytest.mark.comfy

MIXES = ("initial", "token_mean", "zero", "soft_append")
each_mix = pytest.mark.parametrize("mode", MIXES)


def half(mode, alpha=0.3, **changes):
    return QueryControl(mode, Schedule(alpha=alpha, **changes))


@pytest.fixture(scope="module")
def model():
    return tiny.flux()


@pytest.fixture(scope="module")
def base(model):
    return tiny.sample(model)


@pytest.fixture(scope="module")
def adapter():
    """Queries as wide as identity tokens, as in the published files, and peaked attention."""
    narrow = tiny.adapter(width=256)
    weights = {
        name: value * (3.0 if "to_q" in name else 1.0)
        for name, value in narrow.cross_attention.items()
    }
    return tiny.adapter(width=256, digest="tiny-peaked", cross_attention=weights)


@pytest.fixture(scope="module")
def person():
    return tiny.identity(width=256)


@pytest.fixture(scope="module")
def other():
    return tiny.identity(seed=5, width=256)


@pytest.fixture(scope="module")
def anchored(model, adapter, person):
    return tiny.sample(apply_vfa(model, adapter, person))


# 1. Neutral is exact


@pytest.mark.parametrize(
    "query",
    [
        QueryControl(),
        *(QueryControl(mode) for mode in MIXES),
        QueryControl("zero", Schedule("range", 1.0, 1.0)),
        QueryControl("zero", Schedule(alpha=0.2), "all:1.0"),
    ],
    ids=["off", *MIXES, "range 1 to 1", "blocks of alpha 1"],
)
def test_neutral_is_the_anchor_without_it(model, adapter, person, anchored, query):
    assert torch.equal(tiny.sample(apply_vfa(model, adapter, person, query=query)), anchored)


@each_mix
def test_alpha_1_at_the_moment_is_the_anchor_without_it(model, adapter, person, mode):
    """A window after the run's end is not neutral by its settings, but never mixes."""
    query = half(mode, start=0.999)
    assert not query.is_neutral
    mask = left()
    plain = tiny.sample(apply_vfa(model, adapter, person, mask=mask))
    assert torch.equal(
        tiny.sample(apply_vfa(model, adapter, person, mask=mask, query=query)), plain
    )


@each_mix
@pytest.mark.parametrize(
    "options", [{"weight": 0.0}, {"gate": Gate((Window(points=((0.0, 0.0),)),))}],
    ids=["weight 0", "closed gate"],
)  # fmt: skip
def test_an_anchor_of_no_weight_stays_the_model(model, base, adapter, person, mode, options):
    patched = apply_vfa(model, adapter, person, query=half(mode), **options)
    assert torch.equal(tiny.sample(patched), base)


@each_mix
def test_every_mode_changes_the_picture(model, adapter, person, anchored, mode):
    out = tiny.sample(apply_vfa(model, adapter, person, query=half(mode)))
    assert (out - anchored).abs().mean() > 1e-3 * anchored.std()


@each_mix
def test_all_one_mask_is_no_mask(model, adapter, person, mode):
    query = half(mode)
    unmasked = tiny.sample(apply_vfa(model, adapter, person, query=query))
    mask = torch.ones(3, 50)
    assert torch.equal(
        tiny.sample(apply_vfa(model, adapter, person, mask=mask, query=query)), unmasked
    )


def test_blocks_limit_the_mix(model, adapter, person, anchored):
    """Behind the first double block nothing is mixed when only single blocks are named."""
    plain = after_first_block(apply_vfa(model, adapter, person))
    single = apply_vfa(
        model, adapter, person, query=QueryControl("zero", Schedule(alpha=0.0), "single")
    )
    assert torch.equal(after_first_block(single), plain)
    assert not torch.equal(tiny.sample(single), anchored)
    double = apply_vfa(model, adapter, person, query=QueryControl("zero", Schedule(alpha=0.0), "0"))
    assert not torch.equal(after_first_block(double), plain)


def test_the_mean_query_adds_the_same_everywhere(model, adapter, person):
    query = half("token_mean", 0.0)
    change = after_first_block(apply_vfa(model, adapter, person, query=query))
    change = change - after_first_block(model)
    torch.testing.assert_close(change, change[:, :1].expand_as(change), atol=1e-5, rtol=0)


# 2. Only the returned clone changes


@each_mix
def test_the_model_and_its_clones_stay_as_they_were(model, base, adapter, person, mode):
    first = apply_vfa(model, adapter, person)
    before = tiny.sample(first)
    tiny.sample(apply_vfa(first, adapter, person, query=half(mode)))
    assert torch.equal(tiny.sample(first), before)
    assert torch.equal(tiny.sample(model), base)


# 3. Composition


@each_mix
def test_order_of_anchors_changes_no_bit(model, adapter, person, other, mode):
    query = half(mode)
    one = apply_vfa(apply_vfa(model, adapter, person, query=query), adapter, other)
    two = apply_vfa(apply_vfa(model, adapter, other), adapter, person, query=query)
    out = tiny.sample(one)
    assert torch.equal(out, tiny.sample(two))
    swapped = apply_vfa(apply_vfa(model, adapter, person), adapter, other, query=query)
    assert not torch.equal(out, tiny.sample(swapped))


def test_anchors_that_differ_by_their_queries_alone_have_an_order_too(model, adapter, person):
    queries = (half("zero"), half("token_mean"), None)

    def stack(order):
        patched = model
        for query in order:
            patched = apply_vfa(patched, adapter, person, weight=0.4, query=query)
        return tiny.sample(patched)

    assert torch.equal(stack(queries), stack(queries[::-1]))


def test_two_people_keep_first_queries_of_their_own(model, adapter, person, other):
    """Masks of different halves: each anchor alone changes its own tokens of the second step."""
    query = half("initial", 0.0)
    both = apply_vfa(model, adapter, person, mask=left(), query=query)
    both = apply_vfa(both, adapter, other, mask=1 - left(), query=query)
    out = tiny.sample(both)
    assert out.isfinite().all()
    assert torch.equal(tiny.sample(both), out)


@each_mix
def test_another_packs_patch_and_a_control_net_both_act(model, adapter, person, mode):
    calls = []
    patched = doubling(
        apply_vfa(model, adapter, person, query=half(mode)), ("double_block", 0), calls
    )
    control = tiny.conditioning(10, control=Control(), control_apply_to_uncond=True)
    out = tiny.sample(patched, positive=control)
    assert len(calls) == 4 and out.isfinite().all()
    assert not torch.equal(out, tiny.sample(patched))


@each_mix
def test_a_lora_before_or_after_gives_the_same_picture(model, adapter, person, mode):
    name = "diffusion_model.double_blocks.0.img_attn.qkv.weight"
    shape = model.model.state_dict()[name].shape
    delta = torch.randn(shape, generator=torch.Generator().manual_seed(3))
    before = model.clone()
    before.add_patches({name: ("diff", (delta,))}, 0.05)
    before = tiny.sample(apply_vfa(before, adapter, person, query=half(mode)))
    after = apply_vfa(model, adapter, person, query=half(mode))
    after.add_patches({name: ("diff", (delta,))}, 0.05)
    assert torch.equal(tiny.sample(after), before)


@each_mix
def test_easycache_keeps_the_mix(model, adapter, person, mode):
    nodes = pytest.importorskip("comfy_extras.nodes_easycache")
    cached, plain = (
        nodes.EasyCacheNode.execute(
            apply_vfa(model, adapter, person, query=query), 0.5, 0.15, 0.95, False
        )[0]
        for query in (half(mode), None)
    )
    out = tiny.sample(cached, steps=10)
    assert out.isfinite().all()
    assert not torch.equal(out, tiny.sample(plain, steps=10))


def test_a_cache_may_serve_the_first_call_of_the_anchor(model, adapter, person):
    """The first step whose blocks run is the first one for `initial`."""
    nodes = pytest.importorskip("comfy_extras.nodes_easycache")
    late = Gate((Window(0.5, 1.0),))
    patched = apply_vfa(model, adapter, person, gate=late, query=half("initial"))
    cached = nodes.EasyCacheNode.execute(patched, 100.0, 0.15, 0.95, False)[0]
    assert tiny.sample(cached, steps=10).isfinite().all()


def test_compiled_model_follows_the_schedule(model, adapter, person):
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from comfy_extras.nodes_torch_compile import skip_torch_compile_dict

    query = QueryControl("initial", Schedule("sigma_rise"))
    patched = apply_vfa(model, adapter, person, query=query)
    eager = tiny.sample(patched)
    compiled = patched.clone()
    torch.compiler.reset()
    unguarded = {"guard_filter_fn": skip_torch_compile_dict}
    set_torch_compile_wrapper(model=compiled, backend="eager", options=unguarded)
    torch.testing.assert_close(tiny.sample(compiled), eager, atol=1e-4, rtol=0)


# 4. Batches, prompts, dtypes, sizes, reference tokens


@each_mix
@pytest.mark.parametrize("cfg", [1.0, 3.0])
def test_rows_of_a_batch_do_not_influence_each_other(model, adapter, person, mode, cfg):
    masks = torch.cat([left(), torch.zeros(1, 128, 128), 1 - left()])
    patched = apply_vfa(model, adapter, person, mask=masks, query=half(mode))
    whole = tiny.sample(patched, batch=3, cfg=cfg)
    alone = apply_vfa(model, adapter, person, mask=masks[:1], query=half(mode))
    torch.testing.assert_close(whole[:1], tiny.sample(alone, cfg=cfg), atol=2e-3, rtol=0)
    plain = tiny.sample(model, batch=3, cfg=cfg)
    torch.testing.assert_close(whole[1:2], plain[1:2], atol=2e-3, rtol=0)


@each_mix
def test_prompts_that_run_apart_give_what_they_give_together(model, adapter, person, mode):
    """Each prompt has a first step of its own, in whatever call it runs."""
    patched = apply_vfa(model, adapter, person, query=half(mode))
    negative = tiny.conditioning(11)
    together = tiny.sample(patched, cfg=3.0, negative=negative)

    def one_by_one(apply_model, args):
        keys = args["c"]["transformer_options"]
        parts = []
        for number, index in enumerate(args["cond_or_uncond"]):
            options = {**keys, "cond_or_uncond": [index], "uuids": [keys["uuids"][number]]}
            c = {
                name: value[number : number + 1] if torch.is_tensor(value) else value
                for name, value in args["c"].items()
            }
            c[KEY] = (args["c"][KEY][number],)
            c["transformer_options"] = options
            rows = slice(number, number + 1)
            parts.append(apply_model(args["input"][rows], args["timestep"][rows], **c))
        return torch.cat(parts)

    apart = patched.clone()
    apart.set_model_unet_function_wrapper(one_by_one)
    torch.testing.assert_close(
        tiny.sample(apart, cfg=3.0, negative=negative), together, atol=2e-3, rtol=0
    )


@each_mix
def test_rows_of_different_times_each_have_their_alpha(model, adapter, person, mode):
    """Two rows of one call, as samplers for video make them: each is mixed by its own time."""
    query = QueryControl(mode, Schedule("sigma_rise", 0.9))
    patched = apply_vfa(model, adapter, person, query=query)
    sigmas = torch.tensor([0.9, 0.3])
    both = _predict(patched, sigmas)
    for row in range(2):
        alone = _predict(patched, sigmas[row : row + 1], row)
        torch.testing.assert_close(both[row : row + 1], alone, atol=1e-4, rtol=0)


def _predict(model, sigmas, row=None):
    """Two calls of one run without a guider: at sigma 1, then at these sigmas."""
    from flexid.model_patches.inject.call import Run

    rows = slice(None) if row is None else slice(row, row + 1)
    noise = torch.randn(2, 16, 8, 8, generator=torch.Generator().manual_seed(4))
    text = torch.randn(1, 16, tiny.CONTEXT, generator=torch.Generator().manual_seed(5))
    options = {**model.model_options["transformer_options"], "wrappers": model.wrappers}
    options |= {"cond_or_uncond": [0], RUN: Run((8, 8))}
    out = noise
    for at in (torch.ones(len(sigmas)), sigmas):
        out = model.model.apply_model(
            noise[rows],
            at,
            c_crossattn=text.expand(len(sigmas), -1, -1),
            y=torch.zeros(len(sigmas), tiny.VECTOR),
            guidance=torch.full((len(sigmas),), 4.0),
            transformer_options=options,
        )
    return out


@each_mix
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_models(dtype, adapter, person, mode):
    model = tiny.flux(dtype)
    plain = tiny.sample(apply_vfa(model, adapter, person))
    query = QueryControl(mode, Schedule("sigma_rise", 0.9))
    out = tiny.sample(apply_vfa(model, adapter, person, query=query))
    assert out.isfinite().all()
    assert not torch.equal(out, plain)
    assert torch.equal(
        tiny.sample(apply_vfa(model, adapter, person, query=QueryControl(mode))), plain
    )


@each_mix
@pytest.mark.parametrize("size", [(15, 17), (1, 1), (3, 40)])
def test_odd_latent_sizes(model, adapter, person, mode, size):
    patched = apply_vfa(model, adapter, person, mask=left(), query=half(mode))
    out = tiny.sample(patched, size=size, batch=2)
    assert out.shape[-2:] == size and out.isfinite().all()
    assert tiny.sample(patched).isfinite().all(), "the next run may have another size"


@each_mix
def test_area_prompts_run(model, adapter, person, mode):
    both = tiny.conditioning(10) + tiny.conditioning(12, area=(8, 8, 0, 8), strength=1.0)
    patched = apply_vfa(model, adapter, person, mask=left(), query=half(mode))
    assert tiny.sample(patched, positive=both, cfg=3.0).isfinite().all()


@each_mix
def test_reference_tokens_are_neither_changed_nor_read(model, adapter, person, mode):
    """Two references give the same residual behind the first block, because none is read."""
    patched = apply_vfa(model, adapter, person, query=half(mode))
    changes = []
    for seed in (8, 9):
        reference = [torch.randn(1, 16, 16, 12, generator=torch.Generator().manual_seed(seed))]
        prompt = tiny.conditioning(10, reference_latents=reference)
        plain = after_first_block(model, positive=prompt)
        out = after_first_block(patched, positive=prompt)
        assert torch.equal(out[:, 64:], plain[:, 64:])
        changes.append((out - plain)[:, :64])
    assert not torch.equal(changes[0], torch.zeros_like(changes[0]))


def test_first_queries_on_unknown_tiles_are_refused(model, adapter, person):
    def tile(apply_model, args):
        part = apply_model(args["input"][..., :8], args["timestep"], **args["c"])
        return torch.cat([part, part], dim=-1)

    for mode in MIXES:
        tiled = apply_vfa(model, adapter, person, query=half(mode))
        tiled.set_model_unet_function_wrapper(tile)
        if mode == "initial":
            with pytest.raises(ValueError, match="first step.*16x16.*tiles of 16x8.*another mode"):
                tiny.sample(tiled)
        else:
            assert tiny.sample(tiled).isfinite().all()


# 5. Queueing again, interrupting, samplers


@each_mix
@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2s_ancestral"])
def test_the_same_run_twice_is_the_same_picture(model, adapter, person, mode, sampler):
    query = QueryControl(mode, Schedule("range", 0.1, 0.9, 0.2, 0.8))
    patched = apply_vfa(model, adapter, person, query=query)
    assert torch.equal(tiny.sample(patched, sampler=sampler), tiny.sample(patched, sampler=sampler))


def test_interrupting_leaves_no_first_step_behind(model, adapter, person):
    patched = apply_vfa(model, adapter, person, query=half("initial"))
    before = tiny.sample(patched)
    stopped = patched.clone()

    def stop(args, extra):
        raise comfy.model_management.InterruptProcessingException

    stopped.set_model_patch_replace(stop, "dit", "single_block", 3)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        tiny.sample(stopped)
    assert RUN not in patched.model_options["transformer_options"]
    assert torch.equal(tiny.sample(patched), before)


# 6. Memory


def test_unfolded_weights_are_loaded_and_counted_by_comfyui(model, adapter, person):
    patched = apply_vfa(model, adapter, person, query=half("soft_append"))
    (anchor,) = patched.model_options["transformer_options"]["patches"][KEY]
    stack = anchor.query.appendix.stack
    assert set(patched.model_patches_models()) == {anchor.positive, anchor.negative, stack}
    per_layer = 4 * 256 + 4 * 256 * 256
    assert stack.model_size() == 4 * 2 * per_layer
    comfy.model_management.unload_all_models()
    tiny.sample(patched)
    assert stack in [entry.model for entry in comfy.model_management.current_loaded_models]


def test_unfolded_layers_are_shared_and_only_those_that_are_named(model, adapter, person, other):
    query = QueryControl("soft_append", Schedule(alpha=0.5), "double")
    stacks = []
    for one in (person, other):
        patched = apply_vfa(model, adapter, one, query=query)
        (anchor,) = patched.model_options["transformer_options"]["patches"][KEY]
        stacks.append(anchor.query.appendix.stack)
    assert stacks[0] is stacks[1] and len(stacks[0].model) == 1


def test_folded_mixes_hold_no_weights_of_their_own(model, adapter, person):
    for mode in ("initial", "token_mean", "zero"):
        patched = apply_vfa(model, adapter, person, query=half(mode))
        (anchor,) = patched.model_options["transformer_options"]["patches"][KEY]
        assert set(patched.model_patches_models()) == {anchor.positive, anchor.negative}


# 7. No syncs, no masks made inside a block


@each_mix
def test_a_block_only_computes(model, adapter, person, monkeypatch, mode):
    ops = watch_sites(monkeypatch)
    query = QueryControl(mode, Schedule("sigma_rise", 0.9))
    tiny.sample(apply_vfa(model, adapter, person, mask=left() * 0.5, query=query), cfg=3.0)
    forbidden = {"_local_scalar_dense", "item", "nonzero", "interpolate", "ones", "full"}
    assert ops.names and not ops.names & forbidden


# 9. What does not fit is refused


def test_queries_that_are_no_tokens_are_refused(model):
    with pytest.raises(ValueError, match="'tiny.safetensors' are 256 and 64 channels wide"):
        apply_vfa(model, tiny.adapter(), tiny.identity(), query=half("soft_append"))


def test_a_layer_that_the_adapter_lacks_is_refused_at_weight_0_as_well(model, adapter, person):
    query = QueryControl("zero", Schedule(alpha=0.5), "0-4")
    with pytest.raises(ValueError, match="layer 4; 'tiny.safetensors' has the layers 0 to 1"):
        apply_vfa(model, adapter, person, weight=0.0, query=query)


def test_sdxl_is_refused_by_name(tmp_path):
    unet = tiny_unet.sdxl()
    adapter = pulid_world.sdxl_adapter(tmp_path, unet)
    somebody = pulid_world.somebody(adapter)
    with pytest.raises(ValueError, match="mode initial, but 'pulid_v1.safetensors' is.*for SDXL"):
        apply_vfa(unet, adapter, somebody, query=half("initial"))
    assert apply_vfa(unet, adapter, somebody, query=QueryControl()) is not unet
