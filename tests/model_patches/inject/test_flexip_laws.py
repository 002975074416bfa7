"""The laws every injection keeps, for FlexIP and IP-Adapter files, on small SD 1.5 and SDXL UNets
in real ComfyUI."""

import itertools

import comfy.lora
import comfy.model_management
import comfy.patcher_extension
import comfy.samplers
import flexip_world
import pytest
import tiny_unet
import torch
from flexid.model_patches.gates.gate import Gate
from flexid.model_patches.gates.window import Window
from flexid.model_patches.inject.attention import BaseAttention, FoldedAttention
from flexid.model_patches.inject.call import CALL
from flexid.model_patches.inject.drawn_boxes import region_from
from flexid.model_patches.inject.flexip import apply_flexip
from flexid.model_patches.inject.region import region_of
from flexid.model_patches.inject.run import KEY, RUN
from flexid.model_patches.inject.unet import unet_sites
from flexid.model_patches.inject.unet_blocks import BLOCKS
from torch import nn
from torch_ops import watch_sites

pytestmark = pytest.mark.comfy

CLOSED = Gate((Window(points=((0.0, 0.0),)),))
LATE = Gate((Window(0.5, 1.0, "progress"),))


MODELS = {"sd15": tiny_unet.sd15, "sdxl": tiny_unet.sdxl}


class World:
    """A model with its prompts, adapters and people."""

    def __init__(self, kind, folder):
        self.kind = kind
        self.model = MODELS[kind]()
        make = {"sd15": tiny_unet.conditioning, "sdxl": tiny_unet.conditioning_xl}
        self.prompt = make[kind]
        self.positive, self.negative = self.prompt(1), self.prompt(2)
        self.adapters = {
            "flexip": flexip_world.flexip(folder, self.model),
            "plus": flexip_world.ip_adapter(folder, self.model),
        }

    def apply(self, adapter="flexip", model=None, seed=1, prompts=None, mask=None, **options):
        found = self.adapters[adapter] if isinstance(adapter, str) else adapter
        positive, negative = prompts or (self.positive, self.negative)
        identity = flexip_world.person(found, seed)
        if mask is not None:
            options["region"] = region_of(mask)
        return apply_flexip(model or self.model, positive, negative, found, identity, **options)

    def draw(self, applied, **options):
        settings = {"steps": 2, "cfg": 3.0, **options}
        return tiny_unet.sample(applied.model, applied.positive, applied.negative, **settings)

    def draw_base(self, **options):
        settings = {"steps": 2, "cfg": 3.0, **options}
        return tiny_unet.sample(self.model, self.positive, self.negative, **settings)


