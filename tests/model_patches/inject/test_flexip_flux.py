"""FlexIP on a Flux: what is trained is what runs, the laws of every injection, and refusals."""

import dataclasses

import flexip_world
import pytest
import tiny
import tiny_unet
import torch
from flexid.model_patches.adapters.flexip_file import load_flexip, save_flexip
from flexid.model_patches.adapters.flexip_settings import EVA, FLUX, FlexIPSettings
from flexid.model_patches.gates.gate import Gate
from flexid.model_patches.gates.window import Window
from flexid.model_patches.identity.identity import Encoding, Identity
from flexid.model_patches.inject.flexip import apply_flexip
from flexid.model_patches.inject.region import region_of
from flexid.model_patches.training.flexip_flux import FluxStreams, FluxWidths
from vfa_world import after_first_block, left

pytestmark = pytest.mark.comfy

BLOCKS = (("double_block", 0), ("single_block", 1), ("single_block", 3))
WIDTHS = FluxWidths(
    context=24, pooled=20, text=tiny.CONTEXT, hidden=256, heads=2, tokens=40, dim=64, depth=1
)
SETTINGS = FlexIPSettings(
    base=FLUX, context=EVA, cls="face_and_pooled", context_size=112, text_tokens=0, heads=2
)


def make_streams(personal=True, blocks=BLOCKS, **widths):
    torch.manual_seed(5)
    streams = FluxStreams(dataclasses.replace(WIDTHS, **widths), blocks, personal)
    with torch.no_grad():
        for layer in streams.layers:
            for side in filter(None, (layer.preserve, layer.personal)):
                side.to_kv.weight.normal_(std=0.3)
    return streams.requires_grad_(False)


def opened(folder, streams, name="flux", **settings):
    path = folder / f"{name}.safetensors"
    save_flexip(path, streams.tensors(), dataclasses.replace(SETTINGS, **settings))
    return load_flexip(path)


def features(seed=1):
    generator = torch.Generator().manual_seed(seed)
    return {
        "context": torch.randn(1, 9, WIDTHS.context, generator=generator),
        "pooled": torch.randn(1, WIDTHS.pooled, generator=generator),
    }


def person(adapter, streams, seed=1):
    seen = features(seed)
    nobody = {name: value * 0 for name, value in seen.items()}
    tokens = [streams.maker(one) for one in (seen, nobody)]
    made = Encoding("flexip", adapter.encoder_digest, *tokens, {"pooled": seen["pooled"]})
    return Identity({"flexip": made})


class World:
    def __init__(self, folder):
        self.folder = folder
        self.model = tiny.flux()
        self.streams = make_streams()
        self.adapter = opened(folder, self.streams)
        self.prompts = tiny.conditioning(10), tiny.conditioning(11)

    def apply(self, model=None, prompts=None, seed=1, mask=None, **options):
        region = None if mask is None else region_of(mask)
        identity = person(self.adapter, self.streams, seed)
        return apply_flexip(
            model or self.model, *(prompts or self.prompts), self.adapter, identity,
            region=region, **options,
        )  # fmt: skip

    def draw(self, applied, **options):
        settings = {"steps": 2, "cfg": 3.0, **options}
        prompts = {"positive": applied.positive, "negative": applied.negative}
        return tiny.sample(applied.model, **{**prompts, **settings})


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return World(tmp_path_factory.mktemp("flexip_flux"))


def test_what_is_trained_is_what_runs(world):
    """Both streams after the first block, at an uneven balance, against the trainer's module."""
    plain = after_first_block(world.model, positive=world.prompts[0])
    applied = world.apply(value=0.3)
    found = after_first_block(applied.model, positive=applied.positive)
    text = world.prompts[0][0][0]
    tokens = world.streams.make_tokens(features(), text)
    inject = world.streams.injections(tokens, torch.tensor([[0.3, 0.7]]))[BLOCKS[0]]
    torch.testing.assert_close(found - plain, inject(plain), atol=2e-5, rtol=1e-4)
    assert inject(plain).abs().max() > 0.1


def test_a_new_module_adds_nothing():
    torch.manual_seed(5)
    streams = FluxStreams(WIDTHS, BLOCKS)
    tokens = streams.make_tokens(features(), torch.randn(1, 7, WIDTHS.text))
    image = torch.randn(1, 4, WIDTHS.hidden)
    for inject in streams.injections(tokens, torch.ones(1, 2)).values():
        assert not inject(image).any()


