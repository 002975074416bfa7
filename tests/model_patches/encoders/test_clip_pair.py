"""CLIP's two halves: widths, projections, what of a text is read, how a picture is shown."""

import pytest
import tiny_vision
import torch
from flexid.mini import random_text
from flexid.model_patches.encoders.clip_pair import ROOM, pair_clip
from flexid.model_patches.encoders.clip_vision import look_at_pixels
from flexid.model_patches.encoders.mini_text import load_mini_clip
from flexid.model_patches.evaluate.pixels import clip_pixels, compat_clip_pixels
from flexid.model_patches.identity.compare_prompt import measure_prompt, want_prompt

pytestmark = pytest.mark.comfy

WIDTH = random_text.CLIP_CONFIG["projection_dim"]
LONG = " ".join(["a man laughs in the rain."] * 20)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    random_text.write_t5(folder / "t5.safetensors", 1)
    random_text.write_clip_l(folder / "clip_l.safetensors", 2)
    made = load_mini_clip(folder / "t5.safetensors", folder / "clip_l.safetensors")
    weight = made.cond_stage_model.clip_l.transformer.text_projection.weight
    weight.data = torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)).to(weight)
    return made


@pytest.fixture(scope="module")
def vision():
    return tiny_vision.vision({**tiny_vision.CLIP, "projection_dim": WIDTH})


@pytest.fixture(scope="module")
def pair(vision, clip):
    return pair_clip(vision, clip)


def picture(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (90, 120, 3), generator=generator).to(torch.uint8).numpy()


def test_the_text_is_comfyui_s_projected_pooled_output(pair, clip):
    tokens = clip.tokenize("a man laughs")["l"]
    encoder = clip.cond_stage_model.clip_l
    encoder.set_clip_options({"projected_pooled": True})
    wanted = encoder([[token for token, _ in tokens[0]]])[1]
    encoder.reset_clip_options()
    assert torch.equal(pair.embed_text("a man laughs"), wanted.float())
    plain = clip.encode_from_tokens(clip.tokenize("a man laughs"), return_pooled=True)[1]
    assert not torch.allclose(plain.float(), wanted.float()), "Flux's own output is not projected"
    assert not encoder.return_projected_pooled, "and stays so"


def test_brackets_weigh_nothing(pair):
    assert not torch.equal(pair.embed_text("a (man) laughs"), pair.embed_text("a man laughs"))
    assert pair._tokenize("(man:1.3)") != pair._tokenize("man")


def test_what_does_not_fit_is_cut_and_read_by_sentence(pair):
    assert pair.is_cut(LONG) and not pair.is_cut("a man laughs")
    ids = pair._tokenize(LONG)
    assert len(ids) == 20 * 7, "all chunks, without their ends"
    assert torch.equal(pair.embed_text(LONG), pair._encode(ids[:ROOM]))
    assert pair.embed_sentences("A man. A dog!").shape == (2, WIDTH)
    assert pair.embed_sentences("...").shape == (1, WIDTH)


def test_a_picture_is_shown_as_openai_s_code_or_as_ibench_does(pair, vision):
    wanted = look_at_pixels(vision, clip_pixels(picture())[None]).pooled
    assert torch.equal(pair.embed_picture(picture()), wanted)
    theirs = look_at_pixels(vision, compat_clip_pixels(picture())[None]).pooled
    assert torch.equal(pair.embed_picture(picture(), "compat"), theirs)
    assert not torch.equal(wanted, theirs)


def test_other_widths_and_kinds_are_refused_with_both_values(clip):
    with pytest.raises(ValueError, match=rf"features of 24 numbers, .* clip_l of {WIDTH}"):
        pair_clip(tiny_vision.vision(tiny_vision.CLIP), clip)
    with pytest.raises(ValueError, match="got a DINOv2 encoder, expected a CLIP encoder"):
        pair_clip(tiny_vision.vision(tiny_vision.DINO), clip)


@pytest.mark.parametrize(
    "weight, words",
    [
        (torch.zeros(WIDTH, WIDTH), "rows of zeros"),
        (torch.eye(WIDTH), "the unit matrix"),
        (torch.full((WIDTH, WIDTH), float("nan")), "not finite"),
    ],
)
def test_a_text_half_without_its_projection_is_refused(vision, clip, weight, words):
    parameter = clip.cond_stage_model.clip_l.transformer.text_projection.weight
    kept = parameter.data
    parameter.data = weight.to(kept)
    try:
        with pytest.raises(ValueError, match=rf"text_projection\.weight is .*{words}"):
            pair_clip(vision, clip)
    finally:
        parameter.data = kept


def test_alignment_of_a_picture_and_its_plain_twin(vision, clip, pair):
    asked = want_prompt(vision, clip, "a man laughs", "Compare Identity")
    found = measure_prompt(asked, [picture(), picture()], "corrected")
    assert found["clip_plain"].value == pytest.approx(1) and "prompt_sentences" not in found
    image, text = pair.embed_picture(picture()), pair.embed_text("a man laughs")
    cosine = torch.cosine_similarity(image.double(), text.double()).item()
    assert found["prompt"].value == pytest.approx(cosine, abs=1e-9)
    assert found["plain_prompt"].value == found["prompt"].value
    longer = want_prompt(vision, clip, LONG, "Compare Identity")
    assert measure_prompt(longer, [picture()], "compat").keys() == {"prompt", "prompt_sentences"}


def test_all_three_inputs_or_none(vision, clip):
    assert want_prompt(None, None, "  ", "Compare Identity") is None
    with pytest.raises(ValueError, match="1 of the 3 inputs .* lacks clip_vision, clip"):
        want_prompt(None, None, "a man", "Compare Identity")
    with pytest.raises(ValueError, match="2 of the 3 inputs .* lacks prompt"):
        want_prompt(vision, clip, "", "Compare Identity")
