"""Identities as files: bit-exact round trips, atomic writes, and refusals."""

import io
import json
import os

import pytest
import torch
from flexid.model_patches.files import atomic
from flexid.model_patches.identity.identity import Encoding, Identity
from flexid.model_patches.identity.store import load_identity, save_identity, save_numbered
from identities import identity_of
from PIL import Image
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.pure


@pytest.fixture
def identity():
    generator = torch.Generator().manual_seed(1)
    pulid = Encoding(
        "pulid_flux",
        "ab" * 32,
        torch.randn(1, 32, 256, generator=generator),
        torch.randn(1, 32, 256, generator=generator),
        {"motion": torch.randn(3, 4, generator=generator)},
        {"adapter": "pulid.safetensors", "whitening": "parsed"},
    )
    return Identity(
        {"pulid_flux": pulid},
        {"arcface": torch.randn(2, 512, generator=generator)},
        torch.randint(0, 256, (48, 64, 3), generator=generator).to(torch.uint8),
        {"photos": "höhe, 人"},
    )


def _same(got, expected):
    assert got.keys() == expected.keys()
    for key in got:
        assert got[key].dtype == expected[key].dtype and torch.equal(got[key], expected[key])


def _same_encodings(got, expected):
    assert got.keys() == expected.keys()
    for family, one in got.items():
        other = expected[family]
        assert (one.family, one.encoder, one.recipe) == (family, other.encoder, other.recipe)
        assert torch.equal(one.tokens, other.tokens) and torch.equal(one.null, other.null)
        _same(one.extra, other.extra)


def test_round_trip(tmp_path, identity):
    loaded = load_identity(save_identity(identity, tmp_path / "ann.safetensors"))
    _same_encodings(loaded.encodings, identity.encodings)
    _same(loaded.features, identity.features)
    assert torch.equal(loaded.thumbnail, identity.thumbnail)
    assert loaded.provenance == identity.provenance


def test_without_features(tmp_path, identity):
    path = save_identity(identity, tmp_path / "ann.safetensors", with_features=False)
    loaded = load_identity(path)
    assert not loaded.features
    _same_encodings(loaded.encodings, identity.encodings)


def test_bare_identity(tmp_path, identity):
    bare = Identity(identity.encodings)
    loaded = load_identity(save_identity(bare, tmp_path / "bare.safetensors"))
    assert loaded.thumbnail is None and loaded.provenance == {} and loaded.features == {}
    assert loaded.picture.shape == (1, 64, 64, 3)


def test_views_and_shared_memory_are_saved(tmp_path, identity):
    whole = torch.randn(2, 32, 256)
    shared = identity_of({"a": whole[:1]}, {"a": whole[:1].transpose(0, 0)})
    loaded = load_identity(save_identity(shared, tmp_path / "x.safetensors"))
    assert torch.equal(loaded.encodings["a"].tokens, loaded.encodings["a"].null)


def test_file_can_be_replaced_while_loaded(tmp_path, identity):
    path = save_identity(identity, tmp_path / "ann.safetensors")
    loaded = load_identity(path)
    save_identity(identity_of({"a": torch.ones(1, 1, 1)}), tmp_path / "other").replace(path)
    _same_encodings(loaded.encodings, identity.encodings)
    assert list(load_identity(path).encodings) == ["a"]


def test_an_earlier_file_is_kept(tmp_path, identity):
    path = save_identity(identity, tmp_path / "ann.safetensors")
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match=r"ann\.safetensors exists already"):
        save_identity(Identity(), path)
    assert path.read_bytes() == before


def test_the_next_free_number_is_taken(tmp_path, identity):
    for taken in ("ann_00003_.safetensors", "ann_00004_.safetensors"):
        (tmp_path / taken).write_bytes(b"of the user")
    assert save_numbered(identity, tmp_path, "ann", 3).name == "ann_00005_.safetensors"
    assert save_numbered(identity, tmp_path, "ann", 100_000).name == "ann_100000_.safetensors"


def test_a_file_in_place_of_the_folder_ends_the_search(tmp_path, identity):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OSError, match="file"):
        save_numbered(identity, tmp_path / "file", "ann", 1)


