"""The laws every injection keeps, for VFA on SDXL, on a small UNet in real ComfyUI."""

import comfy.model_management
import pulid_world
import pytest
import tiny
import tiny_unet
import torch
from flexid.model_patches.adapters.pulid_sdxl import FAMILY
from flexid.model_patches.gates.gate import Gate
from flexid.model_patches.gates.window import Window
from flexid.model_patches.inject.call import CALL
from flexid.model_patches.inject.run import KEY, RUN
from flexid.model_patches.inject.vfa import apply_vfa
from identities import identity_of
from torch import nn
from torch_ops import watch_sites

pytestmark = pytest.mark.comfy

CLOSED = Gate((Window(points=((0.0, 0.0),)),))
LATE = Gate((Window(0.5, 1.0, "progress"),))
POSITIVE, NEGATIVE = tiny_unet.conditioning_xl(1), tiny_unet.conditioning_xl(2)
WIDTH = sum(tiny_unet.STREAMS)


@pytest.fixture(scope="module")
def model():
    return tiny_unet.sdxl()


@pytest.fixture(scope="module")
def adapter(model, tmp_path_factory):
    return pulid_world.sdxl_adapter(tmp_path_factory.mktemp("pulid"), model)


@pytest.fixture(scope="module")
def person(adapter):
    return pulid_world.somebody(adapter)


def sample(model, **options):
    return tiny_unet.sample(model, POSITIVE, NEGATIVE, **{"steps": 2, "cfg": 3.0, **options})


@pytest.fixture(scope="module")
def base(model):
    return sample(model)


def left(size=64):
    mask = torch.zeros(1, size, size)
    mask[:, :, : size // 2] = 1
    return mask


def first_read(model, **options):
    """What the first cross-attention returns in the first step."""
    return tiny_unet.first_read(model, lambda watched: sample(watched, steps=1, **options))


@pytest.mark.parametrize(
    "options",
    [{"weight": 0.0}, {"gate": CLOSED}, {"mask": torch.zeros(1, 64, 64)}],
    ids=["weight 0", "closed gate", "empty mask"],
)
def test_neutral_is_bit_identical(model, base, adapter, person, options):
    assert torch.equal(sample(apply_vfa(model, adapter, person, **options)), base)


@pytest.mark.parametrize("method", ["fidelity", "style", "neutral"])
def test_every_method_draws_another_picture(model, base, adapter, person, method):
    out = sample(apply_vfa(model, adapter, person, method=method))
    assert (out - base).abs().mean() > 0.003 * base.std()
    other = {"fidelity": "style", "style": "neutral", "neutral": "fidelity"}[method]
    assert not torch.allclose(out, sample(apply_vfa(model, adapter, person, method=other)))


def test_all_one_mask_is_no_mask(model, adapter, person):
    masked = sample(apply_vfa(model, adapter, person, mask=torch.ones(3, 50)))
    assert torch.equal(masked, sample(apply_vfa(model, adapter, person)))


def test_only_covered_tokens_change(model, adapter, person):
    plain, masked, whole = (
        first_read(one)
        for one in (
            model,
            apply_vfa(model, adapter, person, mask=left()),
            apply_vfa(model, adapter, person),
        )
    )
    side = int(plain.shape[1] ** 0.5)
    changed = ((masked - plain).abs().sum(-1) > 0).unflatten(1, (side, side))
    assert changed[..., : side // 2].all() and not changed[..., side // 2 :].any()
    covered = changed[0].flatten()
    torch.testing.assert_close(masked[:, covered], whole[:, covered], atol=1e-5, rtol=1e-5)


def test_only_the_returned_clone_changes(model, base, adapter, person):
    first = apply_vfa(model, adapter, person)
    before = sample(first)
    second = apply_vfa(first, adapter, pulid_world.somebody(adapter, 7))
    assert not torch.equal(sample(second), before)
    assert torch.equal(sample(first), before) and torch.equal(sample(model), base)
    assert "attn2" not in model.model_options["transformer_options"].get("patches_replace", {})


def test_two_people_in_any_order_give_the_same_bits(model, adapter, person):
    other = pulid_world.somebody(adapter, 7)
    one = apply_vfa(apply_vfa(model, adapter, person, mask=left()), adapter, other, weight=0.7)
    two = apply_vfa(apply_vfa(model, adapter, other, weight=0.7), adapter, person, mask=left())
    assert torch.equal(sample(one), sample(two))


@pytest.mark.parametrize("depth", [0, None], ids=["three-part key", "two-part key"])
def test_a_pack_that_replaced_attention_before_is_kept(model, adapter, person, depth):
    calls = []

    def replace(q, k, v, extra):
        calls.append(extra["block_index"])
        heads = extra["n_heads"]
        split = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))
        return 0.5 * nn.functional.scaled_dot_product_attention(*split).transpose(1, 2).flatten(2)

    replaced = model.clone()
    key = () if depth is None else (depth,)
    replaced.set_model_attn2_replace(replace, "middle", 0, *key)
    sample(replaced, steps=1)
    alone = list(calls)
    out = sample(apply_vfa(replaced, adapter, person), steps=1)
    assert calls == alone * 2
    assert not torch.equal(out, sample(apply_vfa(model, adapter, person), steps=1))