@pytest.fixture(scope="module", params=["sd15", "sdxl"])
def world(request, tmp_path_factory):
    return World(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def base(world):
    return world.draw_base()


def left(size=64):
    mask = torch.zeros(1, size, size)
    mask[:, :, : size // 2] = 1
    return mask


# 1. Neutral is exact


@pytest.mark.parametrize("adapter", ["flexip", "plus"])
@pytest.mark.parametrize(
    "options",
    [
        {"strength": 0.0},
        {"preserve_gate": CLOSED, "personal_gate": CLOSED},
        {"mask": torch.zeros(1, 64, 64)},
    ],
    ids=["strength 0", "closed gates", "empty mask"],
)
def test_neutral_is_bit_identical(world, base, adapter, options):
    assert torch.equal(world.draw(world.apply(adapter, **options)), base)


def test_strength_0_hands_on_what_came_in(world):
    applied = world.apply(strength=0.0)
    assert applied.model is world.model
    pairs = ((applied.positive, world.positive), (applied.negative, world.negative))
    assert all(ours[0] is theirs[0] for ours, theirs in pairs)


def test_an_ip_adapter_at_balance_0_is_off(world, base):
    assert torch.equal(world.draw(world.apply("plus", value=0.0)), base)


def test_values_of_zeros_add_nothing(world, base, tmp_path):
    silent = flexip_world.flexip(tmp_path, world.model, silent=True)
    assert torch.equal(world.draw(world.apply(silent)), base)


@pytest.mark.parametrize("adapter", ["flexip", "plus"])
def test_an_open_adapter_changes_the_picture(world, base, adapter):
    out, other = (world.draw(world.apply(adapter, seed=seed)) for seed in (1, 2))
    # Noise outweighs what so small a network paints in three steps.
    assert (out - base).abs().mean() > 0.003 * base.std()
    assert (out - other).abs().mean() > 0.003 * base.std()


def test_all_one_mask_is_no_mask(world):
    masked = world.draw(world.apply(mask=torch.ones(3, 50)))
    torch.testing.assert_close(masked, world.draw(world.apply()), atol=1e-6, rtol=0)


# The slider


def first_read(applied, **options):
    """What the first cross-attention returns in the first step."""
    prompts = applied.positive, applied.negative
    options = {"steps": 1, **options}
    return tiny_unet.first_read(
        applied.model, lambda one: tiny_unet.sample(one, *prompts, **options)
    )


def test_both_ends_are_one_stream_alone(world):
    """At 1 the prompt's text asks for nothing, so a file without that stream draws the same bits;
    at 0 nothing of the photo's own tokens is left."""
    keep = world.apply(value=1.0)
    assert torch.equal(world.draw(keep), world.draw(world.apply(personal_gate=CLOSED, value=1.0)))
    follow = world.apply(value=0.0)
    entry = follow.positive[0][1]["model_conds"][KEY].prompt.payloads["flexip"][0]
    assert entry.preserve is None and len(entry.personal) == 1
    assert keep.positive[0][1]["model_conds"][KEY].prompt.payloads["flexip"][0].personal == ()
    closed = world.apply(value=0.5, preserve_gate=CLOSED, strength=2.0)
    assert torch.equal(world.draw(closed), world.draw(follow))


def test_the_residual_is_affine_in_the_balance(world):
    plain = first_read(world.apply(strength=0.0))
    zero, half, one = (first_read(world.apply(value=b)) - plain for b in (0.0, 0.5, 1.0))
    assert zero.abs().max() > 1e-3 and one.abs().max() > 1e-3
    torch.testing.assert_close(half, (zero + one) / 2, atol=1e-5, rtol=0)


def test_the_laws_differ_and_auto_is_the_files(world, tmp_path):
    drawn = {law: world.draw(world.apply(law=law)) for law in ("linear", "crossfade")}
    assert torch.equal(world.draw(world.apply()), drawn["linear"])
    assert not torch.equal(drawn["crossfade"], drawn["linear"])
    stated = flexip_world.flexip(tmp_path, world.model, law="crossfade")
    assert torch.equal(world.draw(world.apply(stated)), drawn["crossfade"])


# The layers


def tables_of(applied):
    """Sites by factor of the preservation stream, of the positive prompt."""
    held = applied.positive[0][1]["model_conds"][KEY].prompt.payloads["flexip"]
    return {
        share.factor: {(site.kind, site.number) for site in share.preserve.keys}
        for share in held
        if share.preserve is not None
    }


@pytest.fixture
def named_layers(world, monkeypatch):
    """Gives the small UNet's layers the names that 16 and 70 have in the published ones."""
    sites = unet_sites(world.model, "test")
    places = list(dict.fromkeys((site.kind, site.number) for site in sites))
    known = {"style": {places[-1]: 1.0}, "layout": {places[0]: 0.25, places[1]: 1.0}}
    monkeypatch.setattr("flexid.model_patches.inject.unet_blocks._BY_SITES", {len(sites): known})
    return known


def test_the_photo_reaches_the_layers_of_its_blocks_only(world, named_layers):
    for blocks, known in named_layers.items():
        found = tables_of(world.apply("plus", value=1.0, blocks=blocks))
        assert found == {
            factor: {place for place, one in known.items() if one == factor}
            for factor in known.values()
        }


@pytest.mark.parametrize("adapter", ["flexip", "plus"])
def test_blocks_change_the_picture(world, named_layers, adapter):
    drawn = [world.draw(world.apply(adapter, value=1.0, blocks=one)) for one in BLOCKS]
    assert all(not torch.equal(a, b) for a, b in itertools.combinations(drawn, 2))


def test_blocks_leave_the_personalisation_stream_alone(world, named_layers):
    drawn = [world.draw(world.apply(value=0.0, blocks=one)) for one in BLOCKS]
    assert all(torch.equal(drawn[0], one) for one in drawn[1:])


def test_blocks_with_both_streams_in_one_softmax(world, named_layers, tmp_path):
    """Outside its layers the photo takes no share of the softmax: the other stream is alone."""
    adapter = flexip_world.flexip(tmp_path, world.model, fusion="joint")
    both = world.draw(world.apply(adapter, blocks="layout"))
    assert not torch.equal(both, world.draw(world.apply(adapter)))
    closed = world.apply(adapter, blocks="layout", preserve_gate=CLOSED)
    alone = world.apply(adapter, preserve_gate=CLOSED)
    assert torch.equal(world.draw(closed), world.draw(alone))
    assert not torch.equal(both, world.draw(alone))


def test_a_factor_weighs_the_photo_in_its_layer(world, monkeypatch):
    sites = unet_sites(world.model, "test")
    first = next((site.kind, site.number) for site in sites)

    def residual(factor):
        known = {len(sites): {"style": {first: factor}}}
        monkeypatch.setattr("flexid.model_patches.inject.unet_blocks._BY_SITES", known)
        return first_read(world.apply("plus", value=1.0, blocks="style")) - plain

    plain = first_read(world.apply(strength=0.0))
    whole, quarter = residual(1.0), residual(0.25)
    assert whole.abs().max() > 1e-3
    torch.testing.assert_close(quarter, whole / 4, atol=1e-5, rtol=0)


def test_a_box_is_its_mask(world):
    box = {"bbox": [0, 0, 1000, 500], "desc": ""}
    region = region_from(None, [box], "Apply FlexIP")
    drawn = world.draw(world.apply(region=region))
    torch.testing.assert_close(drawn, world.draw(world.apply(mask=left())), atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("mask", "boxes", "message"),
    [
        (left(), 1, "a mask and a box, expected one"),
        (None, 2, "2 boxes, expected 1"),
        (None, 0, "0 boxes, expected 1"),
    ],
)
def test_one_region_for_one_reference(mask, boxes, message):
    elements = [{"bbox": [0, 0, 1000, 500]}] * boxes
    with pytest.raises(ValueError, match=f"Apply FlexIP has {message}"):
        region_from(mask, elements, "Apply FlexIP")


# 2. Only the returned clone changes


def test_upstream_model_and_prompts_stay_as_they_were(world, base):
    first = world.apply()
    before = world.draw(first)
    prompts = (first.positive, first.negative)
    second = world.apply("plus", first.model, seed=5, prompts=prompts)
    assert not torch.equal(world.draw(second), before)
    assert torch.equal(world.draw(first), before)
    assert torch.equal(world.draw_base(), base)
    assert KEY not in world.model.model_options["transformer_options"].get("patches", {})
    assert "model_conds" not in world.positive[0][1]


# 3. Composition


def test_two_people_in_any_order_give_the_same_bits(world):
    def both(*parts):
        applied = None
        for adapter, seed, mask in parts:
            model = applied and applied.model
            prompts = applied and (applied.positive, applied.negative)
            applied = world.apply(adapter, model, seed, prompts, mask=mask)
        return world.draw(applied)

    one, two = ("flexip", 1, left()), ("plus", 2, None)
    assert torch.equal(both(one, two), both(two, one))
    assert not torch.equal(both(one, two), both(one))


def test_a_lora_on_the_base_is_in_the_queries_and_the_output(world, monkeypatch):
    state = world.model.model.state_dict()
    names = [key for key in state if key.endswith(("attn2.to_q.weight", "attn2.to_out.0.weight"))]
    generator = torch.Generator().manual_seed(3)
    patches = {n: ("diff", (torch.randn(state[n].shape, generator=generator),)) for n in names}
    drawn = []
    for folded in (True, False):
        monkeypatch.setattr(
            "flexid.model_patches.inject.decoupled.folding_pays", lambda *sizes, on=folded: on
        )
        applied = world.apply()
        applied.model.add_patches(patches, 0.1)
        drawn.append(world.draw(applied))
    torch.testing.assert_close(*drawn, atol=2e-4, rtol=1e-4)
    assert not torch.allclose(drawn[0], world.draw(world.apply()), atol=1e-3)


def reads_of(model, positive, negative):
    """What the first attention of the middle block returns in each call of one step."""
    seen = []

    def spy(n, extra):
        if extra["block"][0] == "middle" and extra["block_index"] == 0:
            seen.append(n.clone())
        return n

    watched = model.clone()
    watched.set_model_attn2_output_patch(spy)
    tiny_unet.sample(watched, positive, negative, steps=1, cfg=3.0)
    return seen


def test_a_lora_of_one_prompt_is_in_that_prompts_queries(world):
    """ComfyUI's weight hooks: the two prompts of a step see different weights."""
    import comfy.hooks

    name = "diffusion_model.middle_block.1.transformer_blocks.0.attn2.to_q"
    shape = world.model.model.state_dict()[f"{name}.weight"].shape
    generator = torch.Generator().manual_seed(3)
    lora = {
        f"{name}.lora_up.weight": torch.randn(shape[0], 4, generator=generator),
        f"{name}.lora_down.weight": torch.randn(4, shape[1], generator=generator),
    }
    applied = world.apply("plus", value=1.0)
    hooks = comfy.hooks.create_hook_lora(lora, 1.0, 0.0)
    hooked = comfy.hooks.set_hooks_for_conditioning(applied.positive, hooks)
    both = reads_of(applied.model, hooked, applied.negative)
    loaded = applied.model.clone()
    loaded.add_patches(comfy.lora.load_lora(lora, {name: f"{name}.weight"}), 1.0)
    patched = reads_of(loaded, applied.positive, applied.negative)[0]
    plain = reads_of(applied.model, applied.positive, applied.negative)[0]
    assert sorted(len(rows) for rows in both) == [1, 1] and len(patched) == len(plain) == 2
    for want in (patched[1:], plain[:1]):
        assert min((rows - want).abs().max() for rows in both) < 1e-3
    assert (patched - plain).abs().max() > 1e-2


def test_it_composes_with_a_pack_that_replaces_attention(world):
    def replace(q, k, v, extra):
        heads = extra["n_heads"]
        split = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        return 0.5 * nn.functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)

    def replaced(model):
        clone = model.clone()
        clone.set_model_attn2_replace(replace, "middle", 0, 0)
        return clone

    before = world.draw(world.apply(model=replaced(world.model)))
    applied = world.apply()
    after = tiny_unet.sample(
        replaced(applied.model), applied.positive, applied.negative, steps=2, cfg=3.0
    )
    assert torch.equal(before, after)
    assert not torch.equal(before, world.draw(applied))


def test_a_compiled_model_follows_a_gate_that_opens_later(tmp_path):
    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from comfy_extras.nodes_torch_compile import skip_torch_compile_dict

    world = World("sd15", tmp_path)
    applied = world.apply(preserve_gate=LATE, personal_gate=LATE)
    compiled = applied.model.clone()
    torch.compiler.reset()
    unguarded = {"guard_filter_fn": skip_torch_compile_dict}
    set_torch_compile_wrapper(model=compiled, backend="eager", options=unguarded)
    out = tiny_unet.sample(compiled, applied.positive, applied.negative, steps=2, cfg=3.0)
    torch.testing.assert_close(out, world.draw(applied), atol=1e-3, rtol=1e-4)


# 4. Batches, guiders, prompts


def test_each_picture_of_a_batch_is_drawn_as_alone(world):
    applied = world.apply()
    single = first_read(applied)
    batch = first_read(applied, batch=3)
    torch.testing.assert_close(batch[3:4], single[1:2], atol=1e-4, rtol=1e-4)


def test_a_long_prompt_and_two_prompts_share_a_call(world):
    prompts = (world.prompt(1, 2) + world.prompt(3), world.negative)
    applied = world.apply(prompts=prompts)
    together = first_read(applied)
    assert len(together) == 3
    # ComfyUI puts the rows of later prompts first.
    rows = {0: 2, 1: 1}
    for number, row in rows.items():
        alone = world.apply(prompts=(prompts[0][number : number + 1], world.negative))
        torch.testing.assert_close(together[row], first_read(alone)[1], atol=1e-4, rtol=1e-4)


def test_a_batch_of_texts_gives_each_picture_its_own(world):
    entry, other = world.prompt(1)[0], world.prompt(3)[0]
    extra = dict(entry[1])
    if "pooled_output" in extra:
        extra["pooled_output"] = torch.cat([extra["pooled_output"], other[1]["pooled_output"]])
    both = [[torch.cat([entry[0], other[0]]), extra]]
    read = first_read(world.apply(prompts=(both, world.negative)), batch=2)
    alone = first_read(world.apply(prompts=(world.prompt(3), world.negative)), batch=2)
    torch.testing.assert_close(read[3], alone[3], atol=1e-4, rtol=1e-4)
    assert not torch.allclose(read[2], read[3], atol=1e-3)


def test_a_prompt_for_an_area_outside_the_mask_gets_nothing(world):
    """The mask covers the left half, the second prompt a corner of the right one."""
    corner = world.prompt(3)
    corner[0][1]["area"] = (4, 4, 0, 4)
    applied = world.apply(prompts=(world.positive + corner, world.negative), mask=left())
    unbound = [applied.positive[0], corner[0]]
    without = type(applied)(applied.model, unbound, applied.negative, "")
    assert torch.equal(world.draw(applied), world.draw(without))
    inside = world.prompt(3)
    inside[0][1]["area"] = (4, 4, 0, 0)
    applied = world.apply(prompts=(world.positive + inside, world.negative), mask=left())
    without = type(applied)(applied.model, [applied.positive[0], inside[0]], applied.negative, "")
    assert not torch.equal(world.draw(applied), world.draw(without))


def test_prompts_are_told_by_where_they_passed_under_any_guider(world):
    """DualCFG numbers the negative prompt 0; the photo still stays out of it."""
    from comfy_extras.nodes_custom_sampler import DualCFGGuider

    applied = world.apply("plus", value=1.0)
    guider = DualCFGGuider.execute(
        applied.model, applied.positive, applied.positive, applied.negative, 1.0, 3.0, "regular"
    ).args[0]
    latent = torch.zeros(1, 4, 8, 8)
    noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(0))
    sigmas = comfy.samplers.calculate_sigmas(
        applied.model.get_model_object("model_sampling"), "normal", 2
    )
    sampler = comfy.samplers.sampler_object("euler")
    dual = guider.sample(noise, latent, sampler, sigmas, disable_pbar=True, seed=0)
    torch.testing.assert_close(dual, world.draw(applied), atol=1e-3, rtol=1e-3)


