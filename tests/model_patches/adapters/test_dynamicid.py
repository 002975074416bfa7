"""DynamicID's SAA file: both formats, all names of its parts, tokens as the authors' code makes
them, refusals."""

import dynamicid_files
import ip_files
import pytest
import torch
from flexid.model_patches.adapters.dynamicid import (
    load_dynamicid,
    load_face_encoder,
    make_face_tokens,
)
from flexid.model_patches.adapters.dynamicid_convert import convert_dynamicid
from flexid.model_patches.adapters.ip_adapter import load_ip_adapter
from safetensors.torch import load_file
from seeding import seeded_input

pytestmark = pytest.mark.comfy

WIDTHS = [32, 64]
PUBLISHED = ("SAA_module", "proj_module")
NAMES = [
    PUBLISHED,
    ("adapter_modules", "proj_module"),
    ("ip_adapter", "image_proj"),
    ("SAA_module", "image_proj"),
]


@pytest.fixture(scope="module")
def parts():
    return dynamicid_files.attention(WIDTHS, 64, 4), dynamicid_files.projection(64, 40)


@pytest.fixture(scope="module")
def path(parts, tmp_path_factory):
    return dynamicid_files.write_saa(tmp_path_factory.mktemp("saa") / "SAA.bin", *parts)


@pytest.fixture(scope="module")
def adapter(path):
    return load_dynamicid(path)


# Tokens


@pytest.fixture(scope="module")
def full_size(tmp_path_factory):
    parts = dynamicid_files.attention([32]), dynamicid_files.projection()
    folder = tmp_path_factory.mktemp("full")
    return load_dynamicid(dynamicid_files.write_saa(folder / "SAA.bin", *parts))


def test_face_tokens_are_the_authors(full_size, golden):
    expected = load_file(golden / "dynamicid_proj.safetensors")
    face = torch.cat([torch.zeros(1, 512), seeded_input("id", (1, 512))])
    clip = torch.cat([seeded_input(name, (1, 257, 1280)) for name in ("clip_uncond", "clip")])
    close = {"atol": 1e-5, "rtol": 0}
    torch.testing.assert_close(make_face_tokens(full_size, face, clip), expected["out"], **close)
    module = full_size.encoder.model
    features = {"face": face, "patches": clip}
    assert module.shortcut is None
    module.shortcut = 1.0
    try:
        torch.testing.assert_close(module(features), expected["out_shortcut"], **close)
    finally:
        module.shortcut = None


def test_the_length_of_an_embedding_does_not_matter(adapter):
    face, clip = seeded_input("id", (1, 512)), seeded_input("clip", (1, 257, 40))
    tokens = make_face_tokens(adapter, face, clip)
    assert tokens.shape == (1, 4, 64)
    torch.testing.assert_close(make_face_tokens(adapter, 20 * face, clip), tokens)


# Formats


def test_what_is_read_of_a_file(adapter, parts):
    assert [key.shape[0] for key in adapter.stream.keys] == WIDTHS
    assert torch.equal(adapter.stream.values[1], parts[0]["3.to_v_ip.weight"])
    assert adapter.lora.keys() == {key for key in parts[0] if "_lora." in key}
    assert (adapter.tokens, adapter.width, adapter.face, adapter.clip) == (4, 64, 512, 40)
    assert adapter.describe() == (
        "DynamicID SAA: 2 blocks, text of 64 channels, 4 face tokens, LoRA of rank 4 on 4 "
        "attention layers"
    )


@pytest.mark.parametrize("names", NAMES, ids="-".join)
@pytest.mark.parametrize("suffix", [".bin", ".safetensors"])
def test_every_name_of_the_parts_is_read_from_both_formats(parts, adapter, tmp_path, names, suffix):
    path = dynamicid_files.write_saa(tmp_path / f"x{suffix}", *parts, names)
    found = load_dynamicid(path)
    assert found.encoder_digest == adapter.encoder_digest
    assert all(map(torch.equal, found.stream.keys, adapter.stream.keys))
    assert all(torch.equal(value, adapter.lora[key]) for key, value in found.lora.items())


