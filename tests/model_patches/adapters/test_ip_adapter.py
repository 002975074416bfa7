"""Public IP-Adapter files: every variant told by its tensors, its tokens as the authors make them,
and what is refused. The vectors come from public IP-Adapter code, with seeded weights."""

import ip_files
import pytest
import torch
from flexid.model_patches.adapters.flexip import make_tokens
from flexid.model_patches.adapters.ip_adapter import load_ip_adapter, lora_patches
from safetensors.torch import load_file
from seeding import seeded_input

pytestmark = pytest.mark.comfy

LAYERS = ip_files.layer_shapes([320])
CLOSE = {"atol": 1e-5, "rtol": 0}
SHARP = {"atol": 5e-5, "rtol": 0}


@pytest.fixture(scope="module")
def expected(golden):
    return load_file(golden / "flexip_ipadapter.safetensors")


def opened(folder, variant, sharp=1.0, name="file.safetensors", **options):
    tokens = ip_files.token_shapes(variant)
    lora = 8 if variant in ("faceid", "faceid_plus") else 0
    layers = ip_files.layer_shapes([320], lora=lora)
    path = ip_files.write(folder / name, ip_files.tensors_of(tokens, layers, sharp))
    return load_ip_adapter(path, **options)


def patches():
    names = ("clip_uncond", "clip")
    return {"patches": torch.cat([seeded_input(name, (1, 257, 1280)) for name in names])}


def pooled():
    photo = seeded_input("image_embeds", (1, 1024))
    return {"pooled": torch.cat([torch.zeros_like(photo), photo])}


def face(length=1.0):
    found = seeded_input("id", (1, 512))
    return {"face": torch.cat([torch.zeros_like(found), length * found / found.norm()])}


@pytest.mark.parametrize(
    ("variant", "sharp", "features", "name", "tokens"),
    [
        ("plus", 1.0, patches, "plus.tokens", 16),
        ("plus", 16.0, patches, "plus_sharp.tokens", 16),
        ("base", 1.0, pooled, "base.tokens", 4),
        ("full", 1.0, patches, "full.tokens_s", 0),
        ("faceid", 1.0, face, "faceid.tokens", 4),
        ("portrait", 1.0, face, "portrait.tokens_s", 16),
    ],
)
def test_tokens_are_the_authors(tmp_path, expected, variant, sharp, features, name, tokens):
    adapter = opened(tmp_path, variant, sharp)
    found = make_tokens(adapter, features())
    take = {"full.tokens_s": found[:, ::16, ::2], "portrait.tokens_s": found[..., ::2]}
    tolerance = SHARP if sharp > 1 else CLOSE
    torch.testing.assert_close(take.get(name, found), expected[name], **tolerance)
    assert (adapter.width, adapter.tokens) == (768, tokens)
    assert not adapter.has_personal and adapter.personal is None


def test_proj_in_is_the_authors(tmp_path, expected):
    module = opened(tmp_path, "plus").encoder.model
    with torch.no_grad():
        found = module.proj_in(patches()["patches"])[:, ::32, ::8]
    torch.testing.assert_close(found, expected["plus.proj_in_s"], **CLOSE)


def test_both_versions_of_faceid_plus(tmp_path, expected):
    features = {**face(), **patches()}
    first = opened(tmp_path, "faceid_plus", faceid_version="v1")
    torch.testing.assert_close(make_tokens(first, features), expected["faceid_plus.v1"], **CLOSE)
    second = opened(tmp_path, "faceid_plus", faceid_version="v2")
    for shortcut in (1.0, 2.0):
        second.encoder.model.shortcut = shortcut
        want = expected[f"faceid_plus.v2_s{shortcut:.0f}"]
        torch.testing.assert_close(make_tokens(second, features), want, **CLOSE)
    assert first.encoder_digest != second.encoder_digest
    assert (first.variant, second.variant) == (
        "IP-Adapter FaceID-plus v1",
        "IP-Adapter FaceID-plus v2",
    )


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("ip-adapter-faceid-plusv2_sd15.bin", "v2"),
        ("IP-Adapter-FaceID-PlusV2_sdxl.safetensors", "v2"),
        ("ip-adapter-faceid-plus_sd15.bin", "v1"),
    ],
)
def test_the_name_decides_between_the_versions_when_nobody_does(tmp_path, name, version):
    assert opened(tmp_path, "faceid_plus", name=name).variant.endswith(version)
    other = {"v1": "v2", "v2": "v1"}[version]
    chosen = opened(tmp_path, "faceid_plus", name=name, faceid_version=other)
    assert chosen.variant.endswith(other)


