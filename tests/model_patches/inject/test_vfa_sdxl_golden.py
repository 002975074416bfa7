"""Parity of VFA on SDXL with PuLID's own attention: one layer, and the unmodified ComfyUI UNet."""

import comfy.ldm.modules.attention
import comfy.model_patcher
import comfy.ops
import comfy.sample
import comfy.supported_models
import comfy.utils
import pytest
import torch
from flexid.model_patches.adapters.flexip import Stream
from flexid.model_patches.adapters.pulid_sdxl import SdxlAdapter
from flexid.model_patches.gates.gate import OPEN
from flexid.model_patches.inject.anchor import Anchor
from flexid.model_patches.inject.ortho import OrthoAttention, Orthogonality
from flexid.model_patches.inject.vfa_unet import METHODS, orthogonality, patch_unet, sdxl_sites
from safetensors.torch import load_file
from seeding import seeded, seeded_input

pytestmark = pytest.mark.comfy

TEXT = 2048
PROJECTIONS = {"plain": "none", "ortho": "ortho", "v2": "ortho_v2"}


@pytest.fixture(scope="module")
def expected(golden):
    return load_file(golden / "pulid_sdxl.safetensors")


def id_tokens(count):
    """(nobody, somebody), each (count, 2048): 10 of version 1, further photos after them, or 32."""
    if count == 32:
        names = ("uncond_id_tokens", "id_tokens")
        return [seeded_input(name, (1, 32, TEXT))[0] for name in names]
    found = []
    for name in ("uncond_id_tokens10", "id_tokens10"):
        first, second = (seeded_input(name + end, (1, 10, TEXT))[0] for end in ("", ".second"))
        found.append(torch.cat((first, second[: count - 10])))
    return found


def base_layer(number):
    width, path = {
        1: (640, "down_blocks.1.attentions.0.transformer_blocks.0.attn2."),
        139: (1280, "mid_block.attentions.0.transformer_blocks.9.attn2."),
    }[number]
    layer = comfy.ldm.modules.attention.CrossAttention(
        width, TEXT, width // 64, 64, operations=comfy.ops.disable_weight_init
    )
    state = {key: seeded(path + key, tensor.shape) for key, tensor in layer.state_dict().items()}
    layer.load_state_dict(state)
    return layer.eval()


def attend(number, image, count, projection, zeros, scale):
    """Out of one layer, both rows; y, z and c before the output projection."""
    layer = base_layer(number)
    width = layer.heads * layer.dim_head
    hidden, text = seeded_input(*image), seeded_input("text2048", (2, 77, TEXT))
    pair = [
        seeded(f"id_adapter_attn_layers.{number}.id_to_{p}.weight", (width, TEXT)) for p in "kv"
    ]
    found = {"out": [], "y": [], "z": []}
    with torch.no_grad():
        for row, tokens in enumerate(id_tokens(count)):
            q = layer.to_q(hidden[row : row + 1])
            k, v = layer.to_k(text[row : row + 1]), layer.to_v(text[row : row + 1])
            y = comfy.ldm.modules.attention.optimized_attention(q, k, v, layer.heads)
            tables = [tokens @ weight.T for weight in pair]
            reads = torch.cat((q, y), dim=-1)
            how = Orthogonality(projection, zeros)
            added = OrthoAttention(*tables, layer.heads, how)(reads, scale)
            found["z"].append(
                OrthoAttention(*tables, layer.heads, Orthogonality(zeros=zeros))(reads)
            )
            found["y"].append(y)
            found["out"].append(layer.to_out(y + added))
    return {name: torch.cat(rows) for name, rows in found.items()}


