"""Parity with the authors' modules: vectors in tests/golden, weights from key names and shapes."""

import json

import comfy.model_patcher
import comfy.supported_models
import pytest
import tiny
import torch
from einops import rearrange
from flexid.mini.flux_layout import flux_config
from flexid.model_patches.gates.gate import Gate
from flexid.model_patches.gates.window import Window
from flexid.model_patches.inject.flux import flux_sites
from flexid.model_patches.inject.pulid import cross_attention, folded_for, layer_weights
from flexid.model_patches.inject.region import Coverage, Region
from flexid.model_patches.inject.run import KEY
from flexid.model_patches.inject.vfa import apply_vfa
from identities import identity_of
from safetensors.torch import load_file
from seeding import seeded, seeded_input

pytestmark = pytest.mark.comfy

CA_SHAPES = {
    "norm1.weight": (2048,),
    "norm1.bias": (2048,),
    "norm2.weight": (3072,),
    "norm2.bias": (3072,),
    "to_q.weight": (2048, 3072),
    "to_kv.weight": (4096, 2048),
    "to_out.weight": (3072, 2048),
}


@pytest.fixture(scope="module")
def ca(golden):
    return load_file(golden / "pulid_ca.safetensors")


@pytest.fixture(scope="module", params=[0, 7, 10, 19])
def layer(request):
    number = request.param
    weights = {k: seeded(f"pulid_ca.{number}.{k}", s) for k, s in CA_SHAPES.items()}
    return number, weights


def _both(weights, tokens, image):
    """The definition, and the folded form for every identity row on its own."""
    defined = cross_attention(weights, 16, tokens, image)
    adapter = tiny.adapter(
        digest=f"golden-{weights['to_q.weight'][0, 0]}",
        cross_attention={f"0.{name}": value for name, value in weights.items()},
        heads=16,
    )
    rows = []
    for row in range(len(image)):
        person = tokens[min(row, len(tokens) - 1)].unsqueeze(0)
        stack = folded_for(adapter, person, torch.float32).model
        rows.append(stack[0](image[row : row + 1]))
    return defined, torch.cat(rows)


INPUTS = {
    "out_1x64": ("id_embedding", (1, 32, 2048), "img_1x64x3072", (1, 64, 3072), 1.0),
    "out_2x256": ("id_embedding_b2", (2, 32, 2048), "img_2x256x3072", (2, 256, 3072), 1.0),
    "out_2x256_id1": ("id_embedding", (1, 32, 2048), "img_2x256x3072", (2, 256, 3072), 1.0),
    "out_1x64_n64": ("id_embedding_n64", (1, 64, 2048), "img_1x64x3072", (1, 64, 3072), 1.0),
    "out_1x64_zeroid": (None, (1, 32, 2048), "img_1x64x3072", (1, 64, 3072), 1.0),
    "out_1x64_small3e-3": ("id_embedding", (1, 32, 2048), "img_1x64x3072", (1, 64, 3072), 3e-3),
}
SAMPLES = {
    "out_1x64": lambda x: x,
    "out_1x64.s4": lambda x: x[:, :, ::4],
    "out_2x256.s8x16": lambda x: x[:, ::8, ::16],
    "out_2x256_id1.s8x16": lambda x: x[:, ::8, ::16],
    "out_1x64_n64.s4": lambda x: x[:, ::2, ::4],
    "out_1x64_zeroid.s4": lambda x: x[:, ::8, ::4],
    "out_1x64_small3e-3.s4": lambda x: x[:, ::4, ::4],
}


def test_cross_attention_and_its_folded_form(ca, layer):
    number, weights = layer
    checked = 0
    for name, take in SAMPLES.items():
        key = f"ca.{number}.{name}"
        if key not in ca:
            continue
        token_name, token_shape, image_name, image_shape, scale = INPUTS[_case(name)]
        tokens = seeded_input(token_name, token_shape) if token_name else torch.zeros(token_shape)
        image = seeded_input(image_name, image_shape)
        for form in _both(weights, tokens * scale, image * scale):
            torch.testing.assert_close(take(form), ca[key], atol=5e-6, rtol=0)
        checked += 1
    assert checked == len([key for key in ca if key.startswith(f"ca.{number}.")])


def _case(name):
    return max((case for case in INPUTS if name.startswith(case)), key=len)