def test_a_raw_embedding_is_brought_to_unit_length(tmp_path):
    adapter = opened(tmp_path, "faceid")
    raw, unit = make_tokens(adapter, face(23.5)), make_tokens(adapter, face())
    torch.testing.assert_close(raw, unit, **CLOSE)


VARIANTS = {
    "base": ("IP-Adapter base", {"pooled": 24}),
    "plus": ("IP-Adapter plus", {"patches": 32}),
    "full": ("IP-Adapter full-face", {"patches": 32}),
    "portrait": ("IP-Adapter FaceID-portrait", {"face": 512}),
    "faceid": ("IP-Adapter FaceID", {"face": 512}),
    "faceid_plus": ("IP-Adapter FaceID-plus v1", {"face": 512, "patches": 32}),
}


def small(variant, widths=(64, 128), lora=None):
    tokens = ip_files.token_shapes(variant, width=64, clip=32, pooled=24)
    rank = lora if lora is not None else 4 * (variant in ("faceid", "faceid_plus"))
    return ip_files.tensors_of(tokens, ip_files.layer_shapes(list(widths), 64, rank))


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_every_variant_is_told_by_its_tensors(tmp_path, variant, suffix):
    adapter = load_ip_adapter(ip_files.write(tmp_path / f"x{suffix}", small(variant)))
    name, reads = VARIANTS[variant]
    assert (adapter.variant, dict(adapter.reads), adapter.width) == (name, reads, 64)
    assert [tuple(key.shape) for key in adapter.preserve.keys] == [(64, 64), (128, 64)]
    assert adapter.preserve.blocks is None
    assert bool(adapter.lora) == (variant in ("faceid", "faceid_plus"))
    assert adapter.patcher is adapter.encoder


def test_an_sdxl_plus_file_is_wider_inside_than_vit_h(tmp_path):
    tokens = ip_files.token_shapes("plus", width=128, clip=64, dim=192)
    tensors = ip_files.tensors_of(tokens, ip_files.layer_shapes([64], 128))
    adapter = load_ip_adapter(ip_files.write(tmp_path / "x.safetensors", tensors))
    dims = adapter.encoder.model.dims
    assert (dims.dim, dims.heads, dims.context, dims.output) == (192, 3, 64, 128)


def test_adapter_modules_is_another_name_of_the_layers(tmp_path):
    tensors = {k.replace("ip_adapter.", "adapter_modules."): t for k, t in small("plus").items()}
    adapter = load_ip_adapter(ip_files.write(tmp_path / "x.bin", tensors))
    assert len(adapter.preserve.keys) == 2


def test_layers_are_kept_in_the_order_of_their_numbers(tmp_path):
    widths = [16 * (index + 1) for index in range(7)]
    adapter = load_ip_adapter(ip_files.write(tmp_path / "x.safetensors", small("base", widths)))
    assert [len(key) for key in adapter.preserve.keys] == widths


def test_a_patcher_is_rebuilt_from_its_file(tmp_path):
    adapter = load_ip_adapter(ip_files.write(tmp_path / "x.safetensors", small("faceid_plus")))
    rebuild, arguments = adapter.encoder.cached_patcher_init
    again = rebuild(*arguments, disable_dynamic=True).model.state_dict()
    for key, tensor in adapter.encoder.model.state_dict().items():
        assert torch.equal(again[key], tensor)


# FaceID's LoRA


