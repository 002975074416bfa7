"""Reading weight files: what works, and what a broken one is called."""

import pickle
import struct
import zipfile

import pytest
import torch
from flexid.model_patches.files import tensor_file
from flexid.model_patches.files.tensor_file import digest, read_weights, tensors_digest
from safetensors.torch import save, save_file

pytestmark = pytest.mark.pure

WANTED = "good.safetensors from https://example.org, in models/good"
TENSORS = {"a.weight": torch.arange(6.0).reshape(2, 3), "b": torch.ones(2, dtype=torch.float16)}


class Code:
    def __reduce__(self):
        return (print, ("never shown",))


def _save_pickle(path, value, **options):
    torch.save(value, path, **options)


def test_safetensors_with_metadata(tmp_path):
    save_file(TENSORS, tmp_path / "x.safetensors", {"who": "me"})
    file = read_weights(tmp_path / "x.safetensors", WANTED)
    assert file.metadata == {"who": "me"}
    assert file.shapes == {"a.weight": (2, 3), "b": (2,)}
    assert file.tensors["a.weight"].equal(TENSORS["a.weight"])
    assert file.tensors["b"].dtype == torch.float16


@pytest.mark.parametrize("wrapper", ["model", "module", "state_dict", None])
@pytest.mark.parametrize("zipped", [True, False])
def test_torch_files_are_unwrapped(tmp_path, wrapper, zipped):
    inner = {f"module.{key}": tensor for key, tensor in TENSORS.items()}
    value = {wrapper: inner, "epoch": 3} if wrapper else inner
    _save_pickle(tmp_path / "x.pt", value, _use_new_zipfile_serialization=zipped)
    file = read_weights(tmp_path / "x.pt", WANTED)
    assert file.shapes == {"a.weight": (2, 3), "b": (2,)}
    assert file.tensors["a.weight"].equal(TENSORS["a.weight"])


def test_nested_groups_are_flattened(tmp_path):
    _save_pickle(tmp_path / "x.bin", {"image_proj": {"latents": torch.ones(1)}, "step": 7})
    assert list(read_weights(tmp_path / "x.bin", WANTED).tensors) == ["image_proj.latents"]


def test_format_is_told_by_content_not_by_name(tmp_path):
    save_file(TENSORS, tmp_path / "x.pt")
    _save_pickle(tmp_path / "y.safetensors", TENSORS)
    assert len(read_weights(tmp_path / "x.pt", WANTED).tensors) == 2
    assert len(read_weights(tmp_path / "y.safetensors", WANTED).tensors) == 2


def _zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")


def _cut(data, share):
    return data[: int(len(data) * share)]


OLD = {"_use_new_zipfile_serialization": False}


def _torch_bytes(tmp_path, **options):
    _save_pickle(tmp_path / "source", {"a": torch.randn(4000)}, **options)
    return (tmp_path / "source").read_bytes()