def test_folding_is_exact_to_float_rounding():
    """Relative error below 1e-5 at Flux.1 width against the definition."""
    weights = {k: seeded(f"pulid_ca.3.{k}", s) for k, s in CA_SHAPES.items()}
    tokens = seeded_input("id_embedding", (1, 32, 2048))
    image = seeded_input("img_1x64x3072", (1, 64, 3072))
    defined, folded = _both(weights, tokens, image)
    assert (folded - defined).norm() / defined.norm() < 1e-5


# End to end: the unmodified ComfyUI Flux

CONFIG = {
    "vec_in_dim": tiny.VECTOR,
    "num_heads": 4,
    "axes_dim": [16, 24, 24],
    "depth": 3,
    "depth_single_blocks": 6,
}


def _tiny_flux(gain):
    config = flux_config(**CONFIG)
    settings = comfy.supported_models.Flux({"image_model": "flux", **config})
    settings.set_inference_dtype(torch.float32, None)
    base = settings.get_model({}, "")
    weights = {}
    for name, value in base.diffusion_model.state_dict().items():
        # Hashed under the name on disk, "scale"; ComfyUI calls it "weight" in memory.
        disk = name.replace("_norm.weight", "_norm.scale")
        weights[name] = seeded(disk, tuple(value.shape)) * (gain if value.ndim >= 2 else 1.0)
    base.diffusion_model.load_state_dict(weights, strict=True)
    cpu = torch.device("cpu")
    return comfy.model_patcher.CoreModelPatcher(base, load_device=cpu, offload_device=cpu)


def _tiny_adapter(gain, golden):
    shapes = json.loads((golden / "pulid_keys.json").read_text())["tiny_flux"]
    weights = {}
    for name, shape in shapes.items():
        if name.startswith("pulid_ca."):
            value = seeded(name, tuple(shape)) * (gain if len(shape) >= 2 else 1.0)
            weights[name.removeprefix("pulid_ca.")] = value
    return tiny.adapter(cross_attention=weights, heads=4, digest=f"golden-tiny-{gain}")


def _identity(name="id_embedding", tokens=32):
    uncond = seeded_input("uncond_id_embedding", (1, 32, 2048))
    person = seeded_input(name, (1, tokens, 2048))
    return identity_of({"pulid_flux": person}, {"pulid_flux": uncond})


def _velocity(model, prompt="", batch=1, cond_or_uncond=(0,), tokens=None):
    """Velocity tokens (B, 96, 64) of one call through ComfyUI's apply_model and wrappers."""
    suffix = "" if batch == 1 else "_b2"
    latent = seeded_input(f"latent{suffix}", (batch, 16, 16, 24))
    options = {
        **model.model_options["transformer_options"],
        "wrappers": model.wrappers,
        "cond_or_uncond": list(cond_or_uncond),
    }
    sigma = torch.full((batch,), 0.75)
    text = "txt" if not prompt else f"{prompt}_txt"
    vec = "vec" if not prompt else f"{prompt}_vec"
    captured = {}
    sampling = model.model.model_sampling
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            sampling, "calculate_denoised", lambda s, out, x: captured.setdefault("v", out)
        )
        model.model.apply_model(
            latent,
            sigma,
            c_crossattn=seeded_input(f"{text}{suffix}", (batch, 16, 64)),
            y=seeded_input(f"{vec}{suffix}", (batch, 32)),
            guidance=torch.full((batch,), 4.0),
            transformer_options=options,
        )
    return rearrange(captured["v"], "b c (h y) (w x) -> b (h w) (c y x)", y=2, x=2)


@pytest.fixture(scope="module", params=["", "strong."], ids=["plain", "strong"])
def world(request, golden):
    gain = 3.0 if request.param else 1.0
    vectors = load_file(golden / "pulid_flux_tiny_e2e.safetensors")
    return request.param, vectors, _tiny_flux(gain), _tiny_adapter(gain, golden)


CFG_GAIN = 7  # 4·pos - 3·neg adds up the rounding of both


def _check(world, name, got, gain=1):
    prefix, vectors, *_ = world
    atol = gain * (2e-4 if prefix else 1e-5)
    torch.testing.assert_close(got, vectors[prefix + name], atol=atol, rtol=0)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, -1.0])