Z16, Z12, Z8 = (
    ("z16x16", (2, 256, 640)),
    ("z12x20", (2, 240, 640)),
    ("z8x8", (2, 64, 1280)),
)
CASES = {
    "plain_s08": (1, Z16, 32, "plain", 0, 0.8),
    "plain_nz8_s08": (1, Z16, 32, "plain", 8, 0.8),
    "ortho_nz0_s15": (1, Z16, 32, "ortho", 0, 1.5),
    "ortho_nz16_s08": (1, Z16, 10, "ortho", 16, 0.8),
    "ortho_nz16_s08_t32": (1, Z16, 32, "ortho", 16, 0.8),
    "v2_nz0_s1": (1, Z16, 32, "v2", 0, 1.0),
    "v2_nz8_s08": (1, Z16, 10, "v2", 8, 0.8),
    "v2_nz8_s08_t15": (1, Z16, 15, "v2", 8, 0.8),
    "v2_nz8_s08_t20": (1, Z16, 20, "v2", 8, 0.8),
    "v2_nz20_s08": (1, Z16, 32, "v2", 20, 0.8),
    "v2_nz20_s08_12x20": (1, Z12, 32, "v2", 20, 0.8),
    "v2_nz20_s3": (1, Z16, 32, "v2", 20, 3.0),
    "v2_nz20_sm05": (1, Z16, 32, "v2", 20, -0.5),
    "v2_nz80_s08": (1, Z16, 32, "v2", 80, 0.8),
    "mid_ortho_nz16_s08": (139, Z8, 10, "ortho", 16, 0.8),
    "mid_v2_nz20_s08": (139, Z8, 32, "v2", 20, 0.8),
}


@pytest.mark.parametrize("case", CASES)
def test_one_layer_is_the_authors(expected, case):
    number, image, count, mode, zeros, scale = CASES[case]
    found = attend(number, image, count, PROJECTIONS[mode], zeros, scale)
    steps = (2, 16) if number == 139 else (4, 8)
    end = f"s{steps[0]}x{steps[1]}"
    torch.testing.assert_close(
        found["out"][:, :: steps[0], :: steps[1]],
        expected[f"layer.{case}.{end}"],
        atol=5e-6,
        rtol=0,
    )
    for name in ("y", "z"):
        if f"layer.{case}.{name}.{end}" in expected:
            part = found[name][:, :: steps[0], :: steps[1]]
            want = expected[f"layer.{case}.{name}.{end}"]
            torch.testing.assert_close(part, want, atol=5e-6, rtol=0)


def test_without_an_identity_a_layer_is_the_texts(expected):
    found = attend(1, Z16, 32, "none", 0, 0.0)
    torch.testing.assert_close(
        found["out"][:, ::4, ::8], expected["layer.text.s4x8"], atol=5e-6, rtol=0
    )


@pytest.mark.parametrize("zeros", [3, 20])
@pytest.mark.parametrize("projection", ["none", "ortho", "ortho_v2"])
def test_empty_tokens_need_not_be_there(projection, zeros):
    """By formula, and as rows of zeros; where attention is sharp, exponents leave their range."""
    generator = torch.Generator().manual_seed(0)
    reads = torch.randn(2, 12, 128, generator=generator)
    reads[..., :64] *= 20
    keys, values = (torch.randn(7, 64, generator=generator) for _ in range(2))
    empty = torch.zeros(zeros, 64)
    ours = OrthoAttention(keys, values, 4, Orthogonality(projection, zeros))(reads)
    whole = [torch.cat((x, empty)) for x in (keys, values)]
    theirs = OrthoAttention(*whole, 4, Orthogonality(projection))(reads)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    reads[..., :64] *= 1000
    layer = OrthoAttention(keys, values, 4, Orthogonality(projection, zeros))
    assert layer(reads).isfinite().all()


@pytest.mark.parametrize("projection", ["ortho", "ortho_v2"])
def test_a_text_of_zeros_stays_finite(projection):
    reads = torch.randn(1, 12, 128, generator=torch.Generator().manual_seed(0))
    reads[..., 64:] = 0
    keys, values = torch.randn(7, 64), torch.randn(7, 64)
    out = OrthoAttention(keys, values, 4, Orthogonality(projection, 8))(reads)
    plain = OrthoAttention(keys, values, 4, Orthogonality("none", 8))(reads)
    assert torch.equal(out, plain) and out.isfinite().all()


@pytest.mark.parametrize(("dtype", "limit"), [(torch.float16, 2e-3), (torch.bfloat16, 1.5e-2)])
def test_half_precision_is_as_close_as_the_authors(dtype, limit):
    generator = torch.Generator().manual_seed(0)
    reads = torch.randn(1, 4096, 128, generator=generator)
    reads[..., 64:] *= 8  # the sum of squares leaves the range of float16
    keys, values = (torch.randn(32, 64, generator=generator) for _ in range(2))
    how = Orthogonality("ortho_v2", 20)
    exact = OrthoAttention(keys, values, 1, how)(reads)
    half = OrthoAttention(keys.to(dtype), values.to(dtype), 1, how)(reads.to(dtype))
    assert (half.float() - exact).norm() / exact.norm() < limit


