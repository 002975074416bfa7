"""SIP's laws on SDXL: both text streams move, each by its own fuser; the pooled text does not."""

import comfy.patcher_extension
import people
import pytest
import tiny_unet
import torch
from flexid.mini import random_faceclip
from flexid.model_patches.encoders.faceclip import load_faceclip
from flexid.model_patches.face.align import FFHQ_512
from flexid.model_patches.gates.gate import Gate
from flexid.model_patches.gates.window import Window
from flexid.model_patches.inject.sip import Wording, apply_sip
from flexid.model_patches.sip.faceclip import FaceClipProjector
from flexid.model_patches.sip.projector import encode_sip
from identities import identity_of

pytestmark = pytest.mark.comfy

APPLY_MODEL = comfy.patcher_extension.WrappersMP.APPLY_MODEL
CLOSED = Gate((Window(points=((0.0, 0.0),)),))
ONES = Gate((Window(),))
SLOPE = Gate((Window(points=((0.0, 1.5), (1.0, 0.5))),))
SHORT = Wording(None, "a person reading in the rain")
L, G = slice(0, tiny_unet.STREAMS[0]), slice(tiny_unet.STREAMS[0], None)
POSITIVE, NEGATIVE = tiny_unet.conditioning_xl(1), tiny_unet.conditioning_xl(2)


@pytest.fixture(scope="module")
def model():
    return tiny_unet.sdxl()


@pytest.fixture(scope="module")
def base(model):
    return tiny_unet.sample(model, POSITIVE, NEGATIVE)


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    path = tmp_path_factory.mktemp("pair") / "face_clip_encoder.pt"
    random_faceclip.write_face_clip(path, 2, tiny_unet.STREAMS)
    return FaceClipProjector(load_faceclip(path))


@pytest.fixture(scope="module")
def person(pair):
    return encode_sip(pair, [people.face(0, points=torch.tensor(FFHQ_512, dtype=torch.float32))])


@pytest.fixture
def apply(pair, person):
    def apply_it(conditioning, who=person, wording=SHORT, **options):
        settings = {"weight": 0.1, "wording": wording, **options}
        return apply_sip(conditioning, pair, who, **settings)

    return apply_it


def watched(model):
    """A clone that records (sigma, text, pooled text with sizes) of each call."""
    seen = []

    def spy(executor, x, t, c_concat=None, c_crossattn=None, *args, **conds):
        seen.append((t[0].item(), c_crossattn.clone(), conds["y"].clone()))
        return executor(x, t, c_concat, c_crossattn, *args, **conds)

    clone = model.clone()
    clone.add_wrapper_with_key(APPLY_MODEL, "spy", spy)
    return clone, seen


def test_it_is_sdxl_and_reads_both_streams_and_the_pooled_text(model, base):
    assert type(model.model).__name__ == "SDXL" and base.isfinite().all()
    for part in (L, G):
        other = tiny_unet.conditioning_xl(1)
        other[0][0][..., part] *= 1.5
        assert not torch.equal(tiny_unet.sample(model, other, NEGATIVE), base)
    other = tiny_unet.conditioning_xl(1)
    other[0][1]["pooled_output"] *= 1.5
    assert not torch.equal(tiny_unet.sample(model, other, NEGATIVE), base)


@pytest.mark.parametrize("gate", [None, CLOSED, SLOPE], ids=["constant", "closed", "slope"])
def test_alpha_0_is_bit_identical(model, base, apply, gate):
    applied = apply(POSITIVE, weight=0.0, gate=gate, model=model)
    assert torch.equal(applied.conditioning[0][0], POSITIVE[0][0])
    assert torch.equal(tiny_unet.sample(applied.model, applied.conditioning, NEGATIVE), base)


def test_a_closed_gate_and_nobody_s_face_are_bit_identical(model, base, apply, pair):
    nobody = identity_of({pair.family: pair.nobody()})
    for options in ({"gate": CLOSED}, {"who": nobody}, {"who": nobody, "gate": SLOPE}):
        done = apply(POSITIVE, model=model, **options)
        assert torch.equal(tiny_unet.sample(done.model, done.conditioning, NEGATIVE), base)


@pytest.mark.parametrize("sampler", ["euler", "heun"])
def test_an_open_gate_is_the_constant_bit_for_bit(model, apply, sampler):
    constant = apply(POSITIVE).conditioning
    expected = tiny_unet.sample(model, constant, NEGATIVE, sampler=sampler)
    gated = apply(POSITIVE, gate=ONES, model=model)
    out = tiny_unet.sample(gated.model, gated.conditioning, NEGATIVE, sampler=sampler)
    assert torch.equal(out, expected)
    assert not torch.equal(out, tiny_unet.sample(model, POSITIVE, NEGATIVE, sampler=sampler))


def test_alpha_is_the_relative_change_of_a_token_over_both_streams(apply):
    moved = apply(POSITIVE, scope="all").conditioning[0][0] - POSITIVE[0][0]
    alive = moved.norm(dim=-1) > 0
    shares = (moved.norm(dim=-1) / POSITIVE[0][0].norm(dim=-1))[alive]
    torch.testing.assert_close(shares, torch.full_like(shares, 0.1), atol=1e-4, rtol=0)
    assert alive.float().mean() > 0.9
    assert moved[..., L].norm() > 0 and moved[..., G].norm() > 0


