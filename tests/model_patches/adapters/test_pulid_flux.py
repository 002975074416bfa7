"""PuLID-FLUX files of every size and dtype, and what every other file is called."""

import comfy.memory_management
import comfy.model_patcher
import pytest
import torch
from flexid.mini.random_adapter import write_adapter, write_eva_clip
from flexid.model_patches.adapters.pulid_flux import (
    BLOCKS_KEY,
    HEADS_KEY,
    WANTED,
    attention_shapes,
    encode_tokens,
    load_adapter,
    load_encoder,
    open_adapter_file,
    state_blocks,
)
from safetensors.torch import load_file, save_file
from seeding import golden_shapes

pytestmark = pytest.mark.comfy


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    return write_adapter(tmp_path_factory.mktemp("pulid") / "small.safetensors", 1)


def _inputs(photos=1):
    generator = torch.Generator().manual_seed(3)
    condition = torch.randn(1, photos, 1280, generator=generator)
    return condition, torch.randn(1, 5, photos * 65, 128, generator=generator)


def test_small_adapter(small):
    adapter = load_adapter(small)
    assert (adapter.family, adapter.name) == ("pulid_flux", "small.safetensors")
    assert (adapter.count, adapter.dim, adapter.token_dim, adapter.tokens) == (2, 256, 256, 32)
    assert adapter.heads == 2 and adapter.encoder.model.dims.heads == 2
    assert adapter.patcher is adapter.encoder
    assert isinstance(adapter.patcher, comfy.model_patcher.ModelPatcher)
    tokens = encode_tokens(adapter, *_inputs())
    assert tokens.shape == (1, 32, 256)
    assert tokens.dtype == torch.float32 and tokens.device.type == "cpu"


def test_cross_attention_is_the_file_s(small):
    adapter, stored = load_adapter(small), load_file(small)
    assert len(adapter.cross_attention) == 14
    for key, tensor in adapter.cross_attention.items():
        assert tensor.dtype == torch.bfloat16 and tensor.device.type == "cpu"
        assert torch.equal(tensor, stored[f"pulid_ca.{key}"])
    with pytest.raises(TypeError):
        adapter.cross_attention["0.norm1.weight"] = None


def test_published_layout(golden):
    """The list of cross-attention keys derived here is the published one."""
    published = golden_shapes(golden, "pulid_flux", "pulid_ca.")
    derived = attention_shapes(20, 3072, 2048, 2048)
    assert {f"pulid_ca.{key}": shape for key, shape in derived.items()} == published


@pytest.mark.parametrize(
    ("blocks", "count"), [((2, 4), 2), ((3, 6), 4), ((19, 38), 20), ((1, 1), 2), ((8, 0), 4)]
)
def test_one_layer_for_every_second_and_fourth_block(tmp_path, blocks, count):
    double, single = blocks
    path = write_adapter(
        tmp_path / "a.safetensors", hidden=128, double_blocks=double, single_blocks=single
    )
    adapter = load_adapter(path)
    assert (adapter.count, adapter.dim, adapter.heads) == (count, 128, 1)


def test_other_dimensions(tmp_path):
    path = write_adapter(
        tmp_path / "a.safetensors",
        hidden=384,
        token_dim=64,
        dim=192,
        layers=10,
        tokens=7,
        id_tokens=2,
        vision=64,
        pooled=32,
    )
    adapter = load_adapter(path)
    dims = adapter.encoder.model.dims
    assert (dims.heads, dims.depth, dims.id_tokens, dims.condition) == (3, 2, 2, 544)
    tokens = encode_tokens(adapter, torch.ones(2, 1, 544), torch.ones(2, 5, 17, 64))
    assert tokens.shape == (2, 7, 64)


def test_heads_from_the_metadata(tmp_path, small):
    tensors = load_file(small)
    for heads in ("4", "1"):
        save_file(tensors, tmp_path / "x.safetensors", {HEADS_KEY: heads})
        assert load_adapter(tmp_path / "x.safetensors").heads == int(heads)
    save_file(tensors, tmp_path / "x.safetensors")
    assert load_adapter(tmp_path / "x.safetensors").heads == 2


def test_blocks_from_the_metadata(tmp_path, small):
    blocks = (("double_block", 1), ("single_block", 0))
    assert state_blocks(blocks) == {BLOCKS_KEY: "double 1, single 0"} and not state_blocks(None)
    path = tmp_path / "x.safetensors"
    save_file(load_file(small), path, state_blocks(blocks))
    assert load_adapter(path).blocks == open_adapter_file(path).blocks == blocks
    assert load_adapter(small).blocks is None


