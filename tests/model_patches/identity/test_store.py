"""Identities as files: bit-exact round trips, atomic writes, and refusals."""

import json

import pytest
import torch
from flexid.model_patches.identity import store
from flexid.model_patches.identity.identity import Identity
from flexid.model_patches.identity.store import load_identity, save_identity
from safetensors.torch import load_file, save_file

pytestmark = pytest.mark.pure


@pytest.fixture
def identity():
    generator = torch.Generator().manual_seed(1)
    return Identity(
        tokens={"pulid_flux": torch.randn(1, 32, 256, generator=generator)},
        unconditional={"pulid_flux": torch.randn(1, 32, 256, generator=generator)},
        features={
            "arcface": torch.randn(2, 512, generator=generator),
            "eva_hidden": torch.randn(2, 5, 65, 128, generator=generator).half(),
        },
        thumbnail=torch.randint(0, 256, (48, 64, 3), generator=generator).to(torch.uint8),
        provenance={"adapter": "pulid.safetensors", "photos": "höhe, 人"},
    )


def _same(got, expected):
    assert got.keys() == expected.keys()
    for key in got:
        assert got[key].dtype == expected[key].dtype and torch.equal(got[key], expected[key])


def test_round_trip(tmp_path, identity):
    loaded = load_identity(save_identity(identity, tmp_path / "ann.safetensors"))
    _same(loaded.tokens, identity.tokens)
    _same(loaded.unconditional, identity.unconditional)
    _same(loaded.features, identity.features)
    assert torch.equal(loaded.thumbnail, identity.thumbnail)
    assert loaded.provenance == identity.provenance


def test_without_features(tmp_path, identity):
    path = save_identity(identity, tmp_path / "ann.safetensors", with_features=False)
    loaded = load_identity(path)
    assert not loaded.features
    _same(loaded.tokens, identity.tokens)


def test_bare_identity(tmp_path, identity):
    bare = Identity(identity.tokens, identity.unconditional)
    loaded = load_identity(save_identity(bare, tmp_path / "bare.safetensors"))
    assert loaded.thumbnail is None and loaded.provenance == {} and loaded.features == {}
    assert loaded.picture.shape == (1, 64, 64, 3)


def test_views_and_shared_memory_are_saved(tmp_path, identity):
    whole = torch.randn(2, 32, 256)
    shared = Identity({"a": whole[:1]}, {"a": whole[:1].transpose(0, 0)})
    loaded = load_identity(save_identity(shared, tmp_path / "x.safetensors"))
    assert torch.equal(loaded.tokens["a"], loaded.unconditional["a"])


def test_file_can_be_replaced_while_loaded(tmp_path, identity):
    path = save_identity(identity, tmp_path / "ann.safetensors")
    loaded = load_identity(path)
    save_identity(Identity({"a": torch.ones(1, 1, 1)}, {"a": torch.ones(1, 1, 1)}), path)
    _same(loaded.tokens, identity.tokens)
    assert list(load_identity(path).tokens) == ["a"]


def test_failed_write_leaves_the_old_file_and_no_litter(tmp_path, identity, monkeypatch):
    path = save_identity(identity, tmp_path / "ann.safetensors")
    before = path.read_bytes()

    def broken(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(store.os, "replace", broken)
    with pytest.raises(OSError, match="disk full"):
        save_identity(Identity({}, {}), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["ann.safetensors"]


def _rewrite(path, change, metadata=None):
    """Change the tensors, the metadata or both of a saved identity."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        old = file.metadata()
    save_file(change(load_file(path)), path, {**old, **(metadata or {})})


def _drop(*keys):
    return lambda tensors: {k: t for k, t in tensors.items() if k not in keys}


BAD = {
    "newer": (_drop(), {"flexid.version": "2"}, ["format 2", "up to 1", "Update FlexID"]),
    "odd version": (_drop(), {"flexid.version": "one"}, ["format one", "Update"]),
    "no tokens": (_drop("tokens.pulid_flux"), {}, ["tokens for nothing", "pulid_flux"]),
    "no unconditional": (
        _drop("unconditional.pulid_flux"),
        {},
        ["unconditional tokens for nothing", "Save the identity again"],
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
    assert metadata["flexid.format"] == "identity" and metadata["flexid.version"] == "1"
    assert json.loads(metadata["flexid.provenance"])["photos"] == "höhe, 人"
