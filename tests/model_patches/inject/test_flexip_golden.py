"""Parity of decoupled attention and of the whole UNet with diffusers' IP-Adapter, and FlexIP's own
definitions of how two streams meet. Weights come from names and shapes."""

import comfy.ldm.modules.attention
import comfy.ops
import ip_files
import pytest
import tiny_unet
import torch
from flexid.model_patches.adapters.ip_adapter import load_ip_adapter
from flexid.model_patches.gates.gate import Moment
from flexid.model_patches.inject.attention import (
    BaseAttention,
    FoldedAttention,
    folding_pays,
)
from flexid.model_patches.inject.call import CALL, Call, PromptRows, Run, Site
from flexid.model_patches.inject.decoupled import Table
from flexid.model_patches.inject.flexip import apply_flexip
from flexid.model_patches.inject.flexip_fusion import Share, make_terms
from flexid.model_patches.inject.region import Region
from flexid.model_patches.inject.run import KEY
from identities import identity_of
from safetensors.torch import load_file
from seeding import seeded, seeded_input

pytestmark = pytest.mark.comfy

CLOSE = {"atol": 1e-5, "rtol": 0}
TEXT = 768
MOMENT = Moment(1.0, 0.5, 0.5, 0.5)


@pytest.fixture(scope="module")
def expected(golden):
    return load_file(golden / "flexip_ipadapter.safetensors")


LAYERS = {
    "l1": (320, "down_blocks.0.attentions.0", 1, "h8x8", (8, 8)),
    "l1r": (320, "down_blocks.0.attentions.0", 1, "h8x12", (8, 12)),
    "l31": (1280, "mid_block.attentions.0", 31, "h4x4", (4, 4)),
}
SITE = Site("input", 1, 0, 1)


def base_layer(width, name):
    layer = comfy.ldm.modules.attention.CrossAttention(
        width, TEXT, 8, width // 8, operations=comfy.ops.disable_weight_init
    )
    path = f"{name}.transformer_blocks.0.attn2."
    state = {key: seeded(path + key, tensor.shape) for key, tensor in layer.state_dict().items()}
    layer.load_state_dict(state)
    return layer.eval()


@pytest.fixture
def one_layer(monkeypatch):
    """A Call whose model has the given cross-attention as its only site."""

    def make(layer, size):
        monkeypatch.setattr(
            "flexid.model_patches.inject.decoupled.cross_attention_of",
            lambda unet: [(SITE, unet.layer)],
        )
        call = Call(Run(size), (PromptRows(),), (MOMENT,), size, 1, torch.device("cpu"), *TAIL)
        call.diffusion_model = tiny_unet.OneBlock(layer)
        return call

    return make


TAIL = (torch.float32,)


def table(number, tokens, width):
    pair = [seeded(f"ip_adapter.{number}.to_{p}_ip.weight", (width, TEXT)) for p in ("k", "v")]
    return Table(*({SITE: tokens @ weight.T} for weight in pair))


def attend(one_layer, name, row, folded, weight=1.0, sharp=1.0, region=None):
    """One row: the text's attention, and what the terms add to it."""
    width, path, number, image, size = LAYERS[name]
    layer = base_layer(width, path)
    layer.to_q.weight.data *= sharp
    call = one_layer(layer, size)
    names = ("ip_tokens_uncond", "ip_tokens")
    tokens = seeded_input(names[row], (1, 16, TEXT))[0]
    hidden = seeded_input(image, (2, size[0] * size[1], width))[row : row + 1]
    text = seeded_input("text", (2, 77, TEXT))[row : row + 1]
    with torch.no_grad():
        out = layer(hidden, text)
        share = Share(None, table(number, tokens, width))
        shared = [(share, call.prompts[0], slice(0, 1), [(weight, 0.0)])]
        added = make_terms(call, shared, "outputs", region, "test")
        for term in added:
            assert isinstance(term.layers[SITE], FoldedAttention if folded else BaseAttention)
            term.add(out, term.residual(SITE, hidden))
    return out