@pytest.mark.parametrize(
    "text", ["", "double 1", "double 1, double 1", "double 1, middle 0", "single 01, single 2"]
)
def test_blocks_that_are_no_list_of_places(tmp_path, small, text):
    save_file(load_file(small), tmp_path / "x.safetensors", {BLOCKS_KEY: text})
    with pytest.raises(ValueError, match=r"has 2 cross-attention layers.*2 different blocks"):
        load_adapter(tmp_path / "x.safetensors")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_dtypes_agree(tmp_path, small, dtype):
    save_file({k: t.to(dtype) for k, t in load_file(small).items()}, tmp_path / "x.safetensors")
    adapter = load_adapter(tmp_path / "x.safetensors")
    assert adapter.cross_attention["0.to_q.weight"].dtype == dtype
    got, expected = (encode_tokens(a, *_inputs()) for a in (adapter, load_adapter(small)))
    torch.testing.assert_close(got, expected, atol=2e-2 * expected.std().item(), rtol=0)


def test_pt_loads_like_safetensors(tmp_path, small):
    torch.save({"state_dict": load_file(small)}, tmp_path / "x.pt")
    got, expected = (load_adapter(p) for p in (tmp_path / "x.pt", small))
    assert torch.equal(encode_tokens(got, *_inputs()), encode_tokens(expected, *_inputs()))
    assert got.digest != expected.digest


def test_encoder_digest_is_of_the_encoder_alone(tmp_path, small):
    """An EditIDv2 file shares PuLID's encoder: its tokens fit, whatever the attention is."""
    tensors = load_file(small)
    other = {k: t + 1 if k.startswith("pulid_ca.") else t for k, t in tensors.items()}
    torch.save({"state_dict": other}, tmp_path / "other.pt")
    retrained = {**tensors, MAPPING: tensors[MAPPING] * 1.01}
    save_file(retrained, tmp_path / "retrained.safetensors")
    one, two, three = (
        load_adapter(path)
        for path in (small, tmp_path / "other.pt", tmp_path / "retrained.safetensors")
    )
    assert one.encoder_digest == two.encoder_digest != three.encoder_digest
    assert len({one.digest, two.digest, three.digest}) == 3


def test_same_seed_same_file(tmp_path, small):
    again = write_adapter(tmp_path / "again.safetensors", 1)
    other = write_adapter(tmp_path / "other.safetensors", 2)
    assert again.read_bytes() == small.read_bytes() != other.read_bytes()
    assert load_adapter(again).digest == load_adapter(small).digest != load_adapter(other).digest
    assert small.stat().st_size < 10e6
    tower = write_eva_clip(tmp_path / "eva.safetensors", 1)
    assert tower.read_bytes() == write_eva_clip(tmp_path / "e.safetensors", 1).read_bytes()
    assert tower.stat().st_size < 10e6


def _attend(adapter, index, identity, image):
    """Cross-attention by its definition, independent of the injection's code."""
    w = {k.split(".", 1)[1]: t.float() for k, t in adapter.cross_attention.items() if k[0] == index}
    norm = torch.nn.functional.layer_norm
    a = norm(identity, identity.shape[-1:], w["norm1.weight"], w["norm1.bias"])
    b = norm(image, image.shape[-1:], w["norm2.weight"], w["norm2.bias"])
    k, v = (a @ w["to_kv.weight"].T).chunk(2, dim=-1)
    q, k, v = (
        x.unflatten(-1, (adapter.heads, -1)).transpose(1, 2) for x in (b @ w["to_q.weight"].T, k, v)
    )
    weights = (q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2) @ w["to_out.weight"].T


@pytest.mark.parametrize("strength", [1.0, 0.25])
@pytest.mark.parametrize("scale", [0.1, 1.0, 30.0])
def test_random_layers_are_strong_enough_to_see(tmp_path, strength, scale):
    adapter = load_adapter(write_adapter(tmp_path / "a.safetensors", 5, strength=strength))
    identity = encode_tokens(adapter, *_inputs())
    image = torch.randn(1, 64, 256) * scale
    for index in "01":
        size = _attend(adapter, index, identity, image).square().mean().sqrt()
        assert 0.5 * strength < size < 2 * strength