def test_failed_write_leaves_no_litter(tmp_path, identity, monkeypatch):
    def broken(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(atomic.os, "link", broken)
    monkeypatch.setattr(atomic.os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        save_identity(identity, tmp_path / "ann.safetensors")
    assert not list(tmp_path.iterdir())


def _rewrite(path, change, metadata=None):
    """Change the tensors, the metadata or both of a saved identity."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        old = file.metadata()
    save_file(change(load_file(path)), path, {**old, **(metadata or {})})


def _drop(*keys):
    return lambda tensors: {k: t for k, t in tensors.items() if k not in keys}


def _put(part, value):
    return lambda tensors: {**tensors, f"encoding.pulid_flux.{part}": value}


def _png(width, height):
    buffer = io.BytesIO()
    Image.new("RGB", (width, height)).save(buffer, format="PNG")
    return torch.frombuffer(bytearray(buffer.getvalue()), dtype=torch.uint8)


BAD = {
    "newer": (_drop(), {"flexid.version": "3"}, ["format 3", "reads 1 to 2", "Update FlexID"]),
    "odd version": (_drop(), {"flexid.version": "one"}, ["format one", "Update"]),
    "no tokens": (_drop("encoding.pulid_flux.tokens"), {}, ["incomplete", "tokens of pulid_flux"]),
    "no null tokens": (
        _drop("encoding.pulid_flux.null"),
        {},
        ["null of pulid_flux", "Save the identity again"],
    ),
    "no encodings": (_drop(), {"flexid.encodings": "{}"}, ["incomplete", "0 encodings"]),
    "encodings of another type": (_drop(), {"flexid.encodings": "[1]"}, ["unreadable encodings"]),
    "an encoding of another type": (
        _drop(),
        {"flexid.encodings": '{"pulid_flux": 7}'},
        ["recipe of pulid_flux"],
    ),
    "deep JSON": (_drop(), {"flexid.encodings": "[" * 100_000}, ["unreadable encodings"]),
    "tokens with NaN": (_put("tokens", torch.full((1, 2, 3), torch.nan)), {}, ["up to nan"]),
    "tokens that overflow": (_put("tokens", torch.full((1, 2, 3), 1e38)), {}, ["1e+38", "1e+06"]),
    "null tokens with infinity": (_put("null", torch.full((1, 2, 3), torch.inf)), {}, ["inf"]),
    "whole numbers": (_put("tokens", torch.ones(1, 2, 3, dtype=torch.int64)), {}, ["int64"]),
    "fp8": (_put("tokens", torch.ones(1, 2, 3).to(torch.float8_e4m3fn)), {}, ["float8"]),
    "two people": (_put("tokens", torch.ones(2, 2, 3)), {}, ["(2, 2, 3)", "(1, tokens"]),
    "no rows": (_put("tokens", torch.ones(0, 2, 3)), {}, ["(0, 2, 3)"]),
    "no token": (_put("tokens", torch.ones(1, 0, 3)), {}, ["(1, 0, 3)"]),
    "one dimension": (_put("tokens", torch.ones(3)), {}, ["(3,)"]),
    "features with NaN": (
        lambda t: {**t, "features.arcface": torch.full((1, 512), torch.nan)},
        {},
        ["features arcface", "finite", "(1, 512)"],
    ),
    "a huge thumbnail": (
        lambda t: {**t, "thumbnail.png": _png(20_000, 10)},
        {},
        ["thumbnail of 20000x10", "4096"],
    ),
    "broken provenance": (_drop(), {"flexid.provenance": "{"}, ["unreadable provenance"]),
    "provenance of another type": (_drop(), {"flexid.provenance": "[1]"}, ["provenance"]),
    "broken thumbnail": (
        lambda t: {**t, "thumbnail.png": torch.zeros(9, dtype=torch.uint8)},
        {},
        ["unreadable thumbnail"],
    ),
    "metadata of another program": (
        _drop(),
        {"flexid.format": "mask"},
        ["not the metadata", "Save Identity node"],
    ),
    "another family": (
        lambda t: {"pulid_encoder.latents": torch.ones(1)},
        {"flexid.format": ""},
        ["a PuLID adapter for Flux", "Load Identity Adapter"],
    ),
    "a lora": (
        lambda t: {"x.lora_A.weight": torch.ones(1)},
        {"flexid.format": ""},
        ["a LoRA", "models/loras"],
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_refusals(tmp_path, identity, case):
    change, metadata, facts = BAD[case]
    path = save_identity(identity, tmp_path / "odd.safetensors")
    _rewrite(path, change, metadata)
    with pytest.raises(ValueError) as error:
        load_identity(path)
    for fact in ["odd.safetensors", *facts]:
        assert fact in str(error.value)


def test_cut_short(tmp_path, identity):
    path = save_identity(identity, tmp_path / "cut.safetensors")
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match="cut.safetensors is cut short"):
        load_identity(path)


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.safetensors.*Save Identity"):
        load_identity(tmp_path / "gone.safetensors")


def test_metadata_is_readable_by_others(tmp_path, identity):
    from safetensors import safe_open

    with safe_open(save_identity(identity, tmp_path / "x.safetensors"), "pt") as file:
        metadata = file.metadata()
    assert metadata["flexid.format"] == "identity" and metadata["flexid.version"] == "2"
    assert json.loads(metadata["flexid.provenance"])["photos"] == "höhe, 人"


def _version_1(path, tensors=None, **provenance):
    """A file as FlexID 0.1 wrote it."""
    held = {
        "tokens.pulid_flux": torch.ones(1, 2, 3),
        "unconditional.pulid_flux": torch.zeros(1, 2, 3),
        "features.arcface": torch.ones(1, 512),
        "features.eva_pooled": torch.ones(1, 768),
        "features.eva_hidden": torch.ones(1, 5, 4, 8).half(),
    }
    facts = {"adapter": "old.safetensors", "adapter_digest": "12", "photos": "p", **provenance}
    metadata = {
        "flexid.format": "identity",
        "flexid.version": "1",
        "flexid.provenance": json.dumps(facts),
    }
    save_file(held if tensors is None else tensors, path, metadata)
    return path


def test_version_1_still_loads_without_what_nothing_reads(tmp_path):
    loaded = load_identity(_version_1(tmp_path / "old.safetensors"))
    one = loaded.encodings["pulid_flux"]
    assert one.encoder == "" and one.recipe == {
        "adapter": "old.safetensors",
        "adapter_digest": "12",
    }
    assert torch.equal(one.tokens, torch.ones(1, 2, 3)) and not one.null.any()
    assert list(loaded.features) == ["arcface"] and loaded.provenance["photos"] == "p"
    again = load_identity(save_identity(loaded, tmp_path / "new.safetensors"))
    _same_encodings(again.encodings, loaded.encodings)


def test_half_a_version_1_file_is_refused(tmp_path):
    path = _version_1(tmp_path / "half.safetensors", {"tokens.pulid_flux": torch.ones(1, 2, 3)})
    with pytest.raises(ValueError, match="unconditional tokens for nothing"):
        load_identity(path)


def test_half_precision_tokens_become_float32(tmp_path, identity):
    path = save_identity(identity, tmp_path / "x.safetensors")
    _rewrite(path, _put("tokens", torch.ones(1, 2, 3, dtype=torch.bfloat16)))
    tokens = load_identity(path).encodings["pulid_flux"].tokens
    assert tokens.dtype == torch.float32 and torch.equal(tokens, torch.ones(1, 2, 3))


def test_a_default_file_is_small(tmp_path, identity):
    """Tokens, 2 KB of features a photo, a thumbnail: nothing that nothing reads."""
    path = save_identity(identity, tmp_path / "x.safetensors")
    tokens = 2 * identity.encodings["pulid_flux"].tokens.numel() * 4
    assert path.stat().st_size < tokens + 2 * 512 * 4 + 20_000


@pytest.mark.skipif(os.name == "nt", reason="POSIX permissions")
def test_a_new_file_has_ordinary_permissions(tmp_path, identity):
    before = os.umask(0o022)
    try:
        path = save_identity(identity, tmp_path / "x.safetensors")
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644