def test_methods_are_the_authors_settings():
    assert orthogonality("fidelity", "1") == Orthogonality("ortho_v2", 8)
    assert orthogonality("fidelity", "1.1") == Orthogonality("ortho_v2", 20)
    assert orthogonality("style", "1") == Orthogonality("ortho", 16)
    assert orthogonality("neutral", "1.1") == Orthogonality("none", 0)
    with pytest.raises(ValueError, match=f"method 'strong'; choose one of {', '.join(METHODS)}"):
        orthogonality("strong", "1")


# The whole UNet

TINY = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [2, 2, 2],
    "channel_mult": [1, 2, 4],
    "transformer_depth": [0, 0, 2, 2, 10, 10],
    "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10],
    "transformer_depth_middle": 10,
    "context_dim": TEXT,
    "num_heads": -1,
    "num_head_channels": 64,
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "legacy": False,
    "num_classes": "sequential",
    "adm_in_channels": 2816,
    "use_temporal_attention": False,
}
WIDTHS = [64] * 4 + [128] * 20 + [128] * 30 + [64] * 6 + [128] * 10


def unet(gain):
    """SDXL's topology at a tenth of its width, weights by their names in diffusers."""
    config = comfy.supported_models.SDXL(dict(TINY))
    config.set_inference_dtype(torch.float32, None)
    base = config.get_model({}, "")
    names = comfy.utils.unet_to_diffusers(TINY)
    theirs = {ours: name for name, ours in names.items() if not name.startswith("class_embedding")}
    state = {
        key: seeded(theirs[key], tensor.shape) * (gain if tensor.ndim >= 2 else 1)
        for key, tensor in base.diffusion_model.state_dict().items()
    }
    base.diffusion_model.load_state_dict(state)
    cpu = torch.device("cpu")
    return comfy.model_patcher.CoreModelPatcher(base, load_device=cpu, offload_device=cpu)


def adapter(gain):
    names = [f"id_adapter_attn_layers.{2 * i + 1}.id_to" for i in range(len(WIDTHS))]
    keys, values = (
        tuple(
            gain * seeded(f"{name}_{part}.weight", (width, TEXT))
            for name, width in zip(names, WIDTHS, strict=True)
        )
        for part in "kv"
    )
    return SdxlAdapter("golden", f"golden-{gain}", "", "1.1", None, Stream(keys, values))


@pytest.fixture(scope="module", params=[1.0, 3.0], ids=["tiny", "strong"])
def world(request):
    gain = request.param
    prefix, close = ("tiny", 2e-5) if gain == 1 else ("tiny.strong", 1e-3)
    return unet(gain), adapter(gain), prefix, {"atol": close, "rtol": 0}


def anchored(model, found, count, mode, zeros, scale):
    nobody, somebody = (tokens.unsqueeze(0) for tokens in id_tokens(count))
    patched = model.clone()
    order = f"golden {count}"
    anchor = Anchor(scale, OPEN, None, "unconditional", order)
    how = Orthogonality(PROJECTIONS[mode], zeros)
    patch_unet(patched, sdxl_sites(model, found), found, anchor, somebody, nobody, how)
    return patched


def eps(model, latent="latent16", size=(16, 16), rows=(1, 0)):
    """One call through ComfyUI's own apply_model and wrappers; row 0 is the negative prompt's."""
    captured = {}
    base, count = model.model, len(rows)
    x = seeded_input(latent, (1, 4, *size)).repeat(count, 1, 1, 1)
    sampling = base.model_sampling
    order = [1 - row for row in rows]
    height, width = (8 * side for side in size)
    sizes = {"height": height, "width": width, "crop_h": 0, "crop_w": 0}
    pooled = seeded_input("pooled", (2, 1280))[order]
    y = torch.cat(
        [
            base.encode_adm(
                pooled_output=pooled[row : row + 1],
                device="cpu",
                target_height=height,
                target_width=width,
                **sizes,
            )
            for row in range(count)
        ]
    )
    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        patch.setattr(sampling, "calculate_input", lambda s, noise: noise)
        patch.setattr(
            sampling, "calculate_denoised", lambda s, out, x: captured.setdefault("eps", out)
        )
        options = {
            **model.model_options["transformer_options"],
            "wrappers": model.wrappers,
            "cond_or_uncond": list(rows),
        }
        base.apply_model(
            x,
            sampling.sigma(torch.full((count,), 601.0)),
            c_crossattn=seeded_input("text2048", (2, 77, TEXT))[order],
            y=y,
            transformer_options=options,
        )
    return captured["eps"]