def test_the_streams_of_a_file(world):
    adapter = world.adapter
    assert adapter.preserve.blocks == adapter.personal.blocks == BLOCKS
    assert (adapter.count, adapter.width, adapter.text_width, adapter.tokens) == (3, 40, 64, 17)
    assert adapter.describe() == (
        "FlexIP: 3 blocks of a Flux of width 256, 17 tokens, two streams; reads a recognised "
        "face and eva-clip"
    )


def test_neutral_is_exact(world):
    plain = tiny.sample(world.model, steps=2, cfg=3.0, positive=world.prompts[0])
    off = world.apply(strength=0.0)
    assert off.model is world.model
    assert off.positive[0] is world.prompts[0][0]
    empty = world.apply(mask=torch.zeros(1, 8, 8))
    assert torch.equal(world.draw(empty), plain)
    closed = world.apply(preserve_gate=CLOSED, personal_gate=CLOSED)
    assert torch.equal(world.draw(closed), plain)
    whole = world.draw(world.apply(mask=torch.ones(1, 8, 8)))
    assert torch.equal(whole, world.draw(world.apply()))
    assert not torch.equal(whole, plain)


CLOSED = Gate((Window(points=((0.0, 0.0),)),))


def test_both_ends_leave_one_stream_out(world):
    keep, follow = world.apply(value=1.0), world.apply(value=0.0)
    only_p = world.draw(world.apply(value=0.5, law="crossfade", personal_gate=CLOSED))
    only_s = world.draw(world.apply(value=0.5, law="crossfade", preserve_gate=CLOSED))
    assert torch.equal(world.draw(keep), only_p)
    assert torch.equal(world.draw(follow), only_s)
    assert not torch.equal(only_p, only_s)


def test_the_negative_prompt_gets_nobody(world):
    """Its own tokens and nobody's: the person changes the positive rows alone."""
    one, two = world.apply(seed=1), world.apply(seed=2)
    rows = [after_first_block(a.model, positive=a.positive, negative=a.negative, cfg=3.0)
            for a in (one, two)]  # fmt: skip
    apart = (rows[0] - rows[1]).abs().amax((1, 2))
    assert sorted(bool(value) for value in apart) == [False, True]


def test_a_mask_keeps_it_on_its_side(world):
    plain = after_first_block(world.model, positive=world.prompts[0])
    applied = world.apply(mask=left())
    changed = (after_first_block(applied.model, positive=applied.positive) - plain).abs().sum(-1)
    sides = changed[0].reshape(8, 8).sum(0) > 0
    assert sides.tolist() == [True] * 4 + [False] * 4


def test_the_order_of_two_people_changes_no_bit(world):
    masks = left(), 1 - left()
    pictures = []
    for order in ((0, 1), (1, 0)):
        model, prompts = world.model, world.prompts
        for number in order:
            done = world.apply(model, prompts, seed=number + 1, mask=masks[number])
            model, prompts = done.model, (done.positive, done.negative)
        pictures.append(world.draw(done))
    assert torch.equal(*pictures)