CASES = {
    "w1": {},
    "w05": {"weight": 0.5},
    "w0": {"weight": 0.0},
    "w1_sharp": {"sharp": 40.0},
    "mask_half": {"mask": lambda h, w: (torch.arange(w) < w // 2).float().expand(1, h, w)},
    "mask_ramp": {"weight": 0.8, "mask": lambda h, w: torch.linspace(0, 1, w).expand(1, h, w)},
}


@pytest.mark.parametrize("folded", [True, False], ids=["folded", "unfolded"])
@pytest.mark.parametrize(
    ("name", "case"),
    [("l1", case) for case in CASES]
    + [("l1r", case) for case in ("w1", "mask_half", "mask_ramp")]
    + [("l31", case) for case in ("w1", "w05", "w1_sharp")],
)
def test_one_layer_is_the_authors(expected, one_layer, monkeypatch, name, case, folded):
    key = f"attn.{name}.{case}.out_s"
    monkeypatch.setattr("flexid.model_patches.inject.decoupled.folding_pays", lambda *sizes: folded)
    options = dict(CASES[case])
    mask = options.pop("mask", None)
    size = LAYERS[name][4]
    region = None if mask is None else Region(mask(*size))
    rows = [attend(one_layer, name, row, folded, region=region, **options) for row in range(2)]
    sharp = {"atol": 5e-5, "rtol": 0} if "sharp" in case else CLOSE
    torch.testing.assert_close(torch.cat(rows)[..., ::4], expected[key], **sharp)


def test_folding_is_chosen_by_what_it_costs():
    assert folding_pays(17, 8, 320) and folding_pays(16, 20, 1280)
    assert folding_pays(77, 8, 1280) and not folding_pays(77, 8, 320)
    assert not folding_pays(257, 8, 1280)


# FlexIP's definitions: two streams at one layer, before the output projection


def flexip_tables():
    blocks = "blocks.input.1.0."
    return {
        stream: [
            seeded(f"{blocks}{stream}.{part}.weight", (320, TEXT)) for part in ("to_k", "to_v")
        ]
        for stream in ("preserve", "personal")
    }


@pytest.fixture(scope="module")
def streams(tmp_path_factory):
    """P and S (2 rows) of the unsharpened golden file."""
    from flexid.model_patches.adapters.flexip import make_personal, make_tokens
    from flexid.model_patches.adapters.flexip_file import load_flexip
    from flexid.model_patches.adapters.flexip_settings import FlexIPSettings, settings_of

    path = tmp_path_factory.mktemp("flexip") / "x.safetensors"
    tensors = ip_files.seed_all(ip_files.flexip_shapes())
    adapter = load_flexip(ip_files.write(path, tensors, settings_of(FlexIPSettings())))
    photo, detail = seeded_input("clip_cls", (1, 1024)), seeded_input("dino", (1, 64, 1024))
    pooled = torch.cat([torch.zeros_like(photo), photo])
    context = torch.cat([torch.zeros_like(detail), detail])
    text = seeded_input("text", (2, 77, TEXT))
    return (
        make_tokens(adapter, {"context": context, "pooled": pooled}),
        torch.cat([make_personal(adapter, text[i : i + 1], pooled[i : i + 1]) for i in range(2)]),
    )


@pytest.mark.parametrize("folded", [True, False], ids=["folded", "unfolded"])
@pytest.mark.parametrize(
    ("fusion", "percent"),
    [(fusion, percent) for fusion in ("outputs", "joint") for percent in (0, 25, 50, 75, 100)]
    + [("tokens", 25), ("tokens", 75)],
)
def test_two_streams_meet_as_defined(
    expected, one_layer, monkeypatch, streams, fusion, percent, folded
):
    key = f"flexip.{fusion}.g{percent:03}_s"
    monkeypatch.setattr("flexid.model_patches.inject.decoupled.folding_pays", lambda *sizes: folded)
    layer = base_layer(320, LAYERS["l1"][1])
    layer.to_q.weight.data *= 40
    # The vectors end before the output projection, which here changes nothing.
    layer.to_out[0].weight.data, layer.to_out[0].bias.data = torch.eye(320), torch.zeros(320)
    call = one_layer(layer, (8, 8))
    weights, hidden = flexip_tables(), seeded_input("h8x8", (2, 64, 320))
    p77 = seeded_input("p77", (2, 77, TEXT))
    rows = []
    for row in range(2):
        p, s = streams[0][row], streams[1][row]
        second = "personal"
        if fusion == "tokens":
            p, second = p77[row], "preserve"
        tables = [
            Table(*({SITE: tokens @ weight.T} for weight in weights[name]))
            for tokens, name in ((p, "preserve"), (s, second))
        ]
        share = Share(None, tables[0], (tables[1],))
        gates = [(percent / 100, 1 - percent / 100)]
        with torch.no_grad():
            terms = make_terms(
                call, [(share, call.prompts[0], slice(0, 1), gates)], fusion, None, "test"
            )
            image = hidden[row : row + 1]
            rows.append(sum(term.residual(SITE, image) for term in terms))
    found = torch.cat(rows)[..., ::4]
    torch.testing.assert_close(found, expected[key], atol=5e-5, rtol=0)


# The whole UNet


@pytest.fixture(scope="module")
def unet():
    return tiny_unet.named_sd15()


@pytest.fixture(scope="module")
def plus(tmp_path_factory):
    shapes = ip_files.layer_shapes(tiny_unet.WIDTHS)
    tensors = ip_files.tensors_of(ip_files.token_shapes("plus"), shapes)
    path = tmp_path_factory.mktemp("plus") / "ip-adapter-plus_sd15.safetensors"
    return load_ip_adapter(ip_files.write(path, tensors))


def eps(model, prompts, latent):
    """One call of both rows, null first, through ComfyUI's own apply_model and wrappers."""
    carried = [entry[1]["model_conds"][KEY].process_cond(1) for entry in prompts]
    captured = {}
    sampling = model.model.model_sampling
    x = seeded_input(*latent).repeat(2, 1, 1, 1)
    sigma = sampling.sigma(torch.tensor([601.0, 601.0]))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "calculate_input", lambda s, noise: noise)
        patch.setattr(
            sampling, "calculate_denoised", lambda s, out, x: captured.setdefault("eps", out)
        )
        options = {
            **model.model_options["transformer_options"],
            "wrappers": model.wrappers,
            "cond_or_uncond": [1, 0],
        }
        model.model.apply_model(
            x,
            sigma,
            c_crossattn=seeded_input("text", (2, 77, TEXT)),
            transformer_options=options,
            **{KEY: carried[0].concat(carried[1:])},
        )
    return captured["eps"]


@pytest.mark.parametrize("folded", [True, False], ids=["folded", "unfolded"])
@pytest.mark.parametrize(
    ("name", "weight", "latent"),
    [
        ("plus_w1", 1.0, ("latent16_v24", (1, 4, 16, 16))),
        ("plus_w05", 0.5, ("latent16_v24", (1, 4, 16, 16))),
        ("plus_16x24_w08", 0.8, ("latent16x24_v24", (1, 4, 16, 24))),
    ],
)
def test_the_unmodified_unet_predicts_what_diffusers_does(
    expected, unet, plus, monkeypatch, name, weight, latent, folded
):
    from flexid.model_patches.adapters.flexip import make_tokens

    monkeypatch.setattr("flexid.model_patches.inject.decoupled.folding_pays", lambda *sizes: folded)
    names = ("clip_uncond", "clip")
    seen = torch.cat([seeded_input(one, (1, 257, 1280)) for one in names])
    null, photo = make_tokens(plus, {"patches": seen}).split(1)
    person = identity_of({"flexip": photo}, {"flexip": null}, plus.encoder_digest)
    text = seeded_input("text", (2, 77, TEXT))
    prompts = [[[row, {}]] for row in text.split(1)]
    applied = apply_flexip(unet, prompts[1], prompts[0], plus, person, value=weight)
    with torch.no_grad():
        found = eps(applied.model, [*applied.negative, *applied.positive], latent)
    torch.testing.assert_close(found, expected[f"unet.{name}.eps"], **CLOSE)
    assert CALL not in unet.model_options["transformer_options"]
