"""Parity of semantic-activated attention with the authors' code, at single layers and through
ComfyUI's unmodified UNet. Weights come from names and shapes."""

from dataclasses import replace

import comfy.ldm.modules.attention
import comfy.lora
import comfy.model_management
import comfy.ops
import dynamicid_files
import pytest
import tiny_unet
import torch
from flexid.model_patches.adapters.dynamicid import load_dynamicid
from flexid.model_patches.adapters.ip_adapter import lora_patches
from flexid.model_patches.gates.gate import Gate, Moment
from flexid.model_patches.gates.window import Window
from flexid.model_patches.identity.identity import Identity
from flexid.model_patches.inject.call import Call, PromptRows, Run, Site
from flexid.model_patches.inject.decoupled import Table
from flexid.model_patches.inject.region import box_region
from flexid.model_patches.inject.saa import apply_saa
from flexid.model_patches.inject.saa_activation import activation
from flexid.model_patches.inject.saa_group import Member
from flexid.model_patches.inject.saa_people import Person
from flexid.model_patches.inject.saa_places import place_people
from flexid.model_patches.inject.saa_settings import SaaSettings
from flexid.model_patches.inject.saa_unet import UNetGroup
from flexid.model_patches.training.saa_trained import begin_with, predict_person
from flexid.model_patches.training.unet_base import UNetBase
from identities import identity_of
from safetensors.torch import load_file
from seeding import seeded, seeded_input

pytestmark = pytest.mark.comfy

CLOSE = {"atol": 1e-5, "rtol": 0}
TEXT = 768
CLOSED = Gate((Window(points=((0.0, 0.0),)),))
FULL, ONE = [(0, 0, 1, 1)], [(0.1, 0.2, 0.6, 0.7)]
MULTI = [(0.1, 0.1, 0.5, 0.4), (0.1, 0.6, 0.5, 0.9)]
THREE = [(0, 0, 1, 0.3), (0, 0.4, 1, 0.6), (0, 0.7, 1, 1)]
PUBLISHED = SaaSettings("published", beta=0.0)
PLAIN = replace(PUBLISHED, activation=False)
RAISED = replace(PUBLISHED, beta=2.0)


@pytest.fixture(scope="module")
def expected(golden):
    return load_file(golden / "dynamicid_saa.safetensors")


# One layer

NAMES = {
    0: "down_blocks.0.attentions.0",
    1: "down_blocks.0.attentions.0",
    31: "mid_block.attentions.0",
}


def base_layer(number):
    """A layer of the base with the file's LoRA, merged by ComfyUI."""
    width, text = (1280, TEXT) if number == 31 else (320, TEXT if number else 320)
    layer = comfy.ldm.modules.attention.CrossAttention(
        width, text, 8, width // 8, operations=comfy.ops.disable_weight_init
    )
    path = f"{NAMES[number]}.transformer_blocks.0.attn{2 if number % 2 else 1}."
    state = {key: seeded(path + key, tensor.shape) for key, tensor in layer.state_dict().items()}
    lora = {}
    for part in ("q", "k", "v", "out"):
        entry = text if part in "kv" else width
        for side, shape in (("down", (128, entry)), ("up", (width, 128))):
            key = f"{number}.to_{part}_lora.{side}.weight"
            lora[key] = seeded(key, shape)
    for name, patch in lora_patches(lora, ["layer"] * (number + 1)).items():
        key = name.removeprefix("layer.")
        state[key] = comfy.lora.calculate_weight([(1.0, patch, 1.0, None, None)], state[key], key)
    layer.load_state_dict(state)
    return layer.eval()


SITE = Site("input", 1, 0, 1)
WITHIN, AFTER = Moment(1.0, 0.0, 0.0, 1.0), Moment(0.5, 0.5, 0.5, 0.5)


def make_call(monkeypatch, layer, size, moment):
    """A Call of one row without and one with people, whose model has this layer alone."""
    monkeypatch.setattr(
        "flexid.model_patches.inject.decoupled.cross_attention_of",
        lambda unet: [(SITE, unet.layer)],
    )
    prompts = (PromptRows("negative"), PromptRows())
    call = Call(Run(size), prompts, (moment, moment), size, 2, torch.device("cpu"), torch.float32)
    call.diffusion_model = tiny_unet.OneBlock(layer)
    return call


def group_of(number, width, faces, boxes, settings, weight=1.0):
    """The people as apply_saa hands them to the injection."""

    def table(name):
        tokens = seeded_input(name, (1, 4, TEXT))[0]
        pair = [seeded(f"{number}.to_{p}_ip.weight", (width, TEXT)) for p in ("k", "v")]
        return Table(*({SITE: tokens @ weight.T} for weight in pair))

    regions = [box_region(box) for box in boxes]
    regions += [None] * (len(faces) - len(regions))
    people = [Person(Identity(), weight, region=region) for region in regions]
    people = place_people(people, settings)
    nobody = table("face_uncond")
    members = [
        Member(person, table(f"face_{face}"), nobody, face)
        for person, face in zip(people, faces, strict=True)
    ]
    return UNetGroup(tuple(members), settings, [SITE], "")