@pytest.mark.parametrize("stream", [L, G], ids=["CLIP-L", "bigG"])
def test_each_stream_follows_its_own_tower(apply, pair, person, stream):
    """A face in one tower's rows alone moves that tower's channels alone."""
    tokens = pair.nobody().clone()
    half = tokens.shape[1] // 2
    rows = slice(0, half) if stream is L else slice(half, None)
    tokens[:, rows] = person.encodings[pair.family].tokens[:, rows]
    one_sided = identity_of({pair.family: tokens}, {pair.family: pair.nobody()})
    both = apply(POSITIVE, weight=1.0, norm="none").conditioning[0][0] - POSITIVE[0][0]
    direction = apply(POSITIVE, one_sided, weight=1.0, norm="none").conditioning[0][0]
    direction = direction - POSITIVE[0][0]
    assert torch.equal(direction[..., stream], both[..., stream]) and direction[..., stream].any()
    assert not direction[..., G if stream is L else L].any()


@pytest.mark.parametrize("sampler,calls", [("euler", 5), ("heun", 9), ("dpmpp_2m", 5)])
@pytest.mark.parametrize("denoise", [1.0, 0.6])
def test_alpha_at_the_models_input_is_the_formula(model, apply, sampler, calls, denoise):
    applied = apply(POSITIVE, gate=SLOPE, model=model)
    clone, seen = watched(applied.model)
    options = {"sampler": sampler, "steps": 5, "denoise": denoise}
    tiny_unet.sample(clone, applied.conditioning, NEGATIVE, **options)
    assert len(seen) == calls
    sampling = model.get_model_object("model_sampling")
    direction = 2 * (apply(POSITIVE, weight=0.5).conditioning[0][0] - POSITIVE[0][0])[0]
    alphas = []
    for sigma, text, _ in seen:
        percent = 1 - sampling.timestep(torch.tensor(sigma)).item() / 999
        expected = POSITIVE[0][0][0] + 0.1 * (1.5 - percent) * direction
        torch.testing.assert_close(text[1], expected, atol=3e-4, rtol=0)
        alphas.append(((text[1] - POSITIVE[0][0][0]) * direction).sum() / direction.square().sum())
    assert max(alphas) > 1.1 * min(alphas)


def test_under_cfg_only_the_positive_text_moves_and_no_pooled_text(model, apply):
    """One call holds both prompts; the pooled text is the prompt's own in each row."""
    applied = apply(POSITIVE, gate=ONES, model=model)
    clone, seen = watched(applied.model)
    tiny_unet.sample(clone, applied.conditioning, NEGATIVE, cfg=7.0)
    plain, before = watched(model)
    tiny_unet.sample(plain, POSITIVE, NEGATIVE, cfg=7.0)
    assert len(seen) == len(before) == 4
    for (_, text, pooled), (_, text_before, pooled_before) in zip(seen, before, strict=True):
        assert torch.equal(text[0], text_before[0]) and torch.equal(text[0], NEGATIVE[0][0][0])
        assert torch.equal(text[1], apply(POSITIVE).conditioning[0][0][0])
        assert torch.equal(pooled, pooled_before)
        width = tiny_unet.STREAMS[1]
        assert torch.equal(pooled[0, :width], NEGATIVE[0][1]["pooled_output"][0])
        assert torch.equal(pooled[1, :width], POSITIVE[0][1]["pooled_output"][0])


def test_the_negative_can_have_its_own(model, apply):
    first = apply(POSITIVE, gate=ONES, model=model)
    away = apply(NEGATIVE, weight=-0.05, gate=ONES, model=first.model)
    clone, seen = watched(away.model)
    tiny_unet.sample(clone, first.conditioning, away.conditioning, steps=1)
    negative, positive = seen[0][1]
    assert torch.equal(positive, apply(POSITIVE).conditioning[0][0][0])
    assert torch.equal(negative, apply(NEGATIVE, weight=-0.05).conditioning[0][0][0])


def test_a_long_prompt_next_to_a_short_negative(model, apply):
    long = tiny_unet.conditioning_xl(3, chunks=2)
    wording = Wording(None, "word " * 100)
    applied = apply(long, wording=wording, gate=ONES, model=model)
    clone, seen = watched(applied.model)
    out = tiny_unet.sample(clone, applied.conditioning, NEGATIVE, steps=1)
    constant = apply(long, wording=wording).conditioning
    assert [text.shape for _, text, _ in seen] == [(2, 154, sum(tiny_unet.STREAMS))]
    assert torch.equal(seen[0][1][1], constant[0][0][0])
    assert torch.equal(out, tiny_unet.sample(model, constant, NEGATIVE, steps=1))


def test_a_projector_of_one_stream_is_refused(tmp_path, person):
    """FaceT5 is 64 wide here: it fits neither stream's place in 192 channels."""
    random_faceclip.write_face_t5(tmp_path / "face_t5_encoder.pt", 1)
    t5 = FaceClipProjector(load_faceclip(tmp_path / "face_t5_encoder.pt"))
    who = encode_sip(t5, [people.face(0, points=torch.tensor(FFHQ_512, dtype=torch.float32))])
    with pytest.raises(ValueError, match="192 wide.*t5 64.*face_clip_encoder.pt with SDXL"):
        apply_sip(POSITIVE, t5, who, wording=SHORT)