def test_a_prompt_that_did_not_pass_through_is_left_alone(world):
    applied = world.apply("plus", value=1.0)
    mixed = first_read(type(applied)(applied.model, applied.positive, world.negative, ""))
    plain = first_read(world.apply(strength=0.0))
    assert torch.equal(mixed[0], plain[0]) and not torch.equal(mixed[1], plain[1])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_close(world, dtype):
    """At one site: what is added, against float32."""
    from flexid.model_patches.inject.decoupled import _make_layers
    from flexid.model_patches.inject.unet import cross_attention_of

    share = world.apply(value=1.0).positive[0][1]["model_conds"][KEY].prompt.payloads["flexip"][0]
    found = {}
    for kind in (torch.float32, dtype):
        unet = MODELS[world.kind]().model.diffusion_model.to(kind)
        call = type("C", (), {"diffusion_model": unet, "device": torch.device("cpu")})()
        call.dtype, call.has_hooks = kind, False
        layers = _make_layers(call, [share.preserve], always_fold=True)[0]
        site, attention = next(cross_attention_of(unet))
        generator = torch.Generator().manual_seed(0)
        image = torch.randn(1, 16, attention.to_q.in_features, generator=generator)
        found[kind] = layers[site](image.to(kind)).float()
    error = (found[dtype] - found[torch.float32]).norm() / found[torch.float32].norm()
    assert error < {torch.float16: 4e-3, torch.bfloat16: 4e-2}[dtype]