UNET_CASES = {
    "plain_s08": (32, "plain", 0, 0.8),
    "ortho_nz16_s08": (10, "ortho", 16, 0.8),
    "v2_nz8_s08": (10, "v2", 8, 0.8),
    "v2_nz20_s08": (32, "v2", 20, 0.8),
    "v2_nz20_s3": (32, "v2", 20, 3.0),
}


def test_the_unmodified_unet_predicts_what_diffusers_does(expected, world):
    model, found, prefix, close = world
    torch.testing.assert_close(eps(model), expected[f"{prefix}.no_id"], **close)
    checked = 0
    for case, options in UNET_CASES.items():
        if f"{prefix}.{case}" in expected:
            out = eps(anchored(model, found, *options))
            torch.testing.assert_close(out, expected[f"{prefix}.{case}"], **close)
            checked += 1
    assert checked >= 4


def test_every_layer_and_another_shape(expected):
    model, found = unet(1.0), adapter(1.0)
    close = {"atol": 2e-5, "rtol": 0}
    wide = eps(model, "latent16x24", (16, 24))
    torch.testing.assert_close(wide, expected["tiny.no_id_16x24"], **close)
    patched = anchored(model, found, *UNET_CASES["v2_nz20_s08"])
    wide = eps(patched, "latent16x24", (16, 24))
    torch.testing.assert_close(wide, expected["tiny.v2_nz20_s08_16x24"], **close)

    seen = {}

    def spy(n, extra):
        seen.setdefault((*extra["block"], extra["block_index"]), n[-1, 0, :16].clone())
        return n

    patched.set_model_attn2_output_patch(spy)
    both = eps(patched)
    order = [(site.kind, site.number, site.depth) for site in sdxl_sites(model, found)]
    assert len(seen) == len(order) == 70
    outputs = torch.stack([seen[site] for site in order])
    want = expected["tiny.cap.attn2_v2_nz20_s08"]
    torch.testing.assert_close(outputs, want, atol=1e-6, rtol=0)
    negative, positive = both.chunk(2)
    guided = negative + 7 * (positive - negative)
    torch.testing.assert_close(guided, expected["tiny.cfg7_v2_nz20_s08"], atol=2e-4, rtol=0)
    swapped = eps(patched, rows=(0, 1))
    torch.testing.assert_close(swapped.flip(0), both, **close)
    torch.testing.assert_close(eps(patched, rows=(0,)), positive, **close)


@pytest.mark.parametrize("anchor", [False, True], ids=["no identity", "identity"])
def test_the_stock_sampler_draws_the_authors_latent(expected, anchor):
    """Four steps of their v1.1 sampler. They start from noise·σ, ComfyUI from noise·√(1 + σ²)."""
    model, name = unet(1.0), "traj.no_id_cfg7"
    if anchor:
        name = "traj.v2_nz20_s08_cfg7"
        model = anchored(model, adapter(1.0), *UNET_CASES["v2_nz20_s08"])
    text = seeded_input("text2048", (2, 77, TEXT)).split(1)
    pooled = seeded_input("pooled", (2, 1280)).split(1)
    prompts = [[[text[row], {"pooled_output": pooled[row]}]] for row in range(2)]
    first = expected["traj.sigmas"][0]
    noise = seeded_input("noise16", (1, 4, 16, 16)) * first / (1 + first**2) ** 0.5
    latent = comfy.sample.sample(
        model,
        noise,
        4,
        7.0,
        "dpmpp_2m",
        "karras",
        prompts[1],
        prompts[0],
        torch.zeros(1, 4, 16, 16),
        disable_pbar=True,
        seed=0,
    )
    torch.testing.assert_close(latent * 0.13025, expected[name], atol=2e-3, rtol=0)