CASES = {
    "one16_plain": (1, "z16", "a", [], PLAIN),
    "one16_act": (1, "z16", "a", FULL, PUBLISHED),
    "one16_act_s07": (1, "z16", "a", FULL, PUBLISHED),
    "one16_beta": (1, "z16", "a", ONE, RAISED),
    "one16_after": (1, "z16", "a", ONE, RAISED),
    "two16_plain": (1, "z16", "ab", [], PLAIN),
    "two16_nobox": (1, "z16", "ab", [], replace(PUBLISHED, unplaced="strips")),
    "two16_beta": (1, "z16", "ab", MULTI, RAISED),
    "two16_after": (1, "z16", "ab", MULTI, RAISED),
    "two16_mix": (1, "z16", "ab", FULL, replace(PUBLISHED, mix=0.3)),
    "three16_beta": (1, "z16", "abc", THREE, RAISED),
    "one32_act": (1, "z32", "a", FULL, PUBLISHED),
    "one32_beta": (1, "z32", "a", ONE, RAISED),
    "two32_beta": (1, "z32", "ab", MULTI, RAISED),
    "two16x24_beta": (1, "z16x24", "ab", MULTI, RAISED),
    "two8mid_beta": (31, "z8mid", "ab", MULTI, RAISED),
}
SIZES = {"z16": (16, 16), "z32": (32, 32), "z16x24": (16, 24), "z8mid": (8, 8)}


@pytest.mark.parametrize("name", CASES)
def test_one_layer_is_the_authors(expected, monkeypatch, name):
    number, image, faces, boxes, settings = CASES[name]
    size = SIZES[image]
    layer = base_layer(number)
    width = layer.to_q.in_features
    call = make_call(monkeypatch, layer, size, AFTER if "after" in name else WITHIN)
    group = group_of(number, width, faces, boxes, settings, 0.7 if "s07" in name else 1.0)
    hidden = seeded_input(image, (2, size[0] * size[1], width))
    with torch.no_grad():
        out = layer(hidden, seeded_input("text", (2, 77, TEXT)))
        terms = group.terms(call)
        residuals = [term.residual(SITE, hidden) for term in terms]
        for term, residual in zip(terms, residuals, strict=True):
            term.add(out, residual)
        scores = [term.layers[SITE].key(hidden[term.rows]) for term in terms]
    torch.testing.assert_close(out[..., ::8], expected[f"{name}.out"], **CLOSE)
    if f"{name}.out_full" in expected:
        torch.testing.assert_close(out[1], expected[f"{name}.out_full"], **CLOSE)
    if f"{name}.w" not in expected:
        return
    scores = [one.unflatten(-1, (8, -1)) for one in scores]
    normed = torch.cat([activation(one, None, 0.0) for one in scores])
    torch.testing.assert_close(normed, expected[f"{name}.w_minmax"], **CLOSE)
    weights = torch.cat([term.activate(one)[1] for term, one in zip(terms, scores, strict=True)])
    factor = 0.7 if "s07" in name else 1.0
    torch.testing.assert_close(weights / factor, expected[f"{name}.w"], **CLOSE)


@pytest.mark.parametrize("name", ["one16_act", "one16_plain"])
def test_before_the_output_projection(expected, monkeypatch, name):
    number, image, faces, boxes, settings = CASES[name]
    layer = base_layer(number)
    layer.to_out[0].weight.data, layer.to_out[0].bias.data = torch.eye(320), torch.zeros(320)
    call = make_call(monkeypatch, layer, (16, 16), WITHIN)
    hidden = seeded_input(image, (2, 256, 320))
    with torch.no_grad():
        out = layer(hidden, seeded_input("text", (2, 77, TEXT)))
        if f"{name}.pre_text" in expected:
            torch.testing.assert_close(out[..., ::8], expected[f"{name}.pre_text"], **CLOSE)
        for term in group_of(number, 320, faces, boxes, settings).terms(call):
            term.add(out, term.residual(SITE, hidden))
    torch.testing.assert_close(out[..., ::8], expected[f"{name}.pre_sum"], **CLOSE)


def test_self_attention_has_the_lora(expected):
    hidden = seeded_input("z16", (2, 256, 320))
    with torch.no_grad():
        out = base_layer(0)(hidden)
    torch.testing.assert_close(out[..., ::8], expected["self16.out"], **CLOSE)


# The whole UNet