# 5. Queueing again, interrupting


def test_the_same_run_twice_is_the_same_picture(world):
    applied = world.apply(preserve_gate=LATE, mask=left() * 0.5)
    assert torch.equal(world.draw(applied), world.draw(applied))


def test_interrupting_leaves_nothing_behind(world, base):
    applied = world.apply(mask=left())
    before = world.draw(applied)
    stopped = applied.model.clone()

    def stop(n, extra):
        raise comfy.model_management.InterruptProcessingException

    stopped.set_model_attn2_output_patch(stop)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        tiny_unet.sample(stopped, applied.positive, applied.negative)
    assert RUN not in applied.model.model_options["transformer_options"]
    assert torch.equal(world.draw(applied), before)
    assert torch.equal(world.draw_base(), base)


# 6, 7. Memory, and no work but the residuals inside a block


def test_no_adapter_weight_is_needed_while_sampling(world):
    applied = world.apply()
    comfy.model_management.unload_all_models()
    world.draw(applied)
    loaded = [entry.model for entry in comfy.model_management.current_loaded_models]
    assert world.adapters["flexip"].encoder not in loaded


def test_moving_the_slider_runs_no_encoder(world, monkeypatch):
    world.apply(value=0.3)

    def fail(*args):
        raise AssertionError("the resampler ran again")

    monkeypatch.setattr("flexid.model_patches.inject.flexip_shares.make_personal", fail)
    world.apply(value=0.7)