def test_weights(world, weight):
    _, _, model, adapter = world
    patched = apply_vfa(model, adapter, _identity(), weight=weight)
    _check(world, f"w{weight:g}", _velocity(patched))


def test_without_identity(world):
    _check(world, "no_id", _velocity(world[2]))


def test_sixty_four_tokens(world):
    _, _, model, adapter = world
    _check(world, "w1_n64", _velocity(apply_vfa(model, adapter, _identity("id_embedding_n64", 64))))


def test_concatenated_identities(world):
    _, _, model, adapter = world
    first, second = _identity(), _identity("id_embedding.second")
    parts = [person.encodings["pulid_flux"] for person in (first, second)]
    tokens = torch.cat([part.tokens for part in parts], dim=1)
    both = identity_of({"pulid_flux": tokens}, {"pulid_flux": parts[0].null})
    _check(world, "multi_concat_id", _velocity(apply_vfa(model, adapter, both)))


def test_one_identity_for_a_batch(world):
    _, _, model, adapter = world
    _check(world, "b2_id1_w1", _velocity(apply_vfa(model, adapter, _identity()), batch=2))


def test_one_identity_per_image_of_a_batch(world):
    _, _, model, adapter = world
    pair = seeded_input("id_embedding_b2", (2, 32, 2048))
    patched = model
    for row in range(2):
        person = identity_of({"pulid_flux": pair[row : row + 1]})
        mask = torch.zeros(2, 16, 24)
        mask[row] = 1
        patched = apply_vfa(patched, adapter, person, mask=mask)
    _check(world, "b2_id2_w1", _velocity(patched, batch=2))


def test_negative_prompt_gets_the_unconditional_identity(world):
    _, _, model, adapter = world
    patched = apply_vfa(model, adapter, _identity())
    negative = _velocity(patched, "neg", cond_or_uncond=(1,))
    _check(world, "neg_w1_uncond", negative)
    positive = _velocity(patched)
    _check(world, "true_cfg4", negative + 4 * (positive - negative), CFG_GAIN)


def test_negative_prompt_with_the_same_identity(world):
    _, _, model, adapter = world
    patched = apply_vfa(model, adapter, _identity(), negative="same")
    negative = _velocity(patched, "neg", cond_or_uncond=(1,))
    _check(world, "neg_w1_condid", negative)
    both = negative + 4 * (_velocity(patched) - negative)
    _check(world, "cfg4_condid_both", both, CFG_GAIN)


def test_parallel_identities(world):
    _, _, model, adapter = world
    patched = apply_vfa(model, adapter, _identity(), weight=0.7)
    patched = apply_vfa(patched, adapter, _identity("id_embedding.second"), weight=0.4)
    _check(world, "multi_parallel", _velocity(patched))


def test_token_mask(world, monkeypatch):
    """The stored mask has a weight per token, so it enters where pixel masks have become one."""
    _, vectors, model, adapter = world
    weights = vectors["token_mask"].squeeze(-1)
    covered = (weights[0] > 0).nonzero().squeeze(1)
    coverage = Coverage(covered, weights[:, covered])
    monkeypatch.setattr(Region, "cover", lambda *_: coverage)
    patched = apply_vfa(model, adapter, _identity(), mask=torch.ones(8, 8))
    _check(world, "w1_masked", _velocity(patched))


def test_block_schedule(golden):
    schedule = json.loads((golden / "pulid_flux_block_schedule.json").read_text())
    model = tiny.flux(hidden_size=128, num_heads=1, depth=19, depth_single_blocks=38)
    expected = [
        (f"{entry['kind']}_block", entry["block"])
        for entry in sorted(schedule["flux_19_38"]["entries"], key=lambda entry: entry["ca"])
    ]
    sites = flux_sites(model, 20, 128, "an adapter", "Apply VFA")
    assert [(site.kind, site.number) for site in sites] == expected


def test_a_window_closed_at_this_time_is_no_identity(world):
    _, _, model, adapter = world
    patched = apply_vfa(model, adapter, _identity(), gate=Gate((Window(0.9, 1.0),)))
    assert KEY in patched.model_options["transformer_options"]["patches"]
    _check(world, "no_id", _velocity(patched))


def test_layer_weights_drop_the_number():
    assert set(layer_weights(tiny.adapter().cross_attention, 1)) == set(CA_SHAPES)