def test_lora_patches_name_the_models_weights(tmp_path):
    adapter = load_ip_adapter(ip_files.write(tmp_path / "x.bin", small("faceid", lora=4)))
    names = [f"diffusion_model.{index}.attn{1 + index % 2}" for index in range(4)]
    patches = lora_patches(adapter.lora, names)
    assert len(patches) == 16
    assert "diffusion_model.0.attn1.to_out.0.weight" in patches
    weight = torch.zeros(128, 64)
    patch = patches["diffusion_model.3.attn2.to_k.weight"]
    changed = patch.calculate_weight(weight, "key", 0.5, 1.0, None, lambda x: x, torch.float32)
    up, down = (adapter.lora[f"3.to_k_lora.{side}.weight"] for side in ("up", "down"))
    torch.testing.assert_close(changed, 0.5 * up @ down)
    with pytest.raises(ValueError, match="attention layer 3; this model has 2"):
        lora_patches(adapter.lora, names[:2])


# Refused


def damaged(variant="plus", drop="", rename=("", ""), **changes):
    tensors = {
        k.replace(*rename): t for k, t in small(variant).items() if not drop or drop not in k
    }
    return {**tensors, **{key.replace("__", "."): value for key, value in changes.items()}}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (damaged(drop="layers.2.0.norm1"), r"2 of 51 tensors are missing"),
        (damaged(drop="image_proj"), "half an IP-Adapter: 0 tensors begin with 'image_proj.'"),
        (damaged(drop="ip_adapter"), "half an IP-Adapter: 0 tensors begin with 'ip_adapter.'"),
        (damaged(drop="3.to_v_ip"), "2 keys and 1 values, expected the same number"),
        (damaged(rename=("ip_adapter.3", "ip_adapter.5")), "numbered 1, 3, 5, ... without gaps"),
        (damaged("base", drop="norm"), "has no tensor norm.weight"),
        (damaged(ip_adapter__1__to_k_ip__weight=torch.zeros(64, 32)), r"expected the same.*64\)"),
        (damaged(ip_adapter__2__to_z_ip__weight=torch.zeros(2, 2)), "2.to_z_ip.weight, which no"),
        (damaged(optimizer__x=torch.zeros(2)), r"1 tensors that do not belong to it \(optimizer.x"),
        (damaged(ip_adapter__1__to_k_ip__weight=torch.full((64, 64), torch.nan)), "NaN or inf"),
        (damaged(ip_adapter__1__to_k_ip__weight=torch.zeros(64, 64).int()), "not floating point"),
        (damaged("faceid", drop="2.to_q_lora.up"), "its other half missing, expected"),
        (
            damaged("faceid", ip_adapter__8__to_q_lora__down__weight=torch.zeros(4, 64)),
            "8.to_q_lora.down.weight is .* other half missing",
        ),
    ],
    ids=range(13),
)
def test_an_altered_file_is_refused(tmp_path, tensors, message):
    path = ip_files.write(tmp_path / "x.safetensors", tensors)
    with pytest.raises(ValueError, match=message) as caught:
        load_ip_adapter(path)
    assert "Use" in str(caught.value) and "h94/IP-Adapter" in str(caught.value)


@pytest.mark.parametrize(
    ("shapes", "name"),
    [
        (
            {"image_proj.proj_in.weight": (64, 512), "ip_adapter.1.to_k_ip.weight": (64, 64)},
            "Insta",
        ),
        ({"pulid_ca.0.to_q.weight": (64, 64)}, "a PuLID adapter for Flux"),
        ({"image_proj.body.0.weight": (4, 4), "ip_adapter.1.to_k_ip.weight": (4, 4)}, "PuLID v1"),
        ({"double_blocks.0.processor.ip_adapter_double_stream_k_proj.weight": (4, 4)}, "for Flux"),
        ({"weight": (2, 2)}, "of no known kind"),
    ],
)
def test_another_kind_of_file_is_refused_by_name(tmp_path, shapes, name):
    tensors = {key: torch.zeros(shape) for key, shape in shapes.items()}
    with pytest.raises(ValueError, match=name):
        load_ip_adapter(ip_files.write(tmp_path / "x.safetensors", tensors))