@pytest.mark.parametrize("fusion", ["outputs", "joint"])
def test_a_block_only_computes(world, monkeypatch, tmp_path, fusion):
    ops = watch_sites(monkeypatch)
    adapter = flexip_world.flexip(tmp_path, world.model, fusion=fusion)
    world.draw(world.apply(adapter, mask=left() * 0.5))
    assert "index_add_" in ops.names
    forbidden = {"_local_scalar_dense", "item", "nonzero", "_to_copy", "interpolate", "ones"}
    assert not ops.names & forbidden


def test_a_closed_gate_reaches_no_block(world):
    seen = []

    def spy(n, extra):
        seen.append(bool(extra[CALL].added))
        return n

    applied = world.apply(preserve_gate=LATE, personal_gate=LATE)
    watched = applied.model.clone()
    watched.set_model_attn2_output_patch(spy)
    tiny_unet.sample(watched, applied.positive, applied.negative, steps=4)
    count = len(seen) // 4
    assert not any(seen[: 2 * count]) and all(seen[2 * count :])


def test_the_cheaper_kernel_is_used(world):
    """Folding pays for 77 tokens where a block of 64 channels has one head, as SDXL has here, and
    not for 6 where one of 32 has 8 heads, as SD 1.5 has."""
    kinds = set()

    def spy(n, extra):
        for terms in extra[CALL].added.values():
            kinds.update(type(layer) for term in terms for layer in term.layers.values())
        return n

    applied = world.apply()
    watched = applied.model.clone()
    watched.set_model_attn2_output_patch(spy)
    tiny_unet.sample(watched, applied.positive, applied.negative, steps=1)
    assert kinds == {{"sd15": BaseAttention, "sdxl": FoldedAttention}[world.kind]}