def test_comfyui_can_rebuild_the_encoder(small):
    patcher = load_adapter(small).encoder
    build, arguments = patcher.cached_patcher_init
    again = build(*arguments, disable_dynamic=True)
    assert build is load_encoder and type(again) is comfy.model_patcher.ModelPatcher
    for key, tensor in patcher.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[key])


def test_lazily_created_weights_load_the_same(small, monkeypatch):
    """With dynamic VRAM on, ComfyUI's layers have no weight until the state dict arrives."""
    expected = encode_tokens(load_adapter(small), *_inputs())
    monkeypatch.setattr(comfy.memory_management, "aimdo_enabled", True)
    adapter = load_adapter(small)
    monkeypatch.undo()
    assert torch.equal(encode_tokens(adapter, *_inputs()), expected)


def _without(tensors, *keys):
    return {k: t for k, t in tensors.items() if k not in keys}


def _name_ones(table, prefix=""):
    """A file with the key names of `table` and one-element tensors."""
    return {f"{prefix}{key}": torch.ones(1) for key in table}


IP = {"ip_adapter.1.to_k_ip.weight": torch.ones(4, 4)}
KV = "pulid_ca.1.to_kv.weight"
MAPPING = "pulid_encoder.mapping_2.3.weight"

BAD = {
    "sdxl 1.1": (
        lambda t: _name_ones(["id_adapter.latents", "id_adapter_attn_layers.1.id_to_k.weight"]),
        ["PuLID v1.1 for SDXL", "no layers for Flux"],
    ),
    "sdxl 1": (
        lambda t: _name_ones(
            ["id_adapter.body.0.weight", "id_adapter_attn_layers.1.id_to_k.weight"]
        ),
        ["PuLID v1 for SDXL", "no layers for Flux"],
    ),
    "sdxl 1, ipadapter layout": (
        lambda t: IP | _name_ones(["image_proj.mapping_patch_0.0.weight"]),
        ["PuLID v1 for SDXL in the IPAdapter layout"],
    ),
    "ip-adapter": (
        lambda t: IP | _name_ones(["image_proj.proj.weight"]),
        ["an IP-Adapter for Stable Diffusion"],
    ),
    "ip-adapter faceid": (
        lambda t: IP | _name_ones(["ip_adapter.0.to_q_lora.down.weight"]),
        ["IP-Adapter FaceID"],
    ),
    "instantid": (
        lambda t: IP | {"image_proj.proj_in.weight": torch.ones(2, 512)},
        ["InstantID"],
    ),
    "lora": (
        lambda t: _name_ones(["lora_unet_double_blocks_0_img_attn_proj.lora_up.weight"]),
        ["a LoRA", "models/loras"],
    ),
    "flux": (
        lambda t: _name_ones(["double_blocks.0.img_attn.qkv.weight"]),
        ["a Flux base model", "models/diffusion_models"],
    ),
    "stable diffusion": (
        lambda t: _name_ones(["model.diffusion_model.input_blocks.0.0.weight"]),
        ["Stable Diffusion base model", "models/checkpoints"],
    ),
    "text encoder": (
        lambda t: _name_ones(["text_model.encoder.layers.0.mlp.fc1.weight"]),
        ["a text encoder"],
    ),
    "clip vision": (
        lambda t: _name_ones(["vision_model.encoder.layers.0.mlp.fc1.weight"]),
        ["CLIP", "Load CLIP Vision"],
    ),
    "vae": (lambda t: _name_ones(["decoder.conv_in.weight"]), ["a VAE", "models/vae"]),
    "controlnet": (lambda t: _name_ones(["controlnet_blocks.0.weight"]), ["a ControlNet"]),
    "identity": (
        lambda t: _name_ones(["tokens.pulid_flux", "unconditional.pulid_flux"]),
        ["an identity saved by FlexID", "Load Identity node"],
    ),
    "empty": (lambda t: {}, ["no tensors"]),
    "random": (lambda t: {"x": torch.ones(1), "y": torch.ones(2)}, ["no known kind", "2 tensors"]),
    "encoder only": (
        lambda t: {k: v for k, v in t.items() if k.startswith("pulid_encoder")},
        ["half a PuLID adapter", "pulid_ca."],
    ),
    "attention only": (
        lambda t: {k: v for k, v in t.items() if k.startswith("pulid_ca")},
        ["half a PuLID adapter", "pulid_encoder."],
    ),
    "missing tensors": (
        lambda t: _without(t, MAPPING, "pulid_encoder.layers.3.0.norm1.bias"),
        ["2 of ", "missing", "mapping_2.3.weight", "layers.3.0.norm1.bias"],
    ),
    "missing attention tensor": (
        lambda t: _without(t, KV),
        ["1 of 14 tensors are missing", "1.to_kv.weight"],
    ),
    "missing size": (
        lambda t: _without(t, "pulid_encoder.latents"),
        ["no tensor latents", "dimensions"],
    ),
    "foreign module": (
        lambda t: {**t, "optimizer.step": torch.ones(1)},
        ["1 tensors that do not belong", "optimizer.step"],
    ),
    "foreign tensor": (
        lambda t: {**t, "pulid_ca.0.to_q.bias": torch.ones(256)},
        ["1 tensors do not belong", "0.to_q.bias"],
    ),
    "wrong shape": (
        lambda t: {**t, KV: torch.ones(510, 256)},
        ["1 tensors have another shape", "1.to_kv.weight is (510, 256), expected (512, 256)"],
    ),
    "token widths differ": (
        lambda t: {**t, "pulid_encoder.proj_out": torch.ones(128, 300)},
        ["tokens of 300 channels", "takes 256"],
    ),
    "quantised": (
        lambda t: {**t, KV: torch.ones(512, 256, dtype=torch.int8)},
        ["1.to_kv.weight is torch.int8", "16- or 32-bit"],
    ),
    "complex": (
        lambda t: {**t, MAPPING: torch.ones(128, 128, dtype=torch.complex64)},
        ["mapping_2.3.weight is torch.complex64", "16- or 32-bit"],
    ),
    "a gap in the attention": (
        lambda t: {**t, "pulid_ca.99999999.x": torch.ones(1)},
        ["3 layers", "not numbered 0 to 2", "99999999"],
    ),
    "a gap in the encoder": (
        lambda t: {**t, "pulid_encoder.layers.99999999.0.x": torch.ones(1)},
        ["6 layers layers.*", "not numbered 0 to 5", "layers.99999999"],
    ),
    "NaN in the attention": (
        lambda t: {**t, KV: torch.full((512, 256), float("nan"))},
        ["NaN or infinite values in 1 of 14 tensors (1.to_kv.weight)"],
    ),
    "infinity in the encoder": (
        lambda t: {**t, MAPPING: torch.full((128, 128), float("-inf"))},
        ["NaN or infinite values in 1 of", "mapping_2.3.weight"],
    ),
    "uneven groups": (
        lambda t: _without(t, *[k for k in t if k.startswith("pulid_encoder.layers.4.")]),
        ["4 layers", "5 groups"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_named(tmp_path, small, case):
    change, facts = BAD[case]
    path = tmp_path / "odd.safetensors"
    save_file(change(load_file(small)), path)
    with pytest.raises(ValueError) as error:
        load_adapter(path)
    for fact in ["odd.safetensors", WANTED, *facts]:
        assert fact in str(error.value)


@pytest.mark.parametrize(
    ("metadata", "fact"),
    [
        ("3", "3 heads"),
        ("x", "x heads"),
        ("0", "0 heads"),
        ("256", "256 heads.*16 to 256 channels"),
        ("٢", "heads"),
        ("9" * 5000, "99999 heads"),
    ],
)
def test_bad_head_counts(tmp_path, small, metadata, fact):
    save_file(load_file(small), tmp_path / "x.safetensors", {HEADS_KEY: metadata})
    with pytest.raises(ValueError, match=f"width 256.*{fact}"):
        load_adapter(tmp_path / "x.safetensors")


def test_sdxl_pickle_is_recognised_too(tmp_path):
    names = ["body.0.weight", "mapping_i.0.weight"]
    torch.save({"id_adapter": _name_ones(names)}, tmp_path / "pulid_v1.bin")
    with pytest.raises(ValueError, match="pulid_v1.bin is PuLID v1 for SDXL"):
        load_adapter(tmp_path / "pulid_v1.bin")


def test_tower_in_place_of_the_adapter(tmp_path):
    path = write_eva_clip(tmp_path / "e.safetensors")
    with pytest.raises(ValueError, match="EVA02-CLIP vision tower.*Load EVA-CLIP"):
        load_adapter(path)


def test_cut_short(tmp_path, small):
    data = small.read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(
        ValueError, match=f"cut short: {len(data) // 2} bytes, expected.*{len(data)}"
    ):
        load_adapter(tmp_path / "cut.safetensors")


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="pulid_flux_v0.9.1.safetensors.*models/pulid"):
        load_adapter(tmp_path / "gone.safetensors")
