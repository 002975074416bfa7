"""The Redux variant on a small Flux: what is appended, how low it is turned, what is refused."""

import math

import people
import pytest
import tiny
import torch
from flexid.model_patches.encoders.whiten import head_picture
from flexid.model_patches.sip.redux import apply_visual_sip

pytestmark = pytest.mark.comfy


class Vision:
    """Hands the picture on; the style model does the rest."""

    def encode_image(self, image, crop=True):
        return image


class Style:
    """81 tokens of the picture's own 9x9 thumbnail, spread over the width."""

    def __init__(self, width=64, count=81):
        self.width, self.count = width, count

    def get_cond(self, image):
        side = math.isqrt(self.count) or 1
        small = torch.nn.functional.interpolate(image.movedim(-1, 1), (side, side), mode="area")
        grey = small.mean(1).flatten()
        grey = torch.nn.functional.pad(grey, (0, self.count - grey.numel()))
        waves = torch.linspace(-2, 2, self.width)
        return (grey[:, None] * waves)[None]


def apply(conditioning, **options):
    faces = options.pop("faces", [people.face(0)])
    style = options.pop("style", Style())
    return apply_visual_sip(conditioning, style, Vision(), faces, **options)


def test_tokens_follow_the_text_and_the_rest_stays():
    text = tiny.conditioning(10)
    before = text[0][0].clone()
    done = apply(text, weight=0.1, side=3)
    out, extra = done.conditioning[0]
    assert out.shape == (1, 16 + 9, 64) and torch.equal(out[:, :16], before)
    assert torch.equal(text[0][0], before) and "attention_mask" not in text[0][1]
    grid = Style().get_cond(head_picture(people.face(0)))[0].T.reshape(64, 9, 9)
    torch.testing.assert_close(out[0, 16], grid[:, :3, :3].mean((1, 2)), atol=1e-5, rtol=1e-4)
    assert extra["attention_mask_img_shape"] == (1, 1)


@pytest.mark.parametrize("side", [1, 3, 5])
def test_together_they_weigh_alpha_in_attention(side):
    """exp(bias) over all appended columns sums to α; their own rows are not biased to others."""
    extra = apply(tiny.conditioning(10), weight=0.1, side=side).conditioning[0][1]
    mask = extra["attention_mask"].float()
    n = side * side
    assert mask.shape == (1, 16 + n + 1, 16 + n + 1)
    assert mask[0, 0, 16 : 16 + n].exp().sum().item() == pytest.approx(0.1, rel=1e-2)
    assert mask[0, -1, 16 : 16 + n].exp().sum().item() == pytest.approx(0.1, rel=1e-2)
    assert not mask[0, 16 : 16 + n].any() and not mask[0, :, :16].any() and not mask[0, :, -1].any()


def test_a_mask_that_is_there_is_kept():
    once = apply(tiny.conditioning(10), weight=0.1, side=2).conditioning
    twice = apply(once, weight=0.5, side=1).conditioning[0]
    mask = twice[1]["attention_mask"].float()
    assert twice[0].shape[1] == 21 and mask.shape == (1, 22, 22)
    assert mask[0, 0, 16:20].exp().sum().item() == pytest.approx(0.1, rel=1e-2)
    assert mask[0, 0, 20].exp().item() == pytest.approx(0.5, rel=1e-2)
    assert mask[0, -1, 16:20].exp().sum().item() == pytest.approx(0.1, rel=1e-2)
    booleans = torch.ones(1, 17, 17, dtype=torch.bool)
    booleans[0, 0, 3] = False
    masked = tiny.conditioning(10, attention_mask=booleans, attention_mask_img_shape=(1, 1))
    grown = apply(masked, weight=0.1, side=1).conditioning[0][1]["attention_mask"]
    assert grown[0, 0, 3] == -math.inf and grown[0, 0, 4] == 0


def test_on_a_small_flux():
    model = tiny.flux()
    base = tiny.sample(model)
    zero = apply(tiny.conditioning(10), weight=0.0)
    assert torch.equal(tiny.sample(model, positive=zero.conditioning), base)
    weak, strong = (
        tiny.sample(model, positive=apply(tiny.conditioning(10), weight=s).conditioning)
        for s in (1e-3, 1.0)
    )
    assert strong.isfinite().all()
    assert 0 < (weak - base).abs().mean() < 0.2 * (strong - base).abs().mean()


def test_several_faces_are_averaged():
    faces = [people.face(0), people.face(1)]
    alone = [apply(tiny.conditioning(10), faces=[f]).conditioning[0][0] for f in faces]
    both = apply(tiny.conditioning(10), faces=faces).conditioning[0][0]
    torch.testing.assert_close(both, (alone[0] + alone[1]) / 2, atol=1e-6, rtol=0)


BAD = {
    "no face": ({"faces": []}, ["0 faces", "Detect Faces"]),
    "negative": ({"weight": -0.1}, ["-0.1"]),
    "infinite": ({"weight": math.inf}, ["inf"]),
    "width": ({"style": Style(48)}, ["48", "64", "Flux.1"]),
    "not a square": ({"style": Style(64, 80)}, ["80 tokens", "redux"]),
    "grid too small": ({"style": Style(64, 4), "side": 3}, ["4 tokens", "3x3"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    options, facts = BAD[case]
    with pytest.raises(ValueError) as error:
        apply(tiny.conditioning(10), **options)
    for fact in facts:
        assert fact in str(error.value), str(error.value)