# The other ways in which the streams meet


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_joint_softmax_ends_in_one_stream(world, tmp_path, value):
    joint = flexip_world.flexip(tmp_path, world.model, fusion="joint")
    torch.testing.assert_close(
        world.draw(world.apply(joint, value=value)),
        world.draw(world.apply(value=value)),
        atol=1e-4,
        rtol=1e-4,
    )
    middle = world.draw(world.apply(joint))
    assert not torch.allclose(middle, world.draw(world.apply()), atol=1e-4)


def test_mixed_tokens_refuse_a_long_prompt(world, tmp_path):
    adapter = flexip_world.flexip(tmp_path, world.model, latents=76, fusion="tokens")
    assert world.draw(world.apply(adapter)).isfinite().all()
    with pytest.raises(ValueError, match="has 154 tokens.*reads 77.*keep it short"):
        world.apply(adapter, prompts=(world.prompt(1, 2), world.negative))


def test_a_stream_on_the_text_adds_no_attention(world, base, tmp_path):
    adapter = flexip_world.flexip(tmp_path, world.model, personal_path="text")
    follow = world.apply(adapter, value=0.0)
    assert not torch.equal(world.draw(follow), base)
    positive, negative = (
        entries[0][1]["model_conds"][KEY].prompt.payloads["flexip"]
        for entries in (follow.positive, follow.negative)
    )
    assert len(positive) == 1 and negative == ()
    assert positive[0].direction is not None
    assert positive[0].preserve is None and positive[0].personal == ()
    late = world.apply(adapter, value=0.0, personal_gate=CLOSED)
    assert torch.equal(world.draw(late), base)