def test_comfyui_can_rebuild_the_encoder_from_the_file(adapter):
    make, arguments = adapter.encoder.cached_patcher_init
    assert make is load_face_encoder
    again = make(*arguments, disable_dynamic=True).model.state_dict()
    for key, value in adapter.encoder.model.state_dict().items():
        assert torch.equal(value, again[key]), key


def test_half_precision_files_are_read(parts, tmp_path):
    halves = [{key: value.half() for key, value in part.items()} for part in parts]
    found = load_dynamicid(dynamicid_files.write_saa(tmp_path / "x.bin", *halves))
    assert found.stream.keys[0].dtype == torch.float16
    clip = seeded_input("clip", (1, 257, 40))
    assert make_face_tokens(found, torch.ones(1, 512), clip).isfinite().all()


def test_a_converted_file_holds_the_same(path, adapter, tmp_path):
    target = convert_dynamicid(path, tmp_path / "SAA.safetensors")
    assert "SAA_module.0.to_q_lora.down.weight" in load_file(target)
    found = load_dynamicid(target)
    assert found.encoder_digest == adapter.encoder_digest
    assert all(
        torch.equal(one, two)
        for one, two in zip(found.stream.values, adapter.stream.values, strict=True)
    )
    with pytest.raises(FileExistsError, match="nothing is overwritten"):
        convert_dynamicid(path, target)
    with pytest.raises(ValueError, match="is the file .* that is converted"):
        convert_dynamicid(target, target)


def test_only_dynamicid_is_converted(tmp_path):
    tensors = ip_files.tensors_of(ip_files.token_shapes("base"), ip_files.layer_shapes([32]))
    source = ip_files.write(tmp_path / "x.bin", tensors)
    with pytest.raises(ValueError, match="is an IP-Adapter .*Needed here: SAA.bin, IMR.bin"):
        convert_dynamicid(source, tmp_path / "y.safetensors")
    assert not (tmp_path / "y.safetensors").exists()


# Refusals


def altered(parts, tmp_path, change):
    attention, projection = (dict(part) for part in parts)
    change(attention, projection)
    return dynamicid_files.write_saa(tmp_path / "x.bin", attention, projection)


def set_nan(attention, _):
    attention["2.to_v_lora.up.weight"] = torch.full((64, 4), float("nan"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, p: a.pop("2.to_out_lora.up.weight"), "1 of 36 tensors are missing .2.to_out_l"),
        (lambda a, p: a.pop("3.to_v_ip.weight"), "1 of 36 tensors are missing .3.to_v_ip"),
        (lambda a, p: a.update({"9.x.weight": torch.ones(1)}), "1 tensors do not belong.*9.x"),
        (
            lambda a, p: a.update({"1.to_k_lora.down.weight": torch.ones(4, 63)}),
            r"1 tensors have another shape .*\(4, 63\), expected \(4, 64\)",
        ),
        (set_nan, "NaN or infinite values in 1 of 36 tensors"),
        (lambda a, p: p.pop("norm.bias"), "tensors are missing .norm.bias"),
        (lambda a, p: a.clear(), "is half a DynamicID adapter: 0 tensors begin with 'SAA_module"),
    ],
    ids=["no LoRA half", "no values", "foreign", "misshapen", "NaN", "no norm", "no attention"],
)
def test_damaged_files_are_refused(parts, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        load_dynamicid(altered(parts, tmp_path, change))


def test_other_kinds_of_files_are_named(parts, path, tmp_path):
    for variant, message in (("base", "is an IP-Adapter"), ("faceid", "FaceID, which reads face;")):
        shapes = ip_files.layer_shapes(WIDTHS, 768, 4 if variant == "faceid" else 0)
        tensors = ip_files.tensors_of(ip_files.token_shapes(variant), shapes)
        with pytest.raises(ValueError, match=message):
            load_dynamicid(ip_files.write(tmp_path / f"{variant}.bin", tensors))
    with pytest.raises(ValueError, match="is a DynamicID adapter.*Load DynamicID node"):
        load_ip_adapter(path)
    both = dynamicid_files.write_saa(tmp_path / "both.safetensors", *parts)
    doubled = load_file(both) | {"ip_adapter.1.to_k_ip.weight": torch.ones(2, 2)}
    with pytest.raises(ValueError, match="tensors under 3 prefixes"):
        load_dynamicid(ip_files.write(tmp_path / "three.safetensors", doubled))