@pytest.fixture(scope="module")
def unet():
    return tiny_unet.named_sd15()


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    parts = dynamicid_files.attention(tiny_unet.WIDTHS), dynamicid_files.projection()
    path = tmp_path_factory.mktemp("saa") / "SAA.bin"
    return load_dynamicid(dynamicid_files.write_saa(path, *parts))


def person(adapter, face, box=None, gate=None):
    tokens, nobody = (seeded_input(f"face_{name}", (1, 4, TEXT)) for name in (face, "uncond"))
    made = identity_of({"dynamicid": tokens}, {"dynamicid": nobody}, adapter.encoder_digest)
    region = None if box is None else box_region(box)
    return Person(made, gate=gate or Gate(), region=region)


def eps(model, latent, step, steps=50):
    """What the loaded model predicts for both rows, null first, in a step of a run."""
    sampling = model.model.model_sampling
    comfy.model_management.load_models_gpu([model])
    x = seeded_input(*latent).repeat(2, 1, 1, 1)
    sigma = sampling.sigma(torch.tensor([601.0, 601.0]))
    captured = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "calculate_input", lambda s, noise: noise)
        patch.setattr(
            sampling, "calculate_denoised", lambda s, out, x: captured.setdefault("eps", out)
        )
        # A schedule in which the sigma of timestep 601 begins the given step.
        above = [float(sigma[0]) + steps - number for number in range(step)]
        below = [float(sigma[0]) * (1 - number / (steps - step)) for number in range(steps - step)]
        options = {
            **model.model_options["transformer_options"],
            "wrappers": model.wrappers,
            "cond_or_uncond": [1, 0],
            "sample_sigmas": torch.tensor([*above, *below, 0.0]),
        }
        with torch.no_grad():
            model.model.apply_model(
                x,
                sigma,
                c_crossattn=seeded_input("text", (2, 77, TEXT)),
                transformer_options=options,
            )
    return captured["eps"]


SQUARE, WIDE = ("latent16_v24", (1, 4, 16, 16)), ("latent16x24_v24", (1, 4, 16, 24))
EARLY = replace(RAISED, alpha=2 / 50)


@pytest.mark.parametrize(
    ("name", "faces", "boxes", "settings", "step", "latent"),
    [
        ("one_plain", "a", [None], PLAIN, 0, SQUARE),
        ("one_act", "a", FULL, PUBLISHED, 0, SQUARE),
        ("two_step0", "ab", MULTI, EARLY, 0, SQUARE),
        ("two_step0", "ab", MULTI, EARLY, 1, SQUARE),
        ("two_step2", "ab", MULTI, EARLY, 2, SQUARE),
        ("two_swapped", ("b", "a"), MULTI, EARLY, 0, SQUARE),
        ("two_16x24", "ab", MULTI, EARLY, 0, WIDE),
    ],
)
def test_the_unmodified_unet_predicts_what_the_authors_does(
    golden, unet, adapter, name, faces, boxes, settings, step, latent
):
    expected = load_file(golden / "dynamicid_unet_tiny.safetensors")[f"{name}.eps"]
    people = [person(adapter, face, box) for face, box in zip(faces, boxes, strict=True)]
    patched = apply_saa(unet, adapter, people, settings).model
    torch.testing.assert_close(eps(patched, latent, step), expected, atol=2e-5, rtol=0)


def test_the_trainer_predicts_what_the_authors_code_does(golden, unet, adapter):
    """With the LoRA beside the base's layers, and one face in each row."""
    expected = load_file(golden / "dynamicid_unet_tiny.safetensors")["one_act.eps"]
    comfy.model_management.unload_all_models()  # weight patches of the tests before
    base = UNetBase(unet, torch.device("cpu"))
    sigma = base.sigma(torch.tensor([601, 601]))
    latent = seeded_input(*SQUARE).repeat(2, 1, 1, 1)
    noisy = latent * (sigma[0] ** 2 + 1).sqrt()  # the model scales it back
    faces = [seeded_input(f"face_{name}", (1, 4, TEXT)) for name in ("uncond", "a")]
    facts = (noisy, sigma, seeded_input("text", (2, 77, TEXT)), torch.cat(faces), 0.3)
    with torch.no_grad():
        found = predict_person(base, begin_with(base, adapter), *facts)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=0)


def test_without_people_there_is_the_lora_alone_or_nothing(golden, unet, adapter):
    expected = load_file(golden / "dynamicid_unet_tiny.safetensors")
    base = eps(unet, SQUARE, 0)
    torch.testing.assert_close(base, expected["base.eps"], atol=2e-5, rtol=0)
    hidden = [person(adapter, "a", gate=CLOSED)]
    only = eps(apply_saa(unet, adapter, hidden).model, SQUARE, 0)
    torch.testing.assert_close(only, expected["lora_only.eps"], atol=2e-5, rtol=0)
    without = apply_saa(unet, adapter, hidden, lora_strength=0.0).model
    assert torch.equal(eps(without, SQUARE, 0), base)