def test_rows_of_one_prompt_take_its_texts_in_turn(world):
    texts = [tiny.conditioning(seed) for seed in (10, 20)]
    joined = [[torch.cat([text[0][0] for text in texts]), texts[0][0][1]]]
    pooled = torch.cat([text[0][1]["pooled_output"] for text in texts])
    joined[0][1] = {**joined[0][1], "pooled_output": pooled}
    done = world.apply(prompts=(joined, world.prompts[1]), value=0.0)
    both = after_first_block(done.model, positive=done.positive, batch=2)
    for row, text in enumerate(texts):
        alone = world.apply(prompts=(text, world.prompts[1]), value=0.0)
        single = after_first_block(alone.model, positive=alone.positive, batch=2)[row]
        torch.testing.assert_close(both[row], single, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_and_an_odd_size(world, dtype):
    done = world.apply(tiny.flux(dtype))
    options = {"positive": done.positive, "negative": done.negative, "size": (17, 21)}
    assert torch.isfinite(tiny.sample(done.model, steps=1, cfg=2.0, **options)).all()


def test_a_file_without_personalisation_acts_as_an_ip_adapter(world):
    streams = make_streams(personal=False)
    adapter = opened(world.folder, streams, "plain")
    assert not adapter.has_personal and adapter.personal is None
    done = apply_flexip(world.model, *world.prompts, adapter, person(adapter, streams), value=1.0)
    assert "acts as an IP-Adapter of weight 1" in done.report
    assert not torch.equal(world.draw(done), tiny.sample(world.model, steps=2, cfg=3.0))


def test_weights_are_counted_and_loaded_by_comfyui(world):
    def models(**options):
        held = world.apply(**options).model.model_options["transformer_options"]["patches"]
        return [len(one.models()) for one in held["flexid"]]

    assert (models(), models(value=1.0), models(value=0.0)) == ([3], [2], [1])


def test_prompts_that_did_not_pass_are_an_error(world):
    with pytest.raises(RuntimeError, match="0 of the run's prompts do"):
        tiny.sample(world.apply().model, steps=1)


def test_models_that_do_not_fit(world, tmp_path):
    with pytest.raises(ValueError, match="needs a Flux.1 model .* this one is"):
        world.apply(tiny_unet.sd15())
    with pytest.raises(ValueError, match=r"among them single_block 3; .* 2 double and 2 single"):
        world.apply(tiny.flux(depth_single_blocks=2))
    with pytest.raises(ValueError, match=r"width 256 .* this model has 384 and 64"):
        world.apply(tiny.flux(hidden_size=384, num_heads=3))
    with pytest.raises(ValueError, match="text of 64 channels; this model has 256 and 48"):
        world.apply(tiny.flux(context_in_dim=48))
    with pytest.raises(ValueError, match="'style', which are known for Stable Diffusion only"):
        world.apply(blocks="style")
    unet = tiny_unet.sd15()
    other = flexip_world.flexip(tmp_path, unet)
    with pytest.raises(ValueError, match="Apply FlexIP needs"):
        apply_flexip(world.model, *world.prompts, other, flexip_world.person(other))


def test_prompts_and_people_that_do_not_fit(world):
    wrong = [[torch.zeros(1, 5, 48), {"pooled_output": torch.zeros(1, 32)}]]
    with pytest.raises(ValueError, match=r"positive prompt 1 holds .*\(1, 5, 48\).* 64"):
        world.apply(prompts=(wrong, world.prompts[1]))
    identity = person(world.adapter, world.streams)
    made = identity.encodings["flexip"]
    bare = Identity({"flexip": dataclasses.replace(made, extra={})})
    with pytest.raises(ValueError, match=r"class token is none, expected \(1, 20\)"):
        apply_flexip(world.model, *world.prompts, world.adapter, bare)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"heads": 0}, "says heads=0, expected the attention heads"),
        ({"heads": 3}, "attention width 256 and 3 heads"),
        ({"text_tokens": 77}, "text_tokens=77, expected 0"),
        ({"fusion": "joint"}, "fusion=joint, expected outputs"),
        ({"personal_path": "text"}, "personal_path=text, expected attention"),
        ({"cls": "projected"}, "cls=projected, expected face_and_pooled"),
        ({"context": "dinov2-large"}, "cls=face_and_pooled, expected projected or hidden"),
        ({"null": "pixels"}, "null=pixels, expected zeros"),
        ({"base": "sd15"}, "text_tokens=0, expected 77"),
    ],
)
def test_metadata_that_do_not_fit_are_refused(world, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        opened(tmp_path, world.streams, **change)


def test_tensors_that_do_not_fit_are_refused(world, tmp_path):
    whole = dict(world.streams.tensors())
    key = "blocks.single.1.personal.to_kv.weight"
    cases = [
        ({k: v for k, v in whole.items() if k != key}, "single.1.personal.to_kv.weight"),
        ({**whole, key: torch.full_like(whole[key], torch.nan)}, "single.1.personal"),
        ({**whole, "blocks.triple.1.to_q.weight": whole[key].clone()}, "names blocks.triple.1"),
        ({k: v for k, v in whole.items() if ".overall." not in k}, "without preserve.overall"),
    ]
    for tensors, message in cases:
        path = tmp_path / "x.safetensors"
        save_flexip(path, tensors, SETTINGS)
        with pytest.raises(ValueError, match=message):
            load_flexip(path)