# FaceID's LoRA


def test_faceid_patches_weights_by_a_strength_of_their_own(world, base, tmp_path):
    adapter = flexip_world.ip_adapter(tmp_path, world.model, "faceid")
    off = world.apply(adapter, strength=0.0, lora_strength=0.0)
    assert torch.equal(world.draw(off), base)
    only = world.apply(adapter, strength=0.0, lora_strength=1.0)
    drawn = world.draw(only)
    assert not torch.equal(drawn, base) and torch.equal(world.draw_base(), base)
    weights = [patches for patches in only.model.patches.values()]
    assert len(weights) == len(adapter.lora) // 2
    assert not torch.equal(world.draw(world.apply(adapter)), drawn)


# 9. What does not fit is refused


def test_a_model_without_its_prompts_is_refused(world):
    applied = world.apply()
    with pytest.raises(RuntimeError, match="Apply FlexIP, but 0 of the run's prompts do"):
        tiny_unet.sample(applied.model, world.positive, world.negative)


def test_an_identity_of_another_file_is_refused(world):
    flexip, plus = world.adapters["flexip"], world.adapters["plus"]
    with pytest.raises(ValueError, match="made by the encoder .*Encode the photo with this"):
        apply_flexip(world.model, world.positive, world.negative, flexip, flexip_world.person(plus))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"value": 1.5}, r"The balance is 1.5; expected .*\[0, 1\]"),
        ({"strength": 3.0}, r"The strength of Apply FlexIP is 3; expected .*\[0, 2\]"),
        ({"lora_strength": float("nan")}, "LoRA strength of Apply FlexIP is nan"),
        ({"law": "square"}, "Unknown balance law 'square'"),
        ({"mask": torch.full((1, 8, 8), 2.0)}, r"mask has values from 2 to 2"),
    ],
    ids=["balance", "strength", "lora", "law", "mask"],
)
def test_numbers_out_of_range_are_refused(world, options, message):
    with pytest.raises(ValueError, match=message):
        world.apply(**options)


def test_a_prompt_that_does_not_fit_is_refused(world):
    text, extra = world.prompt(1)[0]
    cases = [
        (text[..., :-1], r"positive prompt 1 holds text of shape .*reads \(batch, tokens"),
        (text[:, :70], "positive prompt 1 has 70 tokens; .*a multiple of 77"),
    ]
    for bad, message in cases:
        with pytest.raises(ValueError, match=message):
            world.apply(prompts=([[bad, extra]], world.negative))
    with pytest.raises(ValueError, match="negative prompt 1 holds text of shape"):
        world.apply(prompts=(world.positive, [[text[0], extra]]))


def test_an_adapter_of_another_model_is_refused(tmp_path):
    small, large = tiny_unet.sd15(), tiny_unet.sdxl()
    for make in (flexip_world.flexip, flexip_world.ip_adapter):
        adapter = make(tmp_path, large)
        prompt = tiny_unet.conditioning(1)
        with pytest.raises(ValueError, match="layers for 8 blocks; this model has 4 blocks"):
            apply_flexip(small, prompt, prompt, adapter, flexip_world.person(adapter))


def test_another_text_width_is_refused(tmp_path):
    import ip_files
    from flexid.model_patches.adapters.ip_adapter import load_ip_adapter

    tokens = ip_files.token_shapes("base", width=48, pooled=24)
    shapes = ip_files.layer_shapes([32, 32, 32, 32], 48)
    path = ip_files.write(tmp_path / "x.safetensors", ip_files.tensors_of(tokens, shapes))
    adapter, prompt = load_ip_adapter(path), tiny_unet.conditioning(1)
    with pytest.raises(ValueError, match="text of 48 channels and 32 at .*this model has 64 and"):
        apply_flexip(tiny_unet.sd15(), prompt, prompt, adapter, flexip_world.person(adapter))


def test_a_flux_is_refused(tmp_path):
    import tiny

    adapter = flexip_world.ip_adapter(tmp_path, tiny_unet.sd15())
    with pytest.raises(ValueError, match="Apply FlexIP needs a Stable Diffusion UNet.*Flux"):
        apply_flexip(tiny.flux(), [], [], adapter, flexip_world.person(adapter))
