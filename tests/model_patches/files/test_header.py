"""What a file says about itself, and which of many a combo preselects."""

import json
import os

import pytest
import torch
from flexid.model_patches.files import header
from flexid.model_patches.files.header import best_first, is_kind, peek
from safetensors.torch import save_file

pytestmark = pytest.mark.pure

PULID = {"pulid_ca.0.norm1.weight": torch.zeros(4), "pulid_encoder.x": torch.zeros(2, 3)}
VAE = {"decoder.conv_in.weight": torch.zeros(2)}


@pytest.fixture
def folder(tmp_path):
    save_file(PULID, tmp_path / "pulid.safetensors", metadata={"by": "test"})
    save_file(VAE, tmp_path / "vae.safetensors")
    torch.save(PULID, tmp_path / "pulid.pt")
    torch.save({"state_dict": PULID}, tmp_path / "wrapped.bin")
    return tmp_path


@pytest.mark.parametrize("name", ["pulid.safetensors", "pulid.pt", "wrapped.bin"])
def test_names_and_shapes_are_read(folder, name):
    found = peek(folder / name)
    assert found.shapes == {key: tuple(value.shape) for key, value in PULID.items()}
    assert found.kind == "pulid_flux"


def test_metadata_is_read_and_an_unknown_file_has_no_kind(folder):
    assert peek(folder / "pulid.safetensors").metadata == {"by": "test"}
    save_file({"x": torch.zeros(1)}, folder / "x.safetensors")
    assert peek(folder / "x.safetensors").kind == ""


def test_the_content_is_not_read(folder):
    """A file of 64 GiB by its header, with a hole where the content would be."""
    count = 1 << 34
    text = json.dumps(
        {"pulid_ca.0.w": {"dtype": "F32", "shape": [count], "data_offsets": [0, 4 * count]}}
    ).encode()
    path = folder / "huge.safetensors"
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        try:
            os.truncate(path, 8 + len(text) + 4 * count)
        except OSError:
            pytest.skip("the file system has no files of that size")
    assert peek(path).shapes == {"pulid_ca.0.w": (count,)}


def _text(entries):
    text = json.dumps(entries).encode()
    return len(text).to_bytes(8, "little") + text


def test_what_cannot_be_read_is_no_error(folder):
    damaged = {
        "empty": b"",
        "page": b"<!doctype html><html></html>",
        "cut": (folder / "pulid.safetensors").read_bytes()[:-4],
        "zip": (folder / "pulid.pt").read_bytes()[:90],
        "header": (1 << 40).to_bytes(8, "little") + b"{",
        "list": (2).to_bytes(8, "little") + b"[]",
        "no shapes": (8).to_bytes(8, "little") + b'{"a": 1}',
        "endless": _text({"a": {"shape": [1e400], "data_offsets": [0, 0]}}),
        "many": _text({str(i): {"shape": [], "data_offsets": [0, 0]} for i in range(20_001)}),
        "deep": (50_000).to_bytes(8, "little") + b"[" * 50_000,
    }
    for name, content in damaged.items():
        (folder / name).write_bytes(content)
        assert peek(folder / name) is None, name
    (folder / "below").mkdir()
    os.mkfifo(folder / "pipe")
    for name in ("below", "pipe", "absent"):
        assert peek(folder / name) is None, name


def test_a_file_is_read_again_only_when_it_changes(folder, monkeypatch):
    path, reads = folder / "vae.safetensors", []
    real = header.check_regular
    monkeypatch.setattr(header, "check_regular", lambda one: reads.append(one) or real(one))
    for _ in range(3):
        assert peek(path).kind == "vae"
    assert len(reads) == 1
    save_file(PULID, path)
    assert peek(path).kind == "pulid_flux" and len(reads) == 2


def test_the_first_that_fits_stands_first_and_the_rest_keep_their_order(folder):
    names = ["page.txt", "vae.safetensors", "wrapped.bin", "pulid.safetensors"]
    (folder / "page.txt").write_text("no weights")
    paths = folder.__truediv__
    assert best_first(names, paths, [is_kind("pulid_flux")]) == [
        "wrapped.bin",
        "page.txt",
        "vae.safetensors",
        "pulid.safetensors",
    ]
    assert best_first(names, paths, map(is_kind, ("vae", "pulid_flux")))[0] == "vae.safetensors"
    assert best_first(names, paths, [is_kind("lora")]) == names
