"""PuLID files for SDXL: both versions and layouts, their tokens as the authors' code makes them."""

import ip_files
import pytest
import torch
from flexid.model_patches.adapters.pulid_flux import encode_tokens
from flexid.model_patches.adapters.pulid_sdxl import load_sdxl_adapter
from safetensors.torch import load_file
from seeding import golden_shapes, seeded_input

pytestmark = pytest.mark.comfy

V1, V11 = {"atol": 1e-5, "rtol": 0}, {"atol": 5e-5, "rtol": 0}


@pytest.fixture(scope="module")
def expected(golden):
    return load_file(golden / "pulid_sdxl.safetensors")


def other_layout(tensors):
    """The same in the layout of IP-Adapter files."""
    renamed = {}
    for key, tensor in tensors.items():
        key = key.replace("id_adapter_attn_layers.", "ip_adapter.")
        key = key.replace("id_adapter.", "image_proj.")
        for part in ("k", "v"):
            key = key.replace(f".id_to_{part}.", f".to_{part}_ip.")
        renamed[key] = tensor
    return renamed


def v11_shapes(golden):
    prefix = "pulid_encoder."
    shapes = golden_shapes(golden, "pulid_flux", prefix)
    return {key.removeprefix(prefix): shape for key, shape in shapes.items()}


def photo(suffix=""):
    arcface = seeded_input(f"arcface{suffix}", (1, 512))
    pooled = seeded_input(f"eva_pooled{suffix}", (1, 768))
    pooled = pooled / pooled.norm(dim=-1, keepdim=True)
    levels = [seeded_input(f"eva_hidden{suffix}.{i}", (1, 577, 1024)) for i in range(5)]
    return torch.cat((arcface, pooled), dim=-1)[:, None], torch.stack(levels, dim=1)


def both_photos():
    (condition, hidden), (condition_1, hidden_1) = photo(), photo(".ref1")
    return torch.cat((condition, condition_1), dim=1), torch.cat((hidden, hidden_1), dim=2)


def nobody():
    return torch.zeros(1, 1, 1280), torch.zeros(1, 5, 577, 1024)


def test_version_1_makes_the_authors_tokens(tmp_path, expected):
    path = ip_files.write(
        tmp_path / "pulid_v1.safetensors", ip_files.pulid_sdxl(ip_files.pulid_v1_shapes())
    )
    adapter = load_sdxl_adapter(path)
    assert (adapter.version, adapter.tokens, adapter.token_dim) == ("1", 10, 2048)
    tokens = encode_tokens(adapter, *photo())
    torch.testing.assert_close(tokens, expected["v1.tokens"], **V1)
    torch.testing.assert_close(encode_tokens(adapter, *nobody()), expected["v1.uncond"], **V1)
    other = encode_tokens(adapter, *photo(".ref1"))
    torch.testing.assert_close(other[..., ::4], expected["v1.tokens.ref1.s4"], **V1)
    module, hidden = adapter.encoder.model, photo()[1]
    for level in (0, 4):
        with torch.no_grad():
            whole = module.get_submodule(f"mapping_{level}")(hidden[:, level, :1])
            patches = module.get_submodule(f"mapping_patch_{level}")(hidden[:, level, 1:])
        for part, value in (("cls", whole), ("patch", patches.mean(1, keepdim=True))):
            want = expected[f"v1.{part}_part.{level}.s8"]
            torch.testing.assert_close(value[..., ::8], want, **V1)
    pair = both_photos()
    joint = encode_tokens(adapter, *pair)
    torch.testing.assert_close(joint, torch.cat((tokens, other[:, :5]), dim=1), **V1)


def test_version_1_1_makes_the_authors_tokens(tmp_path, golden, expected):
    path = ip_files.write(
        tmp_path / "pulid_v1.1.safetensors", ip_files.pulid_sdxl(v11_shapes(golden))
    )
    adapter = load_sdxl_adapter(path)
    assert (adapter.version, adapter.tokens, adapter.token_dim) == ("1.1", 32, 2048)
    torch.testing.assert_close(encode_tokens(adapter, *photo()), expected["v11.tokens"], **V11)
    torch.testing.assert_close(encode_tokens(adapter, *nobody()), expected["v11.uncond"], **V11)
    pair = both_photos()
    together = encode_tokens(adapter, *pair)
    torch.testing.assert_close(together[..., ::4], expected["v11.multi2.s4"], **V11)


def small(widths=(64, 128)):
    return ip_files.pulid_sdxl(ip_files.pulid_v1_shapes(48, 32, 24, 40), widths, 40)


def test_both_layouts_and_a_pickle_hold_the_same(tmp_path):
    tensors = small()
    ours = load_sdxl_adapter(ip_files.write(tmp_path / "a.safetensors", tensors))
    assert [tuple(key.shape) for key in ours.stream.keys] == [(64, 40), (128, 40)]
    torch.save(tensors, tmp_path / "b.bin")
    paths = [
        tmp_path / "b.bin",
        ip_files.write(tmp_path / "c.safetensors", other_layout(tensors)),
        ip_files.write(tmp_path / "d.bin", other_layout(tensors)),
    ]
    for path in paths:
        theirs = load_sdxl_adapter(path)
        assert theirs.encoder_digest == ours.encoder_digest
        assert all(map(torch.equal, theirs.stream.keys, ours.stream.keys))
        assert all(map(torch.equal, theirs.stream.values, ours.stream.values))
        assert theirs.digest != ours.digest


def test_the_encoder_is_rebuilt_from_its_file(tmp_path):
    adapter = load_sdxl_adapter(ip_files.write(tmp_path / "a.safetensors", small()))
    rebuild, arguments = adapter.encoder.cached_patcher_init
    again = rebuild(*arguments, disable_dynamic=True).model.state_dict()
    for key, tensor in adapter.encoder.model.state_dict().items():
        assert torch.equal(again[key], tensor)


def without(part):
    return {key: tensor for key, tensor in small().items() if part not in key}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        (without("mapping_3.4"), r"2 of \d+ tensors are missing \(mapping_3.4"),
        (without("id_adapter.body.0"), "has no tensor body.0.weight"),
        (without("attn_layers"), "half a PuLID adapter: 0 tensors begin with 'id_adapter_attn"),
        (without("3.id_to_v"), "2 keys and 1 values that fit"),
        (
            {**small(), "id_adapter_attn_layers.1.id_to_k.weight": torch.zeros(64, 24)},
            "weight .64, 24",
        ),
        ({**small(), "optimizer.step": torch.zeros(1)}, r"1 tensors that do not belong"),
        ({"pulid_ca.0.to_q.weight": torch.zeros(2, 2)}, "a PuLID adapter for Flux"),
        (
            {"image_proj.latents": torch.zeros(1, 4, 8)}
            | {"ip_adapter.1.to_k_ip.weight": torch.zeros(8, 8)},
            "an IP-Adapter for Stable Diffusion",
        ),
    ],
    ids=range(8),
)
def test_another_or_altered_file_is_refused(tmp_path, tensors, message):
    with pytest.raises(ValueError, match=message):
        load_sdxl_adapter(ip_files.write(tmp_path / "x.safetensors", tensors))