BROKEN = {
    "empty": (lambda p, t: p.write_bytes(b""), ["empty", "0 bytes"]),
    "web page": (
        lambda p, t: p.write_bytes(b"\n<!DOCTYPE html><html>Sign in</html>"),
        ["web page"],
    ),
    "web page without doctype": (lambda p, t: p.write_bytes(b"<HTML>404"), ["web page"]),
    "git-lfs pointer": (
        lambda p, t: p.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0"),
        ["git-lfs pointer"],
    ),
    "gguf": (lambda p, t: p.write_bytes(b"GGUF" + bytes(60)), ["GGUF"]),
    "text": (lambda p, t: p.write_bytes(b"hello, this is not a model"), ["neither", "hello, t"]),
    "zeros": (lambda p, t: p.write_bytes(bytes(4096)), ["no readable safetensors header"]),
    "header is not json": (
        lambda p, t: p.write_bytes(struct.pack("<Q", 16) + b"{" * 16),
        ["no readable safetensors header"],
    ),
    "safetensors cut in the data": (
        lambda p, t: p.write_bytes(_cut(save({"a": torch.zeros(1000)}), 0.5)),
        ["cut short", "expected at least 4"],
    ),
    "safetensors cut in the header": (
        lambda p, t: p.write_bytes(save({"a": torch.zeros(1000)})[:20]),
        ["cut short", "20 bytes"],
    ),
    "safetensors with a gap": (
        lambda p, t: p.write_bytes(save({"a": torch.zeros(10)}) + bytes(100)),
        ["damaged safetensors"],
    ),
    "torch zip cut": (
        lambda p, t: p.write_bytes(_cut(_torch_bytes(t), 0.7)),
        ["cut short or damaged"],
    ),
    "old torch file cut": (
        lambda p, t: p.write_bytes(_cut(_torch_bytes(t, **OLD), 0.7)),
        ["cut short"],
    ),
    "other zip": (lambda p, t: _zip(p), ["zip archive", "Unpack"]),
    "pickle with code": (
        lambda p, t: _save_pickle(p, {"a": Code()}),
        ["wants to run code", "print", "was not opened"],
    ),
    "old pickle with code": (
        lambda p, t: _save_pickle(p, {"a": Code()}, **OLD),
        ["wants to run code", "was not opened"],
    ),
    "damaged pickle": (
        lambda p, t: p.write_bytes(b"\x80\x02" + bytes(range(200))),
        ["cut short or damaged"],
    ),
    "bare pickle with code": (
        lambda p, t: p.write_bytes(pickle.dumps(Code(), protocol=2)),
        ["was not opened"],
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_files_are_named(tmp_path, capsys, case):
    write, facts = BROKEN[case]
    path = tmp_path / "broken.pt"
    write(path, tmp_path)
    with pytest.raises(ValueError) as error:
        read_weights(path, WANTED)
    for fact in ["broken.pt", WANTED, *facts]:
        assert fact in str(error.value)
    assert "never shown" not in capsys.readouterr().out


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.pt does not exist. Needed: good"):
        read_weights(tmp_path / "gone.pt", WANTED)


def test_digest_follows_the_content_not_the_name(tmp_path):
    for name, data in [("a", b"same"), ("b", b"same"), ("c", b"sane")]:
        (tmp_path / name).write_bytes(data)
    assert digest(tmp_path / "a") == digest(tmp_path / "b") != digest(tmp_path / "c")


def test_digest_of_large_files_samples_evenly(tmp_path, monkeypatch):
    monkeypatch.setattr(tensor_file, "_SMALL", 1 << 20)
    data = bytearray(12 << 20)
    path = tmp_path / "large"
    path.write_bytes(data)
    digests = {digest(path)}
    block = len(data) // 64
    for position in [0, 5 * block, 63 * block, len(data) - 1]:
        changed = bytearray(data)
        changed[position] = 1
        path.write_bytes(changed)
        digests.add(digest(path))
    path.write_bytes(data + b"\0")
    digests.add(digest(path))
    assert len(digests) == 6


def test_tensors_digest_ignores_the_file_around_them(tmp_path):
    save_file(TENSORS, tmp_path / "x.safetensors", {"who": "me"})
    _save_pickle(tmp_path / "y.pt", {"model": dict(reversed(TENSORS.items()))})
    names = ("x.safetensors", "y.pt")
    digests = [tensors_digest(read_weights(tmp_path / name, WANTED).tensors) for name in names]
    assert digests[0] == digests[1] == tensors_digest(TENSORS)


def test_tensors_digest_follows_key_type_shape_and_content():
    tensor = torch.arange(6.0)
    variants = (
        {"a": tensor},
        {"b": tensor},
        {"a": tensor.half()},
        {"a": tensor.reshape(2, 3)},
        {"a": tensor + 1},
        {"a": tensor, "b": tensor},
        {"a": tensor[:0]},
    )
    assert len({tensors_digest(tensors) for tensors in variants}) == len(variants)
    strided = torch.stack((tensor, tensor), dim=1)[:, 0]
    assert tensors_digest({"a": strided}) == tensors_digest({"a": tensor})


def test_tensors_digest_samples_large_tensors_evenly():
    size = 12 << 20
    digests = {tensors_digest({"a": torch.zeros(size, dtype=torch.uint8)})}
    for position in [0, size // 63, 31 * size // 63, size - 1]:
        tensor = torch.zeros(size, dtype=torch.uint8)
        tensor[position] = 1
        digests.add(tensors_digest({"a": tensor}))
    assert len(digests) == 5