def test_a_block_that_another_pack_took_over_is_an_error(model, adapter, person):
    patched = apply_vfa(model, adapter, person)
    patched.set_model_attn2_replace(lambda q, k, v, extra: q, "middle", 0, 0)
    with pytest.raises(RuntimeError, match="Apply VFA is on this model, but 7 of its 8"):
        sample(patched)


def test_a_pack_that_comes_later_and_would_be_hidden_is_an_error(model, adapter, person):
    """ComfyUI looks for a transformer block's own key first; that of its whole block is not used
    where Apply VFA has put one."""
    patched = apply_vfa(model, adapter, person)
    patched.set_model_attn2_replace(lambda q, k, v, extra: q, "middle", 0)
    with pytest.raises(RuntimeError, match="middle 0 .function. after Apply VFA.*before Apply VFA"):
        sample(patched)


def test_a_whole_blocks_owner_that_was_there_first_is_no_error_on_another_device(
    model, adapter, person
):
    """ComfyUI hands moved copies of both to a run."""

    class Owner:
        def __call__(self, q, k, v, extra):
            return q

        def to(self, device):
            return Owner()

    replaced = model.clone()
    replaced.set_model_attn2_replace(Owner(), "middle", 0)
    patched = apply_vfa(replaced, adapter, person)
    patched.model_patches_to(torch.device("cpu"))
    sample(patched, steps=1)


def test_the_negative_prompt_gets_nobody_the_same_or_nothing(model, adapter, person):
    plain = first_read(model)
    reads = {
        choice: first_read(apply_vfa(model, adapter, person, negative=choice))
        for choice in ("unconditional", "same", "none")
    }
    assert torch.equal(reads["none"][0], plain[0])
    assert not torch.equal(reads["same"][0], reads["unconditional"][0])
    assert torch.equal(reads["same"][1], reads["none"][1])
    # Row 0 is the negative prompt's; each row is projected by itself.
    alone = first_read(apply_vfa(model, adapter, person), cfg=1.0)
    torch.testing.assert_close(alone[0], reads["none"][1], atol=1e-4, rtol=1e-4)


def test_batches_and_long_prompts(model, adapter, person):
    patched = apply_vfa(model, adapter, person)
    single, batch = first_read(patched), first_read(patched, batch=3)
    torch.testing.assert_close(batch[3:4], single[1:2], atol=1e-4, rtol=1e-4)
    long = tiny_unet.conditioning_xl(1, 2)
    assert tiny_unet.sample(patched, long, NEGATIVE, steps=1).isfinite().all()


def test_the_same_run_twice_and_after_an_interrupt(model, base, adapter, person):
    patched = apply_vfa(model, adapter, person, gate=LATE, mask=left() * 0.5)
    before = sample(patched)
    stopped = patched.clone()

    def stop(n, extra):
        raise comfy.model_management.InterruptProcessingException

    stopped.set_model_attn2_output_patch(stop)
    with pytest.raises(comfy.model_management.InterruptProcessingException):
        sample(stopped)
    assert RUN not in patched.model_options["transformer_options"]
    assert torch.equal(sample(patched), before) and torch.equal(sample(model), base)


def test_a_block_only_computes(model, adapter, person, monkeypatch):
    ops = watch_sites(monkeypatch)
    sample(apply_vfa(model, adapter, person, mask=left() * 0.5), steps=1)
    assert "_softmax" in ops.names
    assert not ops.names & {"_local_scalar_dense", "item", "nonzero", "interpolate", "ones"}


def test_a_closed_gate_reaches_no_block(model, adapter, person):
    seen = []

    def spy(n, extra):
        seen.append(bool(extra[CALL].added))
        return n

    patched = apply_vfa(model, adapter, person, gate=LATE)
    patched.set_model_attn2_output_patch(spy)
    sample(patched, steps=4)
    half = len(seen) // 2
    assert not any(seen[:half]) and all(seen[half:])
    assert KEY in patched.model_options["transformer_options"]["patches"]


# What does not fit is refused


def test_the_other_kind_of_model_is_refused_both_ways(model, adapter, person):
    with pytest.raises(ValueError, match="Apply VFA needs a Stable Diffusion UNet.*is Flux"):
        apply_vfa(tiny.flux(), adapter, person)
    with pytest.raises(ValueError, match="needs a Flux.1 model.*this one is SDXL"):
        apply_vfa(model, tiny.adapter(), tiny.identity())
    with pytest.raises(ValueError, match="layers for 8 blocks; this model has 4 blocks"):
        apply_vfa(tiny_unet.sd15(), adapter, person)


def test_an_identity_of_another_encoder_is_refused(model, adapter):
    other = identity_of({FAMILY: torch.randn(1, 10, WIDTH)}, None, "another encoder")
    with pytest.raises(ValueError, match="made by the encoder another enco"):
        apply_vfa(model, adapter, other)
    with pytest.raises(ValueError, match="has tokens for: pulid_flux; .* needs pulid_sdxl"):
        apply_vfa(model, adapter, tiny.identity())
